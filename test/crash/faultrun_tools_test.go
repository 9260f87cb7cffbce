//go:build tools

package crash_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"attestcsr/server"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// A scenario is what the service does on a disk: a start, changes, a stop.
type scenario struct {
	name  string
	first bool // on an empty disk, with the built-in admin
	steps []step
}

func scenarios() []scenario {
	return []scenario{
		{name: "first start", first: true, steps: []step{createRequest("a")}},
		{name: "ESX", steps: []step{createCSR, createCSR, setCertificate, renewCertificate}},
		{name: "NSX", steps: []step{createRequest("a"), importCertificate("a"), createRequest("b"), deleteRequest("b")}},
	}
}

// faultSetup is what the runs of a scenario share.
type faultSetup struct {
	scenario
	options      start.Options
	disk         *faultfs.Disk // as every run finds it
	stored       stored        // what is on it
	ca           *certifier
	runs         string // a folder for the folders of runs
	count        atomic.Int64
	withoutFault []*faultfs.Disk // after runs in which nothing failed
}

func newFaultSetup(t *testing.T, sc scenario) *faultSetup {
	t.Helper()
	st := &faultSetup{scenario: sc, ca: newCertifier(t), runs: t.TempDir(), disk: faultfs.NewDisk()}
	st.options = start.Options{Binary: start.Binary(t), BuiltInAdmin: sc.first}
	if sc.first {
		st.stored = stored{installedName: unknown} // by the time that a server is ready
		return st
	}
	st.options.Config = start.Config(t, "")
	data := start.Prepare(t, st.options)
	found, err := inspect(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	st.stored = found.stored
	if st.disk, err = faultfs.Load(data); err != nil {
		t.Fatal(err)
	}
	return st
}

// folder makes a new one for a run.
func (st *faultSetup) folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(st.runs, fmt.Sprint(st.count.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// faultRun is one run of a scenario, on a disk of its own.
type faultRun struct {
	*faultSetup
	t        *testing.T
	what     string // for messages
	disk     *faultfs.Disk
	mount    *faultfs.Mount
	dir      string        // where the disk is mounted
	started  chan struct{} // closed when s is there
	begun    sync.Once
	s        *start.Instance
	password string // of the built-in admin
	stored   stored // what was acknowledged
	next     stored // what is there if the change under way happened; nil: there is none
}

// newRun mounts a copy of the disk.
func (st *faultSetup) newRun(t *testing.T, what string) *faultRun {
	t.Helper()
	return st.newRunOn(t, st.disk.Cut(faultfs.Everything()), what)
}

func (st *faultSetup) newRunOn(t *testing.T, disk *faultfs.Disk, what string) *faultRun {
	t.Helper()
	r := &faultRun{faultSetup: st, t: t, what: st.name + ", " + what, disk: disk, dir: st.folder(t), stored: st.stored, started: make(chan struct{})}
	var err error
	if r.mount, err = disk.Mount(r.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.mount.Close() }) // after a failure
	return r
}

func (st *faultSetup) launch(t *testing.T, dataDir string) *start.Instance {
	t.Helper()
	o := st.options
	o.DataDir = dataDir
	return start.Launch(t, o)
}

// start starts the service on the mount and waits until it serves.
func (r *faultRun) start() error {
	r.s = r.launch(r.t, r.dir)
	r.begun.Do(func() { close(r.started) })
	if err := r.s.WaitReady(); err != nil {
		return err
	}
	r.logIn(r.s)
	return nil
}

// logIn finds the password of a built-in admin, which is on the mount and so
// nothing that this process may read itself. After the first login it is only in
// memory, here as with an operator.
func (r *faultRun) logIn(s *start.Instance) {
	if !r.first {
		return
	}
	for range 2 { // the fault may meet this reader
		if out, err := exec.Command("cat", filepath.Join(s.DataDir, server.InitialPasswordFile)).Output(); err == nil {
			r.password = strings.TrimSpace(string(out))
		}
	}
	s.Password = r.password
}

// kill ends the process from within an operation.
func (r *faultRun) kill() {
	<-r.started
	_ = r.s.Cmd.Process.Kill() // it may have ended
}

// makeChange makes a change and reports whether it was answered with success. If not,
// next is what is there if it happened all the same.
func (r *faultRun) makeChange(next step) (c change, a start.Answer, made bool, err error) {
	r.t.Helper()
	if c, err = next(r.ca, r.stored); err != nil {
		r.t.Fatalf("%s: %v", r.what, err)
	}
	r.next = c.after
	after, a, err := c.send(r.s)
	if err != nil || a.Status != c.status {
		return c, a, false, err
	}
	r.stored, r.next = after, nil
	return c, a, true, nil
}

// makeChanges makes the changes until one is not answered with success. It returns
// that answer, or none.
func (r *faultRun) makeChanges() (start.Answer, error) {
	for _, next := range r.steps {
		if _, a, made, err := r.makeChange(next); !made {
			return a, err
		}
	}
	return start.Answer{}, nil
}

func (r *faultRun) end() {
	r.t.Helper()
	r.s.Kill()
	if err := r.mount.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// holds reports whether what is on a disk is what was acknowledged, with the change
// under way or without.
func (r *faultRun) holds(found stored) bool {
	return found.is(r.stored) || r.next != nil && found.is(r.next)
}

// check looks at what the run has left on a disk: a server gets ready on it, logs
// in, and has what was acknowledged; every record passes inspect.
func (r *faultRun) check(what string, d *faultfs.Disk, restart bool) {
	r.t.Helper()
	what = r.what + ": " + what
	dir := r.folder(r.t)
	if err := d.Save(dir); err != nil {
		r.t.Fatal(err)
	}
	if restart {
		s := r.launch(r.t, dir)
		if err := s.WaitReady(); err != nil {
			r.t.Errorf("%s: %v", what, err)
			return
		}
		r.logIn(s)
		if a, err := s.Do("GET", "/readyz", ""); err != nil || a.Status != http.StatusOK {
			r.t.Errorf("%s: readiness %d %s %v", what, a.Status, a.Body, err)
		}
		found, err := view(s)
		if err != nil || !r.holds(found) {
			r.t.Errorf("%s: the server has %s\nacknowledged was %s\nunder way was %s\n%v", what, found, r.stored, r.next, err)
		}
		quiet(r.t, what, s)
		s.Kill()
	}
	found, err := inspect(r.t.Context(), dir)
	if err != nil || !r.holds(found.stored) {
		r.t.Errorf("%s: stored is %s\nacknowledged was %s\nunder way was %s\n%v", what, found.stored, r.stored, r.next, err)
	}
	// The one of this crash, and one whose removal a power cut took back.
	if left, err := filepath.Glob(filepath.Join(dir, ".*.tmp")); err != nil || len(left) > 2 {
		r.t.Errorf("%s: left behind: %q, %v", what, left, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		r.t.Error(err)
	}
}

// startDespiteFault starts the service. When the fault meets the start, it ends with
// a sentence, and the next one succeeds.
func (r *faultRun) startDespiteFault() bool {
	r.t.Helper()
	err := r.start()
	if err == nil {
		return true
	}
	if text := r.s.Stderr.String(); !strings.HasPrefix(text, "attestcsr: ") || r.s.Cmd.ProcessState.ExitCode() != 1 {
		r.t.Errorf("%s: no sentence: %v", r.what, err)
	}
	quiet(r.t, r.what, r.s)
	if err := r.start(); err != nil {
		r.t.Errorf("%s: the second start: %v", r.what, err)
		return false
	}
	return true
}

// retryChanges makes the changes, each again until it happened.
func (r *faultRun) retryChanges() {
	r.t.Helper()
	for _, next := range r.steps {
		for attempt := 0; ; attempt++ {
			c, a, made, err := r.makeChange(next)
			if made {
				break
			}
			if attempt == 3 {
				r.t.Errorf("%s: %s %s: still %d %s %v", r.what, c.method, c.path, a.Status, a.Body, err)
				return
			}
			if r.happened(c, a, err) {
				break
			}
		}
	}
}

// happened waits until the service is ready after a change that failed, and finds
// out whether it has happened all the same. It may have only where the log says
// that the outcome is unknown.
func (r *faultRun) happened(c change, a start.Answer, err error) bool {
	r.t.Helper()
	says := slices.ContainsFunc([]string{"INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "error_message", `"ERROR"`},
		func(text string) bool { return strings.Contains(a.Body, text) })
	if err != nil || a.Status != 500 && a.Status != 503 || !says {
		r.t.Errorf("%s: %s %s: no clear error: %d %s %v", r.what, c.method, c.path, a.Status, a.Body, err)
	}
	r.wantReady()
	found, err := view(r.s)
	switch {
	case err == nil && found.is(r.stored):
		r.next = nil
		return false
	case err == nil && found.is(r.next) && strings.Contains(r.s.Stdout.String(), "outcome unknown"):
		r.stored, r.next = found, nil
		return true
	}
	r.t.Errorf("%s: %s %s failed with %d %s\nand left %s %v\nbefore there was %s\n%s", r.what, c.method, c.path, a.Status, a.Body, found, err, r.stored, r.s.Stdout)
	return true
}

// wantReady waits until the service is ready.
func (r *faultRun) wantReady() {
	r.t.Helper()
	if !kit.Until(func() bool { return r.s.Answers(http.StatusOK, "/readyz") }) {
		r.t.Errorf("%s: the service does not get ready again", r.what)
	}
}

//go:build tools

package crash_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
		{name: "ESX", steps: []step{createCSR, setCertificate, renewCertificate, createCSR, deleteCSR}},
		{name: "NSX", steps: []step{createRequest("a"), importCertificate("a"), createRequest("b"), deleteRequest("b")}},
	}
}

// faultSetup is what the runs of a scenario share.
type faultSetup struct {
	scenario
	binary       string
	args         []string
	disk         *faultfs.Disk // as every run finds it
	stored       stored        // what is on it
	ca           *certifier
	runs         string // a folder for the folders of runs
	count        atomic.Int64
	withoutFault []*faultfs.Disk // after runs in which nothing failed
}

func newFaultSetup(t *testing.T, sc scenario) *faultSetup {
	t.Helper()
	binary := start.Binary(t)
	dir := t.TempDir()
	st := &faultSetup{scenario: sc, binary: binary, ca: newCertifier(t), runs: dir, stored: stored{}}
	if sc.first {
		st.stored = stored{installedName: unknown} // by the time that a server is ready
		kit.Overwrite(t, dir, "config.yaml", start.NoPool)
		st.args = []string{"--config", filepath.Join(dir, "config.yaml")}
		st.disk = faultfs.NewDisk()
		return st
	}
	st.args = settings(t, dir)
	data := prepare(t, binary, dir, st.args)
	var err error
	if st.stored, err = auditData(t.Context(), data); err != nil {
		t.Fatal(err)
	}
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

// start starts the service on the mount and waits until it serves.
func (r *faultRun) start() error {
	r.s = start.LaunchBinary(r.t, r.binary, r.dir, r.args...)
	r.begun.Do(func() { close(r.started) })
	if err := r.s.WaitReady(); err != nil {
		return err
	}
	r.logIn(r.s, r.dir)
	return nil
}

// logIn finds the password of a built-in admin, which is on the mount and so
// nothing that this process may read itself. After the first login it is only in
// memory, here as with an operator.
func (r *faultRun) logIn(s *start.Instance, dir string) {
	if !r.first {
		s.Password = testPassword
		return
	}
	for range 2 { // the fault may meet this reader
		if out, err := exec.Command("cat", filepath.Join(dir, server.InitialPasswordFile)).Output(); err == nil {
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

// makeChanges makes the changes until one is not answered with success.
func (r *faultRun) makeChanges() (status int, body string, err error) {
	for _, next := range r.steps {
		c, err := next(r.ca, r.stored)
		if err != nil {
			r.t.Fatalf("%s: %v", r.what, err)
		}
		r.next = c.after
		after, status, body, err := sendChange(r.s, c)
		if err != nil || status != c.status {
			return status, body, err
		}
		r.stored, r.next = after, nil
	}
	return 0, "", nil
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
// in, and has what was acknowledged; every record passes the audit.
func (r *faultRun) check(what string, d *faultfs.Disk, restart bool) {
	r.t.Helper()
	what = r.what + ": " + what
	dir := r.folder(r.t)
	if err := d.Save(dir); err != nil {
		r.t.Fatal(err)
	}
	if restart {
		s := start.LaunchBinary(r.t, r.binary, dir, r.args...)
		if err := s.WaitReady(); err != nil {
			r.t.Errorf("%s: %v", what, err)
			return
		}
		r.logIn(s, dir)
		if status, body, err := s.Do("GET", "/readyz", "", ""); err != nil || status != http.StatusOK {
			r.t.Errorf("%s: readiness %d %s %v", what, status, body, err)
		}
		found, err := view(s)
		if err != nil || !r.holds(found) {
			r.t.Errorf("%s: the server has %s\nacknowledged was %s\nunder way was %s\n%v", what, found, r.stored, r.next, err)
		}
		quiet(r.t, what, s)
		s.Kill()
	}
	found, err := auditData(r.t.Context(), dir)
	if err != nil || !r.holds(found) {
		r.t.Errorf("%s: stored is %s\nacknowledged was %s\nunder way was %s\n%v", what, found, r.stored, r.next, err)
	}
	// The one of this crash, and one whose removal a power cut took back.
	if found := temporary(r.t, dir); len(found) > 2 {
		r.t.Errorf("%s: left behind: %q", what, found)
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
			c, err := next(r.ca, r.stored)
			if err != nil {
				r.t.Fatalf("%s: %v", r.what, err)
			}
			r.next = c.after
			after, status, body, err := sendChange(r.s, c)
			if err == nil && status == c.status {
				r.stored, r.next = after, nil
				break
			}
			if attempt == 3 {
				r.t.Errorf("%s: %s %s: still %d %s %v", r.what, c.method, c.path, status, body, err)
				return
			}
			if r.happened(c, status, body, err) {
				break
			}
		}
	}
}

// happened waits until the service is ready after a change that failed, and finds
// out whether it has happened all the same. It may have only where the log says
// that the outcome is unknown.
func (r *faultRun) happened(c change, status int, body string, err error) bool {
	r.t.Helper()
	if err != nil || status != 500 && status != 503 || !strings.Contains(body, "INTERNAL_SERVER_ERROR") &&
		!strings.Contains(body, "SERVICE_UNAVAILABLE") && !strings.Contains(body, "error_message") && !strings.Contains(body, `"ERROR"`) {
		r.t.Errorf("%s: %s %s: no clear error: %d %s %v", r.what, c.method, c.path, status, body, err)
	}
	kit.Eventually(r.t, r.what+": ready", func() bool {
		status, _, err := r.s.Do("GET", "/readyz", "", "")
		return err == nil && status == http.StatusOK
	})
	found, err := view(r.s)
	switch {
	case err == nil && found.is(r.stored):
		r.next = nil
		return false
	case err == nil && found.is(r.next) && strings.Contains(r.s.Stdout.String(), "outcome unknown"):
		r.stored, r.next = found, nil
		return true
	}
	r.t.Errorf("%s: %s %s failed with %d %s\nand left %s %v\nbefore there was %s\n%s", r.what, c.method, c.path, status, body, found, err, r.stored, r.s.Stdout)
	return true
}

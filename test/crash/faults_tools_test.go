//go:build tools

package crash_test

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"attestcsr/server"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// A scenario is a life of the service on a disk: a start, changes, a stop.
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

// stage is what the runs of a scenario share.
type stage struct {
	scenario
	binary string
	args   []string
	disk   *faultfs.Disk // as every run finds it
	stored stored        // what is on it
	ca     *certifier
	runs   string // a folder for the folders of runs
	count  atomic.Int64
	whole  []*faultfs.Disk // after lives without a fault
}

func setStage(t *testing.T, sc scenario) *stage {
	t.Helper()
	binary := start.Binary(t)
	dir := t.TempDir()
	st := &stage{scenario: sc, binary: binary, ca: newCertifier(t), runs: dir, stored: stored{}}
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
func (st *stage) folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(st.runs, fmt.Sprint(st.count.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// life is one run of a scenario, on a disk of its own.
type life struct {
	*stage
	t        *testing.T
	what     string // for messages
	disk     *faultfs.Disk
	mount    *faultfs.Mount
	point    string
	started  chan struct{} // closed when s is there
	begun    sync.Once
	s        *start.Instance
	password string // of the built-in admin
	stored   stored // what was acknowledged
	next     stored // what is there if the change under way happened; nil: there is none
}

// begin mounts a copy of the disk.
func (st *stage) begin(t *testing.T, what string) *life {
	t.Helper()
	return st.beginOn(t, st.disk.Cut(faultfs.Everything()), what)
}

func (st *stage) beginOn(t *testing.T, disk *faultfs.Disk, what string) *life {
	t.Helper()
	r := &life{stage: st, t: t, what: st.name + ", " + what, disk: disk, point: st.folder(t), stored: st.stored, started: make(chan struct{})}
	var err error
	if r.mount, err = disk.Mount(r.point); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.mount.Close() }) // after a failure
	return r
}

// launch starts the service on the mount and waits until it serves.
func (r *life) launch() error {
	r.s = start.LaunchBinary(r.t, r.binary, r.point, r.args...)
	r.begun.Do(func() { close(r.started) })
	if err := r.s.WaitReady(); err != nil {
		return err
	}
	r.logIn(r.s, r.point)
	return nil
}

// logIn finds the password of a built-in admin, which is on the mount and so
// nothing that this process may read itself. After the first login it is only in
// memory, here as with an operator.
func (r *life) logIn(s *start.Instance, dir string) {
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
func (r *life) kill() {
	<-r.started
	_ = r.s.Cmd.Process.Kill() // it may have ended
}

// play makes the changes until one is not answered with success.
func (r *life) play() (status int, body string, err error) {
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

func (r *life) end() {
	r.t.Helper()
	r.s.Kill()
	if err := r.mount.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// holds reports whether what is on a disk is what was acknowledged, with the change
// under way or without.
func (r *life) holds(found stored) bool {
	return found.is(r.stored) || r.next != nil && found.is(r.next)
}

// check looks at what the run has left on a disk: a server gets ready on it, logs
// in, and has what was acknowledged; every record passes the audit.
func (r *life) check(what string, d *faultfs.Disk, restart bool) {
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

// length returns how many operations a fault can meet in a life without one: the
// least of three, since the audit trail is written when it is time, in more
// operations or fewer.
func (st *stage) length(t *testing.T, fault faultfs.Fault) int {
	t.Helper()
	for len(st.whole) < 3 {
		r := st.begin(t, "without a fault")
		if err := r.launch(); err != nil {
			t.Fatal(err)
		}
		if status, body, err := r.play(); err != nil || status != 0 {
			t.Fatalf("%s: %d %s %v", r.what, status, body, err)
		}
		if err := r.s.Stop(); err != nil {
			t.Fatal(err)
		}
		r.end()
		if len(st.whole) == 0 {
			r.check("after a clean stop", r.disk, true)
			r.check("after a clean stop and a power cut", r.disk.Cut(faultfs.Nothing()), true)
			kit.Count(t, "disk operations numbered", len(r.disk.Operations(faultfs.Changes()...)))
		}
		st.whole = append(st.whole, r.disk)
	}
	last := math.MaxInt
	for _, d := range st.whole {
		last = min(last, len(d.Operations(fault.Meets()...)))
	}
	return last
}

// walk calls fn with first to last, some at a time, in steps of stride.
func walk(first, last, stride int, fn func(n int)) {
	const together = 4
	var wg sync.WaitGroup
	numbers := make(chan int)
	for range together {
		wg.Go(func() {
			for n := range numbers {
				fn(n)
			}
		})
	}
	for n := first; n <= last; n += stride {
		numbers <- n
	}
	close(numbers)
	wg.Wait()
}

// TestKillAtEveryOperation ends the service at each operation on its disk. What the
// kernel had by then is there (SIGKILL), and after a power cut what was flushed,
// with nothing, all or some of the rest.
func TestKillAtEveryOperation(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			st := setStage(t, sc)
			last := st.length(t, faultfs.Kill)
			var fired, cuts atomic.Int64
			walk(1, last, 1, func(n int) {
				r := again(func() (*life, bool) { return st.killAt(t, n, last) })
				if r == nil {
					t.Errorf("%s: no life came to operation %d of %d", st.name, n, last)
					return
				}
				fired.Add(1)
				cuts.Add(int64(r.checkCrash(n)))
			})
			kit.Count(t, "kills", int(fired.Load()))
			kit.Count(t, "power cuts", int(cuts.Load()))
		})
	}
}

// again lives until the fault happened. How many operations there are depends a
// little on the moment in which the audit trail is written, so that the last may
// not come every time.
func again(live func() (*life, bool)) *life {
	for range 10 {
		if r, happened := live(); happened {
			return r
		}
	}
	return nil
}

// killAt lives the scenario to operation n, if it comes.
func (st *stage) killAt(t *testing.T, n, last int) (*life, bool) {
	t.Helper()
	r := st.begin(t, fmt.Sprintf("killed at operation %d of %d", n, last))
	r.disk.Arm(faultfs.Kill, n, faultfs.Nothing(), r.kill)
	if r.launch() == nil {
		if status, body, err := r.play(); status != 0 {
			t.Errorf("%s: %d %s %v", r.what, status, body, err)
		} else if err == nil {
			_ = r.s.Cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		}
	}
	<-r.s.Exited
	o, met := r.disk.Fired()
	if signal := r.s.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); met && signal != syscall.SIGKILL {
		t.Errorf("%s: the process ended with %v\n%s%s", r.what, r.s.Cmd.ProcessState, r.s.Stderr, r.s.Stdout)
	}
	r.what += " (" + o.String() + ")"
	r.end()
	return r, met
}

// checkCrash checks what is left of a life that ended at operation n: by its end,
// and by power cuts in the same moment. It returns how many of those there were. A
// start costs much on the disk of a first one, which makes keys and hashes: the
// short run takes the states in turn.
func (r *life) checkCrash(n int) (cuts int) {
	r.t.Helper()
	seeds := kit.Effort(2, 20)
	turn := func(i int) bool { return !r.first || seeds > 2 || n%3 == i }
	if turn(0) {
		r.check("after SIGKILL", r.disk, true)
	}
	if turn(1) {
		r.check("after a power cut that left only what was flushed", r.disk.Cut(faultfs.Nothing()), r.first || n%2 == 0)
		cuts++
	}
	for i := range seeds {
		if seed := n*seeds + i; turn(2) {
			r.check(fmt.Sprint("after a power cut, seed ", seed), r.disk.Cut(faultfs.Some(uint64(seed))), r.first || seed%8 == 1)
			cuts++
		}
	}
	return cuts
}

// TestFailingOperations fails each operation on the disk once, while the service
// goes on or is started again: errors are clear, nothing acknowledged is lost, not
// even when the power is cut afterwards, and a change that was refused as not
// committed has not happened.
func TestFailingOperations(t *testing.T) {
	t.Parallel()
	faults := []faultfs.Fault{faultfs.IOError, faultfs.NoSpace, faultfs.ShortWrite, faultfs.ReadError}
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			st := setStage(t, sc)
			for i, fault := range faults {
				t.Run(string(fault), func(t *testing.T) {
					last := st.length(t, fault)
					stride := kit.Effort(map[bool]int{true: 23, false: 11}[sc.first], 1)
					var fired atomic.Int64
					walk(1+i%stride, last, stride, func(n int) {
						if again(func() (*life, bool) { return st.fail(t, fault, n, last) }) == nil {
							t.Errorf("%s: no life came to operation %d of %d", st.name, n, last)
							return
						}
						fired.Add(1)
					})
					kit.Count(t, "faults fired", int(fired.Load()))
				})
			}
		})
	}
}

// fail lives the scenario with a fault at operation n and reports whether it
// happened.
func (st *stage) fail(t *testing.T, fault faultfs.Fault, n, last int) (*life, bool) {
	t.Helper()
	r := st.begin(t, fmt.Sprintf("%s at operation %d of %d", fault, n, last))
	r.disk.Arm(fault, n, faultfs.Some(uint64(n)), nil)
	if r.persist() {
		r.insist()
		if err := r.s.Stop(); err != nil && !strings.HasPrefix(r.s.Stderr.String(), "attestcsr: ") {
			r.what += " (no clean end)"
		}
	}
	o, fired := r.disk.Fired()
	r.what += " (" + o.String() + ")"
	quiet(t, r.what, r.s)
	r.end()
	if t.Failed() {
		t.Logf("%s\n%s", r.what, r.s.Stdout)
	}
	r.check("afterwards", r.disk, n%4 == 0)
	r.check("after a power cut", r.disk.Cut(faultfs.Nothing()), n%4 == 2)
	return r, fired
}

// persist starts the service, and again when the fault met the start: that is
// refused with a sentence, and with the disk well again it goes through.
func (r *life) persist() bool {
	r.t.Helper()
	err := r.launch()
	if err == nil {
		return true
	}
	if text := r.s.Stderr.String(); !strings.HasPrefix(text, "attestcsr: ") || r.s.Cmd.ProcessState.ExitCode() != 1 {
		r.t.Errorf("%s: no sentence: %v", r.what, err)
	}
	quiet(r.t, r.what, r.s)
	if err := r.launch(); err != nil {
		r.t.Errorf("%s: the second start: %v", r.what, err)
		return false
	}
	return true
}

// insist makes the changes, each again until it happened.
func (r *life) insist() {
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
func (r *life) happened(c change, status int, body string, err error) bool {
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

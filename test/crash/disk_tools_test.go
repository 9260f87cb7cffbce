//go:build tools

package crash_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// Disks that refuse for a while: changes get a clear error, readiness is false and
// says why in the log, and reads go on. When the disk works again, so does the
// service, without a restart.
func TestRefusingDisk(t *testing.T) {
	t.Parallel()
	writes := []faultfs.Kind{faultfs.Create, faultfs.Write, faultfs.Resize, faultfs.Allocate, faultfs.Mkdir, faultfs.Link, faultfs.Rename}
	for _, test := range []struct {
		name  string
		err   syscall.Errno
		kinds []faultfs.Kind
		log   string
	}{
		{"read-only", syscall.EROFS, faultfs.Changes(), "read-only file system"},
		{"full", syscall.ENOSPC, writes, "no space left on device"},
		{"over quota", syscall.EDQUOT, writes, "disk quota exceeded"},
		{"failing writes", syscall.EIO, writes, "input/output error"},
		{"failing flushes", syscall.EIO, []faultfs.Kind{faultfs.Flush}, "input/output error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			st := newFaultSetup(t, scenario{name: test.name})
			r := st.newRun(t, "refusing")
			if err := r.start(); err != nil {
				t.Fatal(err)
			}
			r.steps = []step{createRequest("a"), importCertificate("a"), createRequest("b")}
			r.retryChanges()
			// A commit of the trail that is refused halfway has an unknown outcome, after
			// which reads wait for the disk, too.
			r.s.WaitForLines()
			r.disk.Refuse(test.err, test.kinds...)
			for range 3 {
				r.refuses(createRequest("c"), test.log)
			}
			r.disk.Refuse(0, test.kinds...)
			r.wantReady()
			// What is read now is what the disk has: nothing that was refused.
			found, err := view(r.s)
			if err != nil || !found.is(r.stored) {
				t.Errorf("the server has %s, want %s, %v", found, r.stored, err)
			}
			r.steps = []step{createRequest("c"), importCertificate("b"), createCSR}
			r.retryChanges()
			if err := r.s.Stop(); err != nil {
				t.Errorf("exit: %v", err)
			}
			quiet(t, r.what, r.s)
			r.end()
			r.check("afterwards", r.disk, true)
			r.check("after a power cut", r.disk.Cut(faultfs.Nothing()), false)
			kit.Count(t, "disk operations refused", r.disk.Refusals())
		})
	}
}

// refuses makes a change that must fail as a failure of the service, leave reads as
// they were and readiness false.
func (r *faultRun) refuses(next step, log string) {
	r.t.Helper()
	c, err := next(r.ca, r.stored)
	if err != nil {
		r.t.Fatal(err)
	}
	_, a, err := c.send(r.s)
	if err != nil || a.Status != http.StatusInternalServerError && a.Status != http.StatusServiceUnavailable || !json.Valid([]byte(a.Body)) {
		r.t.Errorf("%s: %s %s: %d %s %v", r.what, c.method, c.path, a.Status, a.Body, err)
	}
	if !r.s.Answers(http.StatusServiceUnavailable, "/readyz") {
		r.t.Errorf("%s: readiness is not 503", r.what)
	}
	r.s.WantLog(log)
	if found, err := view(r.s); err != nil || !found.is(r.stored) {
		r.t.Errorf("%s: reads have %s, want %s, %v", r.what, found, r.stored, err)
	}
}

// A flush that fails once and then works: what the page cache shows may not be on
// the disk, and no later flush brings it there. Whatever the service answers and
// shows afterwards is what a power cut would leave.
func TestFlushFailsOnce(t *testing.T) {
	t.Parallel()
	st := newFaultSetup(t, scenario{name: "flush fails once", steps: []step{createRequest("a"), importCertificate("a"), createCSR, setCertificate}})
	last := st.length(t, faultfs.FlushError)
	var fired, unknownOutcomes atomic.Int64
	lucks := func(n int) []faultfs.Luck {
		return []faultfs.Luck{faultfs.Nothing(), faultfs.Everything(), faultfs.Some(uint64(n))}
	}
	rounds := kit.Effort(1, 3)
	walk(1, rounds*last, 1, func(i int) {
		n := (i-1)%last + 1
		r := untilFired(func() (*faultRun, bool) {
			r := st.newRun(t, fmt.Sprintf("flush %d of %d", n, last))
			r.disk.Arm(faultfs.FlushError, n, lucks(n)[(n+(i-1)/last)%3], nil)
			if !r.startDespiteFault() {
				return r, true
			}
			r.retryChanges()
			shown, err := view(r.s)
			if err != nil || !shown.is(r.stored) {
				t.Errorf("%s: the server has %s, want %s, %v", r.what, shown, r.stored, err)
			}
			r.check("after a power cut while it ran", r.disk.Cut(faultfs.Nothing()), false)
			_ = r.s.Stop() // whose own commit the fault may meet
			if strings.Contains(r.s.Stdout.String(), "commit outcome unknown") {
				unknownOutcomes.Add(1)
			}
			quiet(t, r.what, r.s)
			r.end()
			r.check("after a power cut at the end", r.disk.Cut(faultfs.Nothing()), false)
			_, met := r.disk.Fired()
			return r, met
		})
		if r == nil {
			t.Errorf("no run came to flush %d of %d", n, last)
			return
		}
		if o, _ := r.disk.Fired(); o.Kind == faultfs.Flush {
			fired.Add(1)
		}
	})
	kit.Count(t, "flushes failed once", int(fired.Load()))
	kit.Count(t, "commits of unknown outcome", int(unknownOutcomes.Load()))
}

// TestNoSockets: on a file system that takes no sockets the service works, and says what
// its operator has to do without one. So do commands.
func TestNoSockets(t *testing.T) {
	t.Parallel()
	r := newFaultSetup(t, scenario{name: "no sockets"}).newRun(t, "no sockets")
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	r.s.WantLog("there is no control socket: stop the service")
	verify := func() (string, error) {
		out, err := exec.Command(start.Binary(t), "audit", "verify", "--data-dir", r.s.DataDir).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err == nil || !strings.Contains(out, "has no control socket") {
		t.Errorf("beside the service: %v %s", err, out)
	}
	if err := r.s.Stop(); err != nil {
		t.Error(err)
	}
	if out, err := verify(); err != nil {
		t.Errorf("without the service: %v %s", err, out)
	}
	r.end()
}

//go:build tools

package crash_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
)

// length returns how many operations a fault can meet in a run without one. It is
// the least of three runs, since the audit trail takes more operations in one than in
// another.
func (st *faultSetup) length(t *testing.T, fault faultfs.Fault) int {
	t.Helper()
	for len(st.withoutFault) < 3 {
		r := st.newRun(t, "without a fault")
		if err := r.start(); err != nil {
			t.Fatal(err)
		}
		if a, err := r.makeChanges(); err != nil || a.Status != 0 {
			t.Fatalf("%s: %d %s %v", r.what, a.Status, a.Body, err)
		}
		if err := r.s.Stop(); err != nil {
			t.Fatal(err)
		}
		r.end()
		if len(st.withoutFault) == 0 {
			r.check("after a clean stop", r.disk, true)
			r.check("after a clean stop and a power cut", r.disk.Cut(faultfs.Nothing()), true)
			kit.Count(t, "disk operations numbered", len(r.disk.Operations(faultfs.Changes()...)))
		}
		st.withoutFault = append(st.withoutFault, r.disk)
	}
	last := math.MaxInt
	for _, d := range st.withoutFault {
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
			st := newFaultSetup(t, sc)
			last := st.length(t, faultfs.Kill)
			var fired, cuts atomic.Int64
			walk(1, last, 1, func(n int) {
				r := untilFired(func() (*faultRun, bool) { return st.killAt(t, n, last) })
				if r == nil {
					if n < last-last/8 { // the last ones may not come on a busy machine
						t.Errorf("%s: no run came to operation %d of %d", st.name, n, last)
					}
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

// untilFired runs until the fault happened. How many operations there are depends a
// little on the moment in which the audit trail is written, so that the last may not
// come every time.
func untilFired(run func() (*faultRun, bool)) *faultRun {
	for range 10 {
		if r, fired := run(); fired {
			return r
		}
	}
	return nil
}

// killAt runs the scenario to operation n, if it comes.
func (st *faultSetup) killAt(t *testing.T, n, last int) (*faultRun, bool) {
	t.Helper()
	r := st.newRun(t, fmt.Sprintf("killed at operation %d of %d", n, last))
	r.disk.Arm(faultfs.Kill, n, faultfs.Nothing(), r.kill)
	if r.start() == nil {
		if a, err := r.makeChanges(); a.Status != 0 {
			t.Errorf("%s: %d %s %v", r.what, a.Status, a.Body, err)
		} else if err == nil {
			_ = r.s.Cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		}
	}
	<-r.s.Exited
	o, met := r.disk.Fired()
	if met && !r.s.Killed() {
		t.Errorf("%s: the process ended with %v\n%s%s", r.what, r.s.Cmd.ProcessState, r.s.Stderr, r.s.Stdout)
	}
	r.what += " (" + o.String() + ")"
	r.end()
	return r, met
}

// checkCrash checks what a run that ended at operation n has left: as it is, and
// after power cuts in the same moment, whose number it returns. A first start takes
// long, since it makes keys and hashes: the short run checks one of the states after
// each.
func (r *faultRun) checkCrash(n int) (cuts int) {
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
			st := newFaultSetup(t, sc)
			for i, fault := range faults {
				t.Run(string(fault), func(t *testing.T) {
					last := st.length(t, fault)
					stride := kit.Effort(map[bool]int{true: 23, false: 11}[sc.first], 1)
					var fired atomic.Int64
					walk(1+i%stride, last, stride, func(n int) {
						if untilFired(func() (*faultRun, bool) { return st.failAt(t, fault, n, last) }) == nil {
							t.Errorf("%s: no run came to operation %d of %d", st.name, n, last)
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

// failAt runs the scenario with a fault at operation n and reports whether it
// happened.
func (st *faultSetup) failAt(t *testing.T, fault faultfs.Fault, n, last int) (*faultRun, bool) {
	t.Helper()
	r := st.newRun(t, fmt.Sprintf("%s at operation %d of %d", fault, n, last))
	r.disk.Arm(fault, n, faultfs.Some(uint64(n)), nil)
	if r.startDespiteFault() {
		r.retryChanges()
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

package pool

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// procs raises GOMAXPROCS, the number of goroutines that run at once, while keys are
// made.
//
// A thread under SCHED_IDLE that waits for a processor still counts against GOMAXPROCS,
// and a goroutine that makes a key runs for 10 ms before Go's scheduler stops it.
// Without more procs requests wait for key generation: a signature of 2 ms took 11 to 18
// ms beside two workers, and 57 ms beside keys for the queue (BenchmarkRefill, median,
// two processors; with more procs 3 and 5 ms). With a proc for each key in the making,
// the operating system decides who gets a processor, and it knows priorities.
//
// GOMAXPROCS is lowered quietTime after the last key. While it is high, each read takes
// 50 % more processor time: the scheduler spins and wakes threads for nothing.
//
// Once GOMAXPROCS was set, the runtime no longer follows changes of cgroup limits and
// affinity masks. SetDefaultGOMAXPROCS makes it look again: before each raise, and to
// lower.
type procs struct {
	count int  // processors at the start; the most keys made at once for the queue
	fixed bool // the environment sets GOMAXPROCS, and we leave it alone
	quota bool // a cgroup limits processor time rather than processors

	mu      sync.Mutex
	allowed int // workers, set before the first key is made
	making  int // keys
	raised  bool
	quiet   *time.Timer // lowers, unless keys are made
}

// quietTime is longer than the gaps between the requests of a busy client. Each change
// of GOMAXPROCS stops all goroutines for some ten microseconds.
const quietTime = time.Second

// newProcs counts the processors that are given; 0: those that the runtime found.
func newProcs(given int) *procs {
	found := runtime.GOMAXPROCS(0)
	n, err := strconv.Atoi(os.Getenv("GOMAXPROCS"))
	p := &procs{count: found, fixed: err == nil && n > 0, quota: found < runtime.NumCPU()}
	if given > 0 {
		p.count = given
	}
	p.quiet = time.AfterFunc(quietTime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.making == 0 {
			p.lower()
		}
	})
	return p
}

// workers returns how many workers there are by default: one for each processor. There
// is one fewer, so that requests have a processor, if the system refuses SCHED_IDLE, if
// the environment sets GOMAXPROCS, or if a cgroup limits processor time, which idle
// threads use up too.
func (p *procs) workers(idle bool) int {
	if idle && !p.fixed && !p.quota {
		return p.count
	}
	return max(1, p.count-1)
}

// begin is called before a key is made, and end after.
func (p *procs) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making++
	if p.raised || p.fixed {
		return
	}
	p.raised = true
	runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + p.allowed + p.count)
}

func (p *procs) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making--
	if p.making == 0 {
		p.quiet.Reset(quietTime)
	}
}

// lower gives GOMAXPROCS back to the runtime.
func (p *procs) lower() {
	if p.raised {
		p.raised = false
		runtime.SetDefaultGOMAXPROCS()
	}
}

// close lowers for good. No key is in the making any more.
func (p *procs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet.Stop()
	p.lower()
}

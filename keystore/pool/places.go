package pool

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// places is how many goroutines run at once (GOMAXPROCS), and what of it is the
// pool's.
//
// A thread under SCHED_IDLE keeps its place while it waits for a processor, and a
// goroutine that makes a key in the foreground keeps its own for 10 ms at a time.
// Requests that had to share the places with them would wait for what is meant to
// wait for them. So whatever makes keys gets places beside those that are there,
// and the operating system, which knows priorities, decides who gets a processor.
//
// They have them only while keys are made and for quietTime after: with more
// places than processors the scheduler spins and wakes threads for nothing, which
// cost a read half as much processor time again. Raising and lowering stop the
// world for some ten microseconds; the garbage collector does so in each of its
// cycles.
//
// Setting GOMAXPROCS ends the runtime's own following of cgroup limits and
// affinity masks. Lowering hands it back to the runtime; while it is raised,
// follow has the runtime find its default again (which knows every kind of
// cgroup) and raises that.
//
// GOMAXPROCS in the environment is the operator's word: it stays.
type places struct {
	given bool // by Options: processors does not follow
	fixed bool // GOMAXPROCS stays as it is
	quota bool // a cgroup limits processor time rather than processors

	mu         sync.Mutex
	processors int // how many there are without the pool's share
	share      int // of the workers; 0 is a pool that is off and raises nothing
	making     int // keys in the making
	raised     bool
	quiet      *time.Timer // lowers when nothing was made for quietTime
}

// quietTime is longer than the gaps between the requests of a busy client, so
// that places are not raised and lowered with each.
const quietTime = time.Second

func newPlaces(processors int) *places {
	found := runtime.GOMAXPROCS(0)
	n, err := strconv.Atoi(os.Getenv("GOMAXPROCS"))
	l := &places{
		processors: processors,
		given:      processors > 0,
		fixed:      err == nil && n > 0,
		quota:      found < runtime.NumCPU(),
	}
	if !l.given {
		l.processors = found
	}
	return l
}

// workers returns how many workers suit threads of that priority.
func (l *places) workers(threads priority) int {
	if threads == idle && !l.fixed && !l.quota {
		return l.processors
	}
	return max(1, l.processors-1)
}

// open says for how many workers there have to be places while keys are made.
func (l *places) open(workers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share = workers
	l.quiet = time.AfterFunc(quietTime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.making == 0 {
			l.lower()
		}
	})
}

// enter is called before a key is made, and leave after.
func (l *places) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.making++
	if l.share > 0 && !l.fixed && !l.raised {
		l.raised = true
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + l.share + l.processors)
	}
}

func (l *places) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.making--
	if l.making == 0 && l.raised {
		l.quiet.Reset(quietTime)
	}
}

// lower hands GOMAXPROCS back to the runtime.
func (l *places) lower() {
	if l.raised {
		l.raised = false
		runtime.SetDefaultGOMAXPROCS()
	}
}

// follow takes up a change of the limits, and returns the processors there are.
func (l *places) follow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fixed {
		return l.processors
	}
	runtime.SetDefaultGOMAXPROCS()
	found := runtime.GOMAXPROCS(0)
	if !l.given {
		l.processors = found
	}
	if l.raised {
		runtime.GOMAXPROCS(found + l.share + l.processors)
	}
	return l.processors
}

// close hands GOMAXPROCS back for good. Nothing is being made any more.
func (l *places) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet != nil {
		l.quiet.Stop()
	}
	l.lower()
}

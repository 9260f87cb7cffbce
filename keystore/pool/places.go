package pool

import (
	"os"
	"runtime"
	"strconv"
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
// Setting GOMAXPROCS ends the runtime's own following of cgroup limits and
// affinity masks. follow makes up for it: it has the runtime find its default
// again (which knows every kind of cgroup) and raises that. It stops the world
// twice, for some ten microseconds, once a minute; the garbage collector does so
// in each of its cycles.
//
// GOMAXPROCS in the environment is the operator's word: it stays.
type places struct {
	// processors is how many there are without the pool's share.
	processors int
	given      bool // by Options: processors does not follow
	fixed      bool // GOMAXPROCS stays as it is
	quota      bool // a cgroup limits processor time rather than processors
	share      int  // of the workers
}

func newPlaces(processors int) places {
	found := runtime.GOMAXPROCS(0)
	n, err := strconv.Atoi(os.Getenv("GOMAXPROCS"))
	l := places{
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

// raise adds places for that many workers and for the foreground.
func (l *places) raise(workers int) {
	l.share = workers
	if !l.fixed {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + l.share + l.processors)
	}
}

// follow takes up a change of the limits, and returns the processors there are.
func (l *places) follow() int {
	if l.fixed {
		return l.processors
	}
	runtime.SetDefaultGOMAXPROCS()
	found := runtime.GOMAXPROCS(0)
	if !l.given {
		l.processors = found
	}
	runtime.GOMAXPROCS(found + l.share + l.processors)
	return l.processors
}

// giveBack leaves GOMAXPROCS to the runtime again.
func (l *places) giveBack() {
	if !l.fixed {
		runtime.SetDefaultGOMAXPROCS()
	}
}

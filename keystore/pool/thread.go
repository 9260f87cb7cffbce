package pool

import (
	"runtime"
	"sync"
)

// priority is what a thread of the pool competes with for processors.
type priority int

const (
	normal priority = iota // as everything else: the system offers nothing lower
	nice                   // nice 19: a small share even of busy processors
	idle                   // SCHED_IDLE: next to nothing of busy processors
)

func (p priority) String() string { return [...]string{"normal", "nice 19", "SCHED_IDLE"}[p] }

// thread runs functions, one at a time, on an operating system thread of its own at low
// priority.
//
// SCHED_IDLE gives way to every other process too. The garbage collector waits until
// each such thread has stopped: where others of the same cgroup take all processors for
// long, requests are slower while the pool refills.
type thread struct {
	priority priority
	calls    chan func()
	done     chan struct{} // one for each call
}

// startThread returns once the thread has its priority.
func startThread(tasks *sync.WaitGroup) *thread {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	started := make(chan struct{})
	tasks.Go(func() { t.lock(func() { close(started) }, tasks) })
	<-started
	return t
}

// run returns when f has run on the thread.
func (t *thread) run(f func()) {
	t.calls <- f
	<-t.done
}

// end makes the thread end. Nothing may run on it any more.
func (t *thread) end() { close(t.calls) }

// lock takes a thread for this goroutine alone and serves it. It never gives the thread
// back, since the priority cannot be raised again without a privilege. So the thread
// ends with its goroutine (runtime.LockOSThread) and never runs another. The runtime
// clones no thread from a locked one, which would hand the priority down.
//
// The main thread stays as it is: it does not end, and the kernel has it take the
// process's signals. It is held until another thread is found.
func (t *thread) lock(started func(), tasks *sync.WaitGroup) {
	runtime.LockOSThread()
	if onMainThread() {
		elsewhere := make(chan struct{})
		tasks.Go(func() {
			runtime.LockOSThread()
			close(elsewhere)
			t.serve(started)
		})
		<-elsewhere
		runtime.UnlockOSThread()
		return
	}
	t.serve(started)
}

func (t *thread) serve(started func()) {
	t.priority = lowerPriority()
	started()
	for f := range t.calls {
		f()
		t.done <- struct{}{}
	}
}

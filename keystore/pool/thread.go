package pool

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// thread runs functions, one at a time, on an operating system thread of its own, under
// SCHED_IDLE: it gets almost no time while the processors are busy.
//
// SCHED_IDLE gives way to every other process too. The garbage collector waits until
// each such thread has stopped: where others of the same cgroup take all processors for
// long, requests are slower while the pool refills.
type thread struct {
	started chan struct{} // closed once idle is set
	idle    bool          // it has the priority; a system or a seccomp filter may refuse it
	calls   chan func()
	done    chan struct{} // one for each call
}

func newThread() *thread {
	return &thread{started: make(chan struct{}), calls: make(chan func()), done: make(chan struct{})}
}

// startThread returns once the thread has its priority.
func startThread(tasks *sync.WaitGroup) *thread {
	t := newThread()
	tasks.Go(func() { t.serve(tasks) })
	<-t.started
	return t
}

// run returns when f has run on the thread.
func (t *thread) run(f func()) {
	t.calls <- f
	<-t.done
}

// end makes the thread end. Nothing may run on it any more.
func (t *thread) end() { close(t.calls) }

// serve takes a thread for this goroutine alone and runs the calls on it. It never gives
// the thread back, since only a privilege could raise the priority again. So the thread
// ends with its goroutine (runtime.LockOSThread) and never runs another. The runtime
// clones no thread from a locked one, so no other thread inherits the priority.
//
// The main thread keeps its priority: it does not end, and the kernel prefers it for
// the process's signals. We hold it until another thread has started in its place.
func (t *thread) serve(tasks *sync.WaitGroup) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		tasks.Go(func() { t.serve(tasks) })
		<-t.started
		runtime.UnlockOSThread()
		return
	}
	t.idle = makeIdle()
	close(t.started)
	for f := range t.calls {
		f()
		t.done <- struct{}{}
	}
}

// makeIdle gives the calling thread the lowest priority, for good. That needs no
// privilege.
func makeIdle() bool {
	const thisThread = 0
	return unix.SchedSetAttr(thisThread, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0) == nil
}

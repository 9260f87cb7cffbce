package pool

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// thread runs functions, one at a time, on an operating system thread of its own, under
// SCHED_IDLE: next to nothing of busy processors.
//
// SCHED_IDLE gives way to every other process too. The garbage collector waits until
// each such thread has stopped: where others of the same cgroup take all processors for
// long, requests are slower while the pool refills.
type thread struct {
	idle  bool // it has the priority; a system or a seccomp filter may refuse it
	calls chan func()
	done  chan struct{} // one for each call
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
	t.idle = makeIdle()
	started()
	for f := range t.calls {
		f()
		t.done <- struct{}{}
	}
}

func onMainThread() bool { return unix.Gettid() == unix.Getpid() }

// makeIdle gives the calling thread the lowest priority, for good. That needs no
// privilege.
func makeIdle() bool {
	const thisThread = 0
	return unix.SchedSetAttr(thisThread, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0) == nil
}

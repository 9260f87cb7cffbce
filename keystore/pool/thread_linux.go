package pool

import "golang.org/x/sys/unix"

func onMainThread() bool { return unix.Gettid() == unix.Getpid() }

// makeIdle gives the calling thread the lowest priority, for good. That needs no
// privilege.
func makeIdle() bool {
	const thisThread = 0
	return unix.SchedSetAttr(thisThread, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0) == nil
}

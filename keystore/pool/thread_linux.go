package pool

import "golang.org/x/sys/unix"

func onMainThread() bool { return unix.Gettid() == unix.Getpid() }

// lowerPriority lowers the priority of the calling thread, for good. Neither way
// needs a privilege; a seccomp filter may refuse them.
func lowerPriority() priority {
	const thisThread = 0
	if unix.SchedSetAttr(thisThread, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0) == nil {
		return idle
	}
	if unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19) == nil { // of a thread, in spite of its name
		return nice
	}
	return normal
}

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// pause sleeps in the kernel: timers of the Go runtime fire up to a millisecond
// late, which is as long as what is measured here.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	remaining := unix.NsecToTimespec(d.Nanoseconds())
	for unix.Nanosleep(&remaining, &remaining) == unix.EINTR {
	}
}

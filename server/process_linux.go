package server

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidDumps keeps the memory of this process, which holds private keys, from
// ending up in a file or before a debugger. It goes before anything secret is
// read: what was in memory when a tracer attached stays in its reach.
//
// The limit alone would not do, since core_pattern may name a program and that is
// started whatever the limit is (core(5)). Not being dumpable (prctl(2),
// PR_SET_DUMPABLE) stops that too, and makes ptrace(2) and /proc/PID/mem and
// environ refuse everybody but root.
func forbidDumps() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("setrlimit RLIMIT_CORE: %w", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err))
	}
	return errors.Join(errs...)
}

//go:build !linux

package server

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// forbidDumps keeps the memory of this process, which holds private keys, out of
// core files. Who may attach a debugger is for the system to say.
func forbidDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit RLIMIT_CORE: %w", err)
	}
	return nil
}

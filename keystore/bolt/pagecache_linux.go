package bolt

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropPageCache makes the next read of a file that nobody has mapped come from
// the disk: after a failed flush the page cache may show what never got there.
func dropPageCache(f *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

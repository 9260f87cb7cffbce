package bolt

import (
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// releaseMapping gives back the memory of pages that the mapping of an open
// database pulled in: an open that had to search the file for free pages has
// touched all of it. The pages stay in the page cache.
func releaseMapping(db *bbolt.DB, size int64) error {
	info := db.Info()
	page := int64(os.Getpagesize())
	length := (size + page - 1) / page * page
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, info.Data, uintptr(length), unix.MADV_DONTNEED) //nolint:gosec // the size of a file is not negative
	if errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}

// dropPageCache makes the next read of a file that nobody has mapped come from
// the disk: after a failed flush the page cache may show what never got there.
func dropPageCache(f *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

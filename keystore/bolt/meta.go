package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
)

// meta is what a meta page of bbolt says. After its header it has 4 bytes magic, 4
// version, 4 page size, 4 flags, 8 root page, 8 sequence, 8 free list, 8 high-water
// mark, 8 transaction, 8 checksum, which is FNV-1a of what is before it.
type meta struct {
	pageSize       int
	root, freeList uint64 // pages
	pages          uint64 // high-water mark
	id             uint64 // of the transaction that committed this state
}

const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	metaSize    = 64
	minPageSize = 1 << 10
	maxPageSize = 1 << 16
)

// errForeign: there is no meta page of bbolt, or not the buckets of a store.
var errForeign = errors.New("is not a key store of attestcsr: name another file, or restore a backup")

// newestMeta returns the newer of the two meta pages that are whole, as bbolt does:
// the other may be in the middle of a write. It returns nil if there is none.
func newestMeta(file []byte) *meta {
	newest := parseMeta(file, 0)
	for size := minPageSize; size <= maxPageSize; size *= 2 { // it may be the first that is torn
		m := parseMeta(file, size)
		if m != nil && m.pageSize == size && (newest == nil || m.id > newest.id) {
			newest = m
		}
	}
	return newest
}

// parseMeta returns the meta page at an offset, or nil if there is none.
func parseMeta(file []byte, offset int) *meta {
	start := offset + headerSize
	if start+metaSize > len(file) {
		return nil
	}
	b := bytes.Clone(file[start : start+metaSize]) // others may write to the file
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8]) // never fails, by its documentation
	m := &meta{
		pageSize: int(binary.NativeEndian.Uint32(b[8:])),
		root:     binary.NativeEndian.Uint64(b[16:]),
		freeList: binary.NativeEndian.Uint64(b[32:]),
		pages:    binary.NativeEndian.Uint64(b[40:]),
		id:       binary.NativeEndian.Uint64(b[48:]),
	}
	if binary.NativeEndian.Uint32(b) != boltMagic || binary.NativeEndian.Uint32(b[4:]) != boltVersion ||
		binary.NativeEndian.Uint64(b[metaSize-8:]) != sum.Sum64() || m.pageSize < minPageSize || m.pageSize > maxPageSize {
		return nil
	}
	return m
}

// withMapping calls fn with what is in a file now. fn may find bytes that change under
// it, and a file that is cut short meanwhile makes it fail.
func withMapping(f *os.File, fn func(file []byte) error) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		return errForeign
	}
	file, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(file)) }()
	return guarded(func() error { return fn(file) })
}

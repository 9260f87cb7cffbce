package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
)

// checker reads the structure of a bbolt file without bbolt. bbolt trusts its file:
// it panics on a damaged page, and after a crash it searches the file for free pages
// in a goroutine of its own, where a panic ends the process.
//
// A page has a header (8 bytes id, 2 flags, 2 count, 4 overflow), then count
// elements of 16 bytes, then keys and values; numbers are in the machine's order.
// In a branch an element is 4 bytes position, 4 key size, 8 page id; in a leaf 4
// bytes flags, 4 position, 4 key size, 4 value size. Positions count from their
// element. There are no gaps between what they point to, so that a missing element
// is found. The value of a bucket is 8 bytes root page and 8 bytes sequence; where
// the root is 0, a leaf page follows in place.
type checker struct {
	file     []byte // up to the high-water mark
	pageSize int
	seen     []bool // by page id
	bucket   []byte // the name of the top bucket that is checked; nil: none
	found    *contents
}

const (
	headerSize  = 16
	elementSize = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreeList = 0x10
	flagBucket   = 0x01 // of a leaf element

	noFreeList = 1<<64 - 1
	maxDepth   = 64
)

// checkStructure checks what bbolt will rely on in the state that a meta page shows:
// its whole tree, also after a clean close. A page that points to one above it would
// make bbolt follow it for ever, with more memory at every turn. A page that is also
// in the free list would be overwritten. What is in the buckets goes to found.
func checkStructure(file []byte, m *meta, found *contents) error {
	if m.pages > uint64(len(file)/m.pageSize) { //nolint:gosec // positive
		return fmt.Errorf("%w: it is cut short (%d bytes, not %d pages)", errStructure, len(file), m.pages)
	}
	c := &checker{file: file, pageSize: m.pageSize, seen: make([]bool, m.pages), found: found}
	if m.freeList != noFreeList { // written by the last clean close
		if err := c.freeList(m.freeList); err != nil {
			return err
		}
	}
	return c.tree(m.root, 0, nil, nil)
}

// page returns a page with its overflow. Each is used once.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= uint64(len(c.seen)) {
		return nil, errStructure
	}
	page := c.file[id*uint64(c.pageSize):] //nolint:gosec // positive
	overflow := uint64(binary.NativeEndian.Uint32(page[12:]))
	if binary.NativeEndian.Uint64(page) != id || overflow >= uint64(len(c.seen))-id {
		return nil, fmt.Errorf("%w: page %d", errStructure, id)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("%w: page %d is used twice", errStructure, i)
		}
		c.seen[i] = true
	}
	return page[:(overflow+1)*uint64(c.pageSize)], nil //nolint:gosec // positive
}

// freeList checks the page of the free list: a count (in the first entry when it
// does not fit the header), then page ids.
func (c *checker) freeList(id uint64) error {
	page, err := c.page(id)
	if err != nil {
		return err
	}
	ids := page[headerSize:]
	count := uint64(binary.NativeEndian.Uint16(page[10:]))
	if count == 0xFFFF {
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if binary.NativeEndian.Uint16(page[8:]) != flagFreeList || count > uint64(len(ids)/8) {
		return fmt.Errorf("%w: free list", errStructure)
	}
	for ; count > 0; count, ids = count-1, ids[8:] {
		free := binary.NativeEndian.Uint64(ids)
		if free < 2 || free >= uint64(len(c.seen)) || c.seen[free] {
			return fmt.Errorf("%w: free list", errStructure)
		}
		c.seen[free] = true
	}
	return nil
}

// tree checks a page and those below it. Its keys are at least from and below to,
// where those are given.
func (c *checker) tree(id uint64, level int, from, to []byte) error {
	if level > maxDepth {
		return errStructure
	}
	page, err := c.page(id)
	if err != nil {
		return err
	}
	switch binary.NativeEndian.Uint16(page[8:]) {
	case flagLeaf:
		err = c.leaf(page, level, from, to)
	case flagBranch:
		err = c.branch(page, level, from, to)
	default:
		err = errStructure
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (c *checker) branch(page []byte, level int, from, to []byte) error {
	count := elements(page)
	if count < 1 {
		return errStructure
	}
	keyOf := func(i int) ([]byte, error) {
		at := headerSize + i*elementSize
		return field(page[at:], binary.NativeEndian.Uint32(page[at:]), binary.NativeEndian.Uint32(page[at+4:]))
	}
	end := headerSize + count*elementSize
	for i := range count {
		at := headerSize + i*elementSize
		key, err := keyOf(i)
		if err != nil || !ordered(i, from, key, to) || at+int(binary.NativeEndian.Uint32(page[at:])) != end {
			return errStructure
		}
		end += len(key)
		next := to
		if i+1 < count {
			if next, err = keyOf(i + 1); err != nil {
				return err
			}
		}
		if err := c.tree(binary.NativeEndian.Uint64(page[at+8:]), level+1, key, next); err != nil {
			return err
		}
		from = key
	}
	return nil
}

func (c *checker) leaf(page []byte, level int, from, to []byte) error {
	count := elements(page)
	if count < 0 {
		return errStructure
	}
	end := headerSize + count*elementSize
	for i := range count {
		at := page[headerSize+i*elementSize:]
		flags, position := binary.NativeEndian.Uint32(at), binary.NativeEndian.Uint32(at[4:])
		keySize, valueSize := binary.NativeEndian.Uint32(at[8:]), binary.NativeEndian.Uint32(at[12:])
		both, err := field(at, position, keySize, valueSize)
		if err != nil || flags&^flagBucket != 0 || headerSize+i*elementSize+int(position) != end {
			return errStructure
		}
		end += len(both)
		key, value := both[:keySize], both[keySize:]
		if !ordered(i, from, key, to) {
			return errStructure
		}
		from = key
		switch {
		case flags&flagBucket != 0:
			err = c.below(key, value, level)
		case c.bucket == nil: // at the top are buckets only
			err = errStructure
		default:
			c.found.item(c.bucket, key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// below checks the tree of a bucket, given the value that stands for it.
func (c *checker) below(bucket, value []byte, level int) error {
	if len(value) < 16 || level > maxDepth {
		return errStructure
	}
	if c.bucket == nil {
		c.found.buckets[string(bucket)] = true
		c.bucket = bucket
		defer func() { c.bucket = nil }()
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root, level+1, nil, nil)
	}
	// A bucket that is small enough is kept in place, and holds no other.
	page := value[16:]
	if len(page) < headerSize || binary.NativeEndian.Uint16(page[8:]) != flagLeaf {
		return errStructure
	}
	return c.leaf(page, maxDepth+1, nil, nil)
}

// elements returns the number of elements of a page, or -1 if they do not fit.
func elements(page []byte) int {
	n := int(binary.NativeEndian.Uint16(page[10:]))
	if headerSize+n*elementSize > len(page) {
		return -1
	}
	return n
}

// field returns the bytes at a position after the start of an element. They are as
// many as the sum of sizes.
func field(element []byte, position uint32, sizes ...uint32) ([]byte, error) {
	end := uint64(position)
	for _, size := range sizes {
		end += uint64(size)
	}
	if end > uint64(len(element)) {
		return nil, errStructure
	}
	return element[position:end], nil
}

// ordered reports whether the key of element i is above from (the first may be
// equal to it) and below to.
func ordered(i int, from, key, to []byte) bool {
	c := bytes.Compare(from, key)
	return (from == nil || c < 0 || i == 0 && c == 0) && (to == nil || bytes.Compare(key, to) < 0)
}

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

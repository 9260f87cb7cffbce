package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"
)

// OutboxState is what Peek finds in a store.
type OutboxState struct {
	Anchors map[string][]byte // by name
	Pending int               // notes in the outbox
}

// Peek reads the anchors, and how many notes wait, without the lock: also while
// another process has the store open and commits. It changes nothing.
//
// bbolt never writes over a page of the last state that was committed, so that
// what is read belongs to one state if that is still the last one afterwards.
// Otherwise Peek reads again, for a second at most.
func Peek(ctx context.Context, path string) (_ OutboxState, err error) {
	f, err := os.Open(path)
	if err != nil {
		return OutboxState{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	deadline := time.Now().Add(peekTimeout)
	for {
		found, same, err := peek(f)
		switch {
		case same && err != nil:
			return OutboxState{}, fmt.Errorf("%s: %w", path, err)
		case same:
			return found, nil
		case time.Now().After(deadline):
			return OutboxState{}, fmt.Errorf("%s changes faster than it can be read: try again", path)
		}
		select {
		case <-ctx.Done():
			return OutboxState{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

const (
	peekTimeout = time.Second
	// maxPeekPage bounds a page with its overflow, in bytes.
	maxPeekPage = 64 << 20

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	// The meta page after its header: 4 bytes magic, 4 version, 4 page size, 4
	// flags, 8 root page, 8 sequence, 8 free list, 8 high-water mark, 8 transaction,
	// 8 checksum, which is FNV-1a of what is before it.
	metaSize = 64
)

// peek reads once. same: the state that was read is still the last one.
func peek(f *os.File) (found OutboxState, same bool, err error) {
	s, err := newestMeta(f)
	if err != nil {
		return OutboxState{}, true, err // one of the two is always whole
	}
	return s.read(f)
}

// read reads a state and finds out whether it still is the last one. Only then is
// everything that was found of one state, and an error is damage.
func (s *state) read(f *os.File) (found OutboxState, same bool, err error) {
	found, err = s.outbox(f)
	last, metaErr := newestMeta(f)
	if metaErr != nil {
		return OutboxState{}, true, metaErr
	}
	return found, last.id == s.id, err
}

// state is what a meta page says.
type state struct {
	pageSize       int64
	root, freeList uint64 // pages
	pages          uint64 // high-water mark
	id             uint64 // of the transaction that committed it
	visited, limit int    // pages looked at, and how many there can be
}

// newestMeta returns the newer of the two meta pages that are whole: the other may
// be in the middle of a write.
func newestMeta(f *os.File) (*state, error) {
	var newest *state
	for _, size := range []int64{0, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16} {
		var page [headerSize + metaSize]byte
		if _, err := f.ReadAt(page[:], size); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return nil, err
		}
		s := parseMeta(page[headerSize:])
		if s != nil && (size == 0 || size == s.pageSize) && (newest == nil || s.id > newest.id) {
			newest = s
		}
	}
	if newest == nil {
		return nil, errors.New("is not a key store of attestcsr, or is damaged")
	}
	return newest, nil
}

func parseMeta(b []byte) *state {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8]) // never fails, by its documentation
	pageSize := int64(binary.NativeEndian.Uint32(b[8:]))
	if binary.NativeEndian.Uint32(b) != boltMagic || binary.NativeEndian.Uint32(b[4:]) != boltVersion ||
		binary.NativeEndian.Uint64(b[metaSize-8:]) != sum.Sum64() || pageSize < 1<<10 || pageSize > 1<<16 {
		return nil
	}
	pages := binary.NativeEndian.Uint64(b[40:])
	return &state{
		pageSize: pageSize, root: binary.NativeEndian.Uint64(b[16:]), freeList: binary.NativeEndian.Uint64(b[32:]), pages: pages,
		id: binary.NativeEndian.Uint64(b[48:]), limit: int(min(pages, 1<<30)),
	}
}

// outbox reads anchors and notes from one state.
func (s *state) outbox(f *os.File) (OutboxState, error) {
	o := OutboxState{Anchors: map[string][]byte{}}
	buckets := map[string][]byte{}
	err := s.walk(f, s.root, nil, func(flags uint32, key, value []byte) error {
		if flags&flagBucket != 0 {
			buckets[string(key)] = bytes.Clone(value)
		}
		return nil
	})
	if err != nil {
		return OutboxState{}, err
	}
	if buckets[string(bucketMeta)] == nil || buckets[string(bucketOutbox)] == nil {
		return OutboxState{}, errors.New("is not a key store of attestcsr")
	}
	err = s.walkBucket(f, buckets[string(bucketOutbox)], func(uint32, []byte, []byte) error { o.Pending++; return nil })
	if err != nil {
		return OutboxState{}, err
	}
	if anchors := buckets[string(bucketAnchors)]; anchors != nil {
		err = s.walkBucket(f, anchors, func(_ uint32, key, value []byte) error {
			o.Anchors[string(key)] = bytes.Clone(value)
			return nil
		})
	}
	return o, err
}

// walkBucket calls fn with what is in a bucket, given the value that stands for it.
func (s *state) walkBucket(f *os.File, value []byte, fn func(flags uint32, key, value []byte) error) error {
	if len(value) < 16 {
		return errStructure
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return s.walk(f, root, nil, fn)
	}
	return s.walk(f, 0, value[16:], fn)
}

// walk calls fn with the elements of the leaves from a page on, which is read
// unless it is given.
func (s *state) walk(f *os.File, id uint64, page []byte, fn func(flags uint32, key, value []byte) error) error {
	if page == nil {
		var err error
		if page, err = s.page(f, id); err != nil {
			return err
		}
	}
	if len(page) < headerSize {
		return errStructure
	}
	kind, count := binary.NativeEndian.Uint16(page[8:]), elements(page)
	if count < 0 || kind != flagLeaf && kind != flagBranch {
		return errStructure
	}
	for i := range count {
		at := page[headerSize+i*elementSize:]
		if kind == flagBranch {
			if err := s.walk(f, binary.NativeEndian.Uint64(at[8:]), nil, fn); err != nil {
				return err
			}
			continue
		}
		keySize := binary.NativeEndian.Uint32(at[8:])
		both, err := field(at, binary.NativeEndian.Uint32(at[4:]), keySize, binary.NativeEndian.Uint32(at[12:]))
		if err != nil {
			return err
		}
		if err := fn(binary.NativeEndian.Uint32(at), both[:keySize], both[keySize:]); err != nil {
			return err
		}
	}
	return nil
}

// page reads a page with its overflow. In a file that is damaged, or that changes
// meanwhile, pages may point to each other in a circle: a walk ends after as many
// pages as there are.
func (s *state) page(f *os.File, id uint64) ([]byte, error) {
	if s.visited++; s.visited > s.limit || id < 2 || id >= s.pages {
		return nil, errStructure
	}
	var header [headerSize]byte
	offset := int64(id) * s.pageSize //nolint:gosec // below the high-water mark
	if _, err := f.ReadAt(header[:], offset); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	size := (int64(binary.NativeEndian.Uint32(header[12:])) + 1) * s.pageSize
	if binary.NativeEndian.Uint64(header[:]) != id || size > maxPeekPage || size > int64(s.pages-id)*s.pageSize { //nolint:gosec // id < pages
		return nil, errStructure
	}
	page := make([]byte, size)
	if _, err := f.ReadAt(page, offset); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return page, nil
}

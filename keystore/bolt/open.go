package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"attestcsr/keystore/ownfile"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// ErrLocked: another process has the store open.
var ErrLocked = errors.New("in use by another attestcsr process")

const (
	storeFormat = 3

	lockTimeout = 100 * time.Millisecond

	// defaultMaxSize is also how much address space is mapped, once, at open. It
	// costs no memory. Readers hold a transaction across commits, and bbolt
	// cannot map more while they do: a commit that would need it is refused.
	defaultMaxSize = 64 << 30
	minMaxSize     = 128 << 20

	// reserve is the room in the file that only deletions may use: they need new
	// pages too, and a full store that could not delete would stay full. A third
	// of it is what bbolt grows the file ahead of need.
	reserve = 48 << 20
)

// options are those of the database itself. The free list is not written with
// every commit (its cost grows with the store); a clean Close writes it once.
func (s *Store) options() *bbolt.Options {
	return &bbolt.Options{
		Timeout:         lockTimeout,
		FreelistType:    bbolt.FreelistMapType,
		NoFreelistSync:  true,
		InitialMmapSize: s.maxSize,
		MaxSize:         s.maxSize,
	}
}

// openDatabase opens the file, after looking at it without writing: whether it
// is ours, of a format known here, and whole. The caller guards it.
func (s *Store) openDatabase() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if err := ownfile.Check(s.path, info, s.log); err != nil {
		return err
	}
	if info.Size() == 0 {
		return fmt.Errorf("%s is empty: restore a backup, or remove it to begin anew", s.path)
	}
	notes, err := s.inspect()
	if err != nil {
		return err
	}
	o := s.options()
	o.OpenFile = s.openFile
	db, err := bbolt.Open(s.path, 0o600, o)
	if err != nil {
		return s.explain(err)
	}
	s.db = db
	s.viewLock.Lock()
	s.pending = notes
	s.viewLock.Unlock()
	if err := releaseMapping(db, info.Size()); err != nil {
		s.log.Warn("memory used to open the key store was not given back", "error", err)
	}
	return nil
}

// openFile opens the file for bbolt: never a new one, and after the first time only
// the same one.
func (s *Store) openFile(name string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && s.identity != nil && !os.SameFile(s.identity, info) {
		err = s.errReplaced()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s.file, s.identity = f, info
	return f, nil
}

// inspect opens the database for reading only and finds out whether it can be
// opened for writing. It returns the number of notes in the outbox.
func (s *Store) inspect() (notes int, err error) {
	o := s.options()
	o.ReadOnly = true
	o.InitialMmapSize = 0
	db, err := bbolt.Open(s.path, 0o600, o)
	if err != nil {
		return 0, s.explain(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.Begin(false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	found, err := s.checkPages(tx, db.Info().PageSize)
	if err != nil {
		return 0, err
	}
	if err := s.checkFormat(tx); err != nil {
		return 0, err
	}
	return found.notes, found.check()
}

// checkFormat finds out whether this is a store of ours, in the format that is read
// here.
func (s *Store) checkFormat(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketSlots, bucketCounts, bucketOutbox} {
		if tx.Bucket(name) == nil {
			return s.foreign()
		}
	}
	meta := tx.Bucket(bucketMeta)
	text := meta.Get(keyFormat)
	if len(text) != 4 || len(meta.Get(keyRevision)) != 8 {
		return s.foreign()
	}
	switch format := binary.BigEndian.Uint32(text); {
	case format > storeFormat:
		return fmt.Errorf("%s was written by a newer attestcsr (format %d, this one reads %d): upgrade, or restore a backup",
			s.path, format, storeFormat)
	case format < storeFormat:
		return s.foreign()
	}
	return nil
}

// checkPages checks the whole file, before bbolt relies on it and searches it. It
// maps the file for itself: it may read all of it.
func (s *Store) checkPages(tx *bbolt.Tx, pageSize int) (_ *contents, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if tx.Size() > info.Size() {
		return nil, fmt.Errorf("%w: it is cut short (%d of %d bytes)", errStructure, info.Size(), tx.Size())
	}
	file, err := unix.Mmap(int(f.Fd()), 0, int(tx.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(file)) }()
	found := &contents{missing: map[string]int64{}}
	return found, checkStructure(file, tx.ID(), pageSize, found.item)
}

func (s *Store) foreign() error {
	return fmt.Errorf("%s is not a key store of attestcsr: name another file, or restore a backup", s.path)
}

// explain turns an error of bbolt.Open into a sentence that says what to do.
func (s *Store) explain(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%s is %w: stop that one first", s.path, ErrLocked)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return s.foreign()
	}
	return fmt.Errorf("opening %s: %w", s.path, err)
}

// create makes an empty store, complete under another name first: a crash before
// the link leaves a temporary file that nobody reads; after it the store is whole.
// A power cut before the directory is flushed may take the name away again; by
// then nothing has been committed, and the next Open makes another. When another
// process was faster, its file stays.
func (s *Store) create() (err error) {
	f, err := os.CreateTemp(filepath.Dir(s.path), ".store-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	temp := f.Name()
	defer func() { err = errors.Join(err, os.Remove(temp)) }()
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: lockTimeout, NoStatistics: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketSlots, bucketCounts, bucketOutbox} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(
			meta.Put(keyFormat, binary.BigEndian.AppendUint32(nil, storeFormat)),
			meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, 0)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return ownfile.Link(temp, s.path)
}

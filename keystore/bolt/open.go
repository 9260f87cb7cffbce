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
	storeFormat = 4

	lockTimeout = 100 * time.Millisecond

	// maxSize is how large the file may grow, and how much address space is mapped,
	// once, at open. It costs no memory. Readers hold a transaction across commits,
	// and bbolt cannot map more while they do: a commit that would need it is refused.
	maxSize = 64 << 30

	// reserve is the room in the file that only deletions may use: they need new
	// pages too, and a full store that could not delete would stay full. A third
	// of it is what bbolt grows the file ahead of need.
	reserve = 48 << 20
)

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
	// The free list is not written with every commit (its cost grows with the store);
	// a clean Close writes it once.
	db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{
		Timeout:         lockTimeout,
		FreelistType:    bbolt.FreelistMapType,
		NoFreelistSync:  true,
		InitialMmapSize: s.maxSize,
		MaxSize:         s.maxSize,
		OpenFile:        s.openFile,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return s.locked()
	case err != nil:
		return fmt.Errorf("opening %s: %w", s.path, err)
	}
	s.db = db
	s.viewLock.Lock()
	s.pending = notes
	s.viewLock.Unlock()
	// Who had the lock before may have been a compaction.
	at, err := os.Stat(s.path)
	if err == nil && !os.SameFile(s.identity, at) {
		err = s.errReplaced()
	}
	return err
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

// inspect finds out, without writing, whether the file can be opened: before bbolt
// relies on it and searches it. It returns the number of notes in the outbox.
func (s *Store) inspect() (notes int, err error) {
	f, err := os.Open(s.path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Unlocked, and not only closed: a process that is being started has a copy of f.
	defer func() { err = errors.Join(err, unix.Flock(int(f.Fd()), unix.LOCK_UN)) }()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return 0, s.locked()
	case err != nil:
		return 0, os.NewSyscallError("flock", err)
	}
	found := newContents()
	err = withMapping(f, func(file []byte) error {
		m := newestMeta(file)
		if m == nil {
			return errForeign
		}
		if err := checkStructure(file, m, found); err != nil {
			return err
		}
		return found.check()
	})
	if err != nil && !errors.Is(err, errDamaged) { // Open says the path of a damaged one
		err = fmt.Errorf("%s %w", s.path, err)
	}
	return found.notes, err
}

func (s *Store) locked() error {
	return fmt.Errorf("%s is %w: stop that one first", s.path, ErrLocked)
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

package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"attestcsr/keystore"
)

// inPlace reports whether the open file is the one at the path. A commit to a file
// that was removed, or replaced by a backup, would be lost with the process. When the
// same file is put back, commits go on: its lock has kept other processes away.
// Another file needs a restart, since callers remember revisions of the one before.
// The caller leads.
func (s *Store) inPlace() error {
	at, err := os.Stat(s.path)
	switch {
	case err == nil && os.SameFile(s.identity, at):
		if s.missing {
			s.missing = false
			s.log.Info("the file of the key store is back in its place; changes go on", "file", s.path)
		}
		return nil
	case err == nil:
		err = s.errReplaced()
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: %s was removed or moved away while it was open: put it back, or restore a backup and restart the service",
			keystore.ErrUnavailable, s.path)
	default:
		err = fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	if !s.missing {
		s.missing = true
		s.log.Error("the key store takes no changes, reads go on", "file", s.path, "error", err)
	}
	return err
}

func (s *Store) errReplaced() error {
	return fmt.Errorf("%w: %s was replaced while it was open: restart the service to use the file that is there now, or put the one before back",
		keystore.ErrUnavailable, s.path)
}

// recoveryInterval is the least time between two attempts to recover.
const recoveryInterval = time.Second

// usable reports whether commits can be made, after an attempt to recover where
// one is due. The caller leads.
func (s *Store) usable() error {
	switch {
	case s.closed:
		return fmt.Errorf("%w: the store is closed", keystore.ErrUnavailable)
	case s.damaged.Load():
		return fmt.Errorf("%w: %s is damaged: restart the service, and restore a backup if the start refuses it", keystore.ErrUnavailable, s.path)
	case s.broken == nil:
		return nil
	case time.Since(s.attempted) < recoveryInterval:
		return s.broken
	}
	s.attempted = time.Now()
	if err := s.watched(s.recover); err != nil {
		s.log.Error("the key store could not be recovered; trying again with the next change or readiness check", "file", s.path, "error", err)
		s.broken = fmt.Errorf("%w: recovering from a failed commit: %w", keystore.ErrUnavailable, err)
		return s.broken
	}
	s.broken = nil
	s.log.Info("the key store is recovered", "file", s.path)
	return nil
}

// recover closes the file and reads it again from the disk, which decides whether
// the commit with the unknown outcome happened. A commit of its own then proves that
// the disk takes changes. Between the two a power cut could take back what is read,
// so readers get ErrUnavailable. Before that they keep what they had, also while the
// file is not at its path. A crash anywhere here leaves what the disk had: the proof
// changes nothing.
func (s *Store) recover() (err error) {
	if s.db != nil {
		if err := s.inPlace(); err != nil {
			return err
		}
	}
	// Held open meanwhile, the file keeps its inode number, which identifies it.
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := s.withdraw(); err != nil {
		return err
	}
	if s.db != nil {
		err := s.db.Close()
		s.db = nil
		if err != nil {
			return err
		}
	}
	if err := dropPageCache(f); err != nil {
		return err
	}
	if err := s.openDatabase(); err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return meta.Put(keyRevision, bytes.Clone(meta.Get(keyRevision)))
	})
	if err != nil {
		return err
	}
	return s.publish(0)
}

// dropPageCache makes the next read of a file that nobody has mapped come from
// the disk: after a failed flush the page cache may show what never got there.
func dropPageCache(f *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

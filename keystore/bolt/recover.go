package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// inPlace reports whether the open file is the one at the path. A commit to a file
// that was removed, or that a restored backup took the place of, would be gone with
// the process. Put back, the file is as it was, its lock has kept others away, and
// commits go on; another one there needs a restart, since who reads the store
// remembers what the one before held. The caller leads.
func (s *Store) inPlace() error {
	at, err := os.Stat(s.path)
	switch {
	case err == nil && os.SameFile(s.identity, at):
		if s.outOfPlace {
			s.outOfPlace = false
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
	if !s.outOfPlace {
		s.outOfPlace = true
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
		return s.errDamagedInUse()
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

// recover closes the file and reads it again from the disk, which decides
// whether the commit with the unknown outcome happened. It then proves with a
// commit of its own that the disk takes changes. From the close until that has
// succeeded there is nothing for readers that a power cut could not take back, so
// they get ErrUnavailable. Before it they keep what they had, also while the file is
// out of its place. A crash anywhere here leaves what the disk had: the proof changes
// nothing.
func (s *Store) recover() (err error) {
	if s.db != nil {
		if err := s.inPlace(); err != nil {
			return err
		}
	}
	// Open from before the close to the end, the file keeps its inode number, by
	// which it is known.
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

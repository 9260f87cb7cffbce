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
		if s.displaced {
			s.displaced = false
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
	if !s.displaced {
		s.displaced = true
		s.log.Error("the key store takes no changes, reads go on", "file", s.path, "error", err)
	}
	return err
}

func (s *Store) errReplaced() error {
	return fmt.Errorf("%w: %s was replaced while it was open: restart the service to use the file that is there now, or put the one before back",
		keystore.ErrUnavailable, s.path)
}

// failing is a logger for bbolt that calls a function at each error. bbolt has no
// other hook between the failure of a commit and what it does then.
type failing struct {
	*bbolt.DefaultLogger
	failed func()
}

func (f failing) Errorf(string, ...any) { f.failed() }

// begin begins a transaction of bbolt, which holds locks while it looks for the
// last state and leaves them locked where it panics over it: whether it will is
// found out before. The caller leads.
func (s *Store) begin(writable bool) (*bbolt.Tx, error) {
	if err := s.checkMeta(); err != nil {
		return nil, err
	}
	return s.db.Begin(writable)
}

// checkMeta finds out whether the pages that say where the last state is can be
// read, and that it is not one before the state that readers were shown.
func (s *Store) checkMeta() error {
	last := -1
	for i := range 2 {
		page := make([]byte, headerSize+metaSize)
		if _, err := s.file.ReadAt(page, int64(i*s.pageSize)); err != nil {
			return fmt.Errorf("reading %s: %w", s.path, err)
		}
		if m := parseMeta(page[headerSize:]); m != nil {
			last = max(last, int(m.id)) //nolint:gosec // counted from 0
		}
	}
	if last < s.shown {
		return fmt.Errorf("%s is damaged: restore a backup: %w: its last state is gone", s.path, errStructure)
	}
	return nil
}

// foundDamage is thrown through bbolt by beforeRollback and caught by guard.
type foundDamage struct{ error }

// beforeRollback is called when a commit has failed and bbolt is going to search
// the file for the pages in use. It does so in a goroutine of its own, where a
// damaged page, or one that cannot be read, ends the process: so it may search only
// a file that was found whole. The search of this function is as long as bbolt's.
// The caller leads.
func (s *Store) beforeRollback() {
	if !s.writing {
		return
	}
	s.writing = false // whatever fails from here on was not the commit
	if err := s.checkOpen(); err != nil {
		panic(foundDamage{err})
	}
}

// checkOpen finds out whether the open file is whole.
func (s *Store) checkOpen() (err error) {
	defer s.guard(&err)
	tx, err := s.begin(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	records, err := s.checkPages(s.file, tx, s.pageSize)
	if err != nil {
		return err
	}
	return s.damaged(records.check())
}

// usable reports whether commits can be made, after an attempt to recover where
// one is due. The caller leads.
func (s *Store) usable() error {
	switch {
	case s.closed:
		return fmt.Errorf("%w: the store is closed", keystore.ErrUnavailable)
	case s.broken == nil:
		return nil
	case time.Since(s.attempted) < recoveryInterval:
		return s.broken
	}
	s.attempted = time.Now()
	if err := s.recover(); err != nil {
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
// they get ErrUnavailable; before it they keep what they had, which a file that is
// damaged or out of its place leaves them. A crash anywhere here leaves what the
// disk had: the proof changes nothing.
func (s *Store) recover() (err error) {
	if s.db != nil {
		if err := s.inPlace(); err != nil {
			return err
		}
		if err := s.checkOpen(); err != nil {
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
	if s.db, err = s.openDatabase(); err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return meta.Put(keyRevision, bytes.Clone(meta.Get(keyRevision)))
	})
	if err != nil {
		return err
	}
	return s.publishCounted()
}

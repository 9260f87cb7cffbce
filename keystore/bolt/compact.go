package bolt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"attestcsr/keystore/ownfile"
)

const (
	// compactTemp matches the temporary files of compactions. ownfile.Sweep knows them, too.
	compactTemp = ".compact-*.tmp"

	// compactStep is how much of the store is copied in one transaction.
	compactStep = 16 << 20
)

// RequestCompaction makes the next Open that has Options.Compact compact the store: what
// was removed or replaced is in free pages of the file until then. It is a commit.
func (s *Store) RequestCompaction(ctx context.Context) error {
	_, err := s.submit(ctx, &job{compaction: true, done: make(chan struct{})})
	return err
}

// CompactionDue reports whether RequestCompaction was called since the last compaction.
func (s *Store) CompactionDue() (due bool) {
	err := s.read(context.Background(), func(tx *bbolt.Tx) error {
		due = tx.Bucket(bucketMeta).Get(keyCompaction) != nil
		return nil
	})
	return due && err == nil
}

// Compact writes the store at path anew, without what its free pages hold, while nobody
// has it open.
func Compact(ctx context.Context, path string, log *slog.Logger) error {
	s, err := Open(path, Options{Logger: log})
	if err != nil {
		return err
	}
	return errors.Join(s.compact(ctx), s.abandon())
}

// compact copies the store into a new file, which takes the place of the one that is
// open. Only abandon may come after it. It has the lock of the old file until the new
// one is complete and has its name: who waits for that lock finds that his file is not
// the one at the path any more (see openDatabase). The copy needs as much room as what is
// in use in the store.
//
// A crash before the rename leaves the old file, as it was, and a temporary one, which
// the next compaction or ownfile.Sweep removes. A power cut before the folder is flushed
// leaves the old file or the new one. Both are whole.
func (s *Store) compact(ctx context.Context) error {
	start := time.Now()
	s.log.Info("compacting the key store", "file", s.path)
	temp, err := s.makeTemp()
	if err != nil {
		return err
	}
	err = s.watched(func() error { return s.copyTo(temp) })
	if err == nil {
		err = finishCopy(temp, s.maxSize)
	}
	if err == nil {
		err = errors.Join(ctx.Err(), s.inPlace())
	}
	if err == nil {
		err = os.Rename(temp, s.path)
	}
	if err != nil {
		return fmt.Errorf("compacting %s: %w", s.path, errors.Join(err, os.Remove(temp)))
	}
	s.log.Info("the key store is compacted", "file", s.path, "seconds", time.Since(start).Seconds())
	return ownfile.SyncDir(filepath.Dir(s.path))
}

// makeTemp makes the empty file for the copy, with the owner and mode of the store where
// root makes it. It removes those of compactions that were killed.
func (s *Store) makeTemp() (string, error) {
	dir := filepath.Dir(s.path)
	left, err := filepath.Glob(filepath.Join(dir, compactTemp))
	for _, temp := range left { // no other compaction is under way: the lock is ours
		err = errors.Join(err, os.Remove(temp))
	}
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, compactTemp) // mode 0600
	if err != nil {
		return "", err
	}
	if err := errors.Join(ownfile.Adopt(f, s.path), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// copyTo copies what is in the store into an empty file, and flushes that.
func (s *Store) copyTo(temp string) error {
	to, err := bbolt.Open(temp, 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: true, NoStatistics: true,
	})
	if err != nil {
		return err
	}
	return errors.Join(bbolt.Compact(to, s.db, compactStep), to.Sync(), to.Close())
}

// finishCopy checks the copy, as every Open does, and makes the compaction done in it.
func finishCopy(temp string, maxSize int) error {
	s, err := open(temp, Options{}, maxSize)
	if err != nil {
		return err
	}
	err = s.update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyCompaction) })
	return errors.Join(err, s.Close())
}

// openCompacted goes on after open where a compaction is due. One that fails costs the
// store nothing: the next start tries again.
func openCompacted(s *Store, o Options) (*Store, error) {
	if err := s.compact(context.Background()); err != nil {
		s.log.Error("the key store was not compacted: what was removed from it is still in the file; the next start tries again", "error", err)
		if s.inPlace() == nil {
			return s, nil
		}
	}
	if err := s.abandon(); err != nil {
		return nil, err
	}
	return open(s.path, o, s.maxSize)
}

// abandon closes the file without another commit.
func (s *Store) abandon() error {
	s.closed = true
	err := s.withdraw()
	if s.damaged.Load() {
		return errors.Join(err, s.unlock())
	}
	return errors.Join(err, s.db.Close())
}

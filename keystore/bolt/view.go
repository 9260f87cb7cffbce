package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"attestcsr/keystore"
)

// View is the store at one moment, for a copy, while commits go on. Pages that become
// free meanwhile are not used again until Close, so that the file grows with each commit.
type View struct {
	s  *Store
	tx *bbolt.Tx
}

// View returns the store as it is now. Everything that was committed before is in it.
func (s *Store) View(ctx context.Context) (*View, error) {
	tx, err := s.snapshot(ctx)
	return &View{s, tx}, err
}

// Close ends the view.
func (v *View) Close() error { return v.tx.Rollback() }

// Evidence is what the view says of the audit trail.
func (v *View) Evidence() (found keystore.Evidence, err error) {
	err = v.s.watched(func() error {
		found, err = evidence(v.tx)
		return err
	})
	return found, err
}

// copyMargin is how much room a copy leaves on its volume: the file of the store grows by
// a third of it at a time.
const copyMargin = 48 << 20

// CopyTo writes a store with the same content into an empty file, and returns its number
// of records. The copy has no free pages, and with them nothing that was replaced. Each
// part of it is flushed before the next one: nobody's commit has to wait for more than
// one part.
func (v *View) CopyTo(ctx context.Context, to *os.File) (records int, err error) {
	var volume unix.Statfs_t
	if err := unix.Fstatfs(int(to.Fd()), &volume); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	if free := volume.Bavail * uint64(volume.Bsize); free < uint64(v.tx.Size())+copyMargin { //nolint:gosec // neither is negative
		return 0, fmt.Errorf("a copy of the store takes up to %d MB, and its volume has %d MB free, of which %d MB are left alone: make room", v.tx.Size()>>20, free>>20, copyMargin>>20)
	}
	db, err := bbolt.Open(to.Name(), 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true,
		OpenFile: func(_ string, flag int, mode os.FileMode) (*os.File, error) {
			return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", to.Fd()), flag&^os.O_CREATE, mode) // also where it has no name
		},
	})
	if err != nil {
		return 0, err
	}
	err = v.s.watched(func() error {
		return v.tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			n, err := copyBucket(ctx, db, name, bucket)
			records += n
			return err
		})
	})
	return records, errors.Join(err, db.Close())
}

// copyBucket copies a bucket in parts of compactStep bytes.
func copyBucket(ctx context.Context, to *bbolt.DB, name []byte, from *bbolt.Bucket) (records int, err error) {
	c := from.Cursor()
	for k, value := c.First(); ; {
		err := to.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			bucket.FillPercent = 1 // keys come in order
			for size := 0; k != nil && size < compactStep; k, value = c.Next() {
				if bytes.Equal(name, bucketMeta) && bytes.Equal(k, keyCompaction) {
					continue // there is nothing to compact in the copy
				}
				if bytes.Equal(name, bucketSlots) && k[0] == ofRecord {
					records++
				}
				size += len(k) + len(value)
				if err := bucket.Put(k, value); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
		if err != nil || k == nil {
			return records, err
		}
	}
}

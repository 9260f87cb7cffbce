package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"go.etcd.io/bbolt"
)

// Formats 1 and 2 had a bucket of buckets for records, by collection, and one for
// index entries, by collection and then by index.
var (
	bucketOldRecords = []byte("records")
	bucketOldIndex   = []byte("index")
)

// upgradeStep is how many records and entries one commit of an upgrade moves, so
// that a large store takes no more memory than a small one.
const upgradeStep = 1000

// upgrade brings a store of an older format into this one, in steps that each are a
// commit. The first says that the store is of this format, so that no older release
// takes it for whole; what is left in the old buckets says how far it got. A crash
// leaves both, nothing twice and nothing lost, and the next Open goes on. Nobody
// else has the store yet.
func (s *Store) upgrade() error {
	begun := false
	for ; ; begun = true {
		left, err := s.needsUpgrade()
		if err != nil {
			return err
		}
		if !left {
			break
		}
		if !begun {
			s.log.Info("the key store is of an older release and is brought into the present format, which older releases refuse", "file", s.path)
		}
		if err := s.update(upgradeOnce); err != nil {
			return fmt.Errorf("bringing %s into format %d: %w", s.path, storeFormat, err)
		}
	}
	if !begun {
		return nil
	}
	s.log.Info("the key store is in the present format", "file", s.path)
	s.releaseMemory(s.db, int64(s.maxSize))
	return nil
}

// needsUpgrade reports whether anything is left in an older format.
func (s *Store) needsUpgrade() (left bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	tx, err := s.begin(false)
	if err != nil {
		return false, err
	}
	left = tx.Bucket(bucketOldRecords) != nil || tx.Bucket(bucketOldIndex) != nil
	return left, tx.Rollback()
}

// upgradeOnce makes one step.
func upgradeOnce(tx *bbolt.Tx) error {
	slots, err := tx.CreateBucketIfNotExists(bucketSlots)
	if err != nil {
		return err
	}
	err = tx.Bucket(bucketMeta).Put(keyFormat, binary.BigEndian.AppendUint32(nil, storeFormat))
	if err != nil {
		return err
	}
	m := mover{slots, upgradeStep}
	for _, old := range []struct {
		name []byte
		kind byte
	}{{bucketOldRecords, ofRecord}, {bucketOldIndex, ofEntry}} {
		bucket := tx.Bucket(old.name)
		if bucket == nil {
			continue
		}
		if done, err := m.empty(bucket, []byte{old.kind}); err != nil || !done {
			return err
		}
		if err := tx.DeleteBucket(old.name); err != nil {
			return err
		}
	}
	return nil
}

// mover moves what is in old buckets.
type mover struct {
	to   *bbolt.Bucket
	room int // how much more may be moved
}

// empty moves what is in a bucket and those in it, and removes those. A key gets the
// prefix, which grows by the name of each bucket on the way, as recordPrefix and
// entryPrefix do. done: nothing is left.
func (m *mover) empty(from *bbolt.Bucket, prefix []byte) (done bool, err error) {
	for m.room > 0 {
		k, v := from.Cursor().First()
		if k == nil {
			return true, nil
		}
		name := bytes.Clone(k)
		key := slices.Concat(prefix, name)
		if v == nil {
			if done, err := m.empty(from.Bucket(name), append(key, 0)); err != nil || !done {
				return false, err
			}
			err = from.DeleteBucket(name)
		} else {
			m.room--
			err = errors.Join(m.to.Put(key, bytes.Clone(v)), from.Delete(name))
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

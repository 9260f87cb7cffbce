package bolt

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// OpenSmall opens a store whose file may grow to that many bytes.
func OpenSmall(path string, maxSize int) (*Store, error) { return open(path, Options{}, maxSize) }

// Finish replaces the last step of every commit, or restores it with nil.
func (s *Store) Finish(fn func(*bbolt.Tx) error) {
	s.lead <- struct{}{}
	defer func() { <-s.lead }()
	s.finish = fn
	if fn == nil {
		s.finish = (*bbolt.Tx).Commit
	}
}

// OnFinish calls fn at the end of every commit that was written.
func (s *Store) OnFinish(fn func()) {
	s.Finish(func(tx *bbolt.Tx) error {
		err := tx.Commit()
		fn()
		return err
	})
}

// Hold takes the right to write until the function it returns is called.
func (s *Store) Hold() (release func()) {
	s.lead <- struct{}{}
	return func() { <-s.lead }
}

// Queued returns the number of commits that wait for a leader.
func (s *Store) Queued() int {
	s.queueLock.Lock()
	defer s.queueLock.Unlock()
	return len(s.queue)
}

// RecoverNow makes the next commit try to recover, however recent the last attempt.
func (s *Store) RecoverNow() {
	release := s.Hold()
	defer release()
	s.attempted = s.attempted.Add(-recoveryInterval)
}

// DB returns the database, for a test that holds the store alone.
func (s *Store) DB() *bbolt.DB { return s.db }

// Notes returns what is in the outbox, by revision.
func (s *Store) Notes() (map[uint64]string, error) {
	notes := map[uint64]string{}
	s.viewLock.Lock()
	defer s.viewLock.Unlock()
	return notes, s.view.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		n, err := decodeNote(k, v)
		notes[n.Revision] = string(n.Text)
		if len(n.Code) > 0 {
			notes[n.Revision] = fmt.Sprintf("%s|%s|%s", n.Previous, n.Code, n.Text)
		}
		return err
	})
}

// EncodeRecord and RecodeRecord are the codec: the second decodes and encodes again.
func EncodeRecord(revision uint64, op keystore.Op) []byte {
	return newRecord(revision, op).encode(op.Slot)
}

func RecodeRecord(slot keystore.Slot, b []byte) (keystore.Record, []keystore.IndexEntry, []byte, error) {
	r, err := decodeRecord(slot, b)
	if err != nil {
		return keystore.Record{}, nil, nil, err
	}
	return r.of(slot), r.index, r.encode(slot), nil
}

// IndexKey is where an entry stands in its index.
func IndexKey(value []byte, id string) []byte { return indexKey(value, id) }

// Checksummed returns a copy of b with its last four bytes made the checksum.
func Checksummed(slot keystore.Slot, b []byte) []byte {
	body := b[:len(b)-4]
	return binary.BigEndian.AppendUint32(append([]byte{}, body...), checksum(body, slot))
}

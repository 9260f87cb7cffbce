package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// trim is what a job does to the outbox beside its note.
type trim struct {
	through uint64
	name    string
	anchor  []byte
}

// Outbox implements keystore.Outbox.
func (s *Store) Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, note []byte) error) error {
	type entry struct {
		revision uint64
		note     []byte
	}
	var page []entry
	err := s.read(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(revisionKey(after + 1)); k != nil && len(page) < limit; k, v = c.Next() {
			revision, err := number(k)
			if err != nil {
				return fmt.Errorf("outbox: %w", err)
			}
			page = append(page, entry{revision, bytes.Clone(v)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range page { // readers do not wait for fn
		if err := fn(e.revision, e.note); err != nil {
			return err
		}
	}
	return nil
}

// Pending implements keystore.Outbox.
func (s *Store) Pending(ctx context.Context) (n int, err error) {
	err = s.read(ctx, func(*bbolt.Tx) error { n = s.pending; return nil })
	return n, err
}

// Trim implements keystore.Outbox. It is a commit like any other, and shares its
// flush with those that are made at the same time.
func (s *Store) Trim(ctx context.Context, through uint64, name string, anchor []byte) error {
	if err := keystore.ValidateAnchor(name, anchor); err != nil {
		return notCommitted(err)
	}
	_, err := s.submit(ctx, &job{trim: &trim{through, name, bytes.Clone(anchor)}, done: make(chan struct{})})
	return err
}

// Anchor implements keystore.Outbox.
func (s *Store) Anchor(ctx context.Context, name string) (anchor []byte, err error) {
	err = s.read(ctx, func(tx *bbolt.Tx) error {
		if anchors := tx.Bucket(bucketAnchors); anchors != nil {
			anchor = bytes.Clone(anchors.Get([]byte(name)))
		}
		return nil
	})
	return anchor, err
}

// apply takes notes out of the outbox and writes the anchor, in the transaction
// of the job: a crash leaves both or neither, and who exported the notes finds
// from the anchor which of them it has to look for in what it wrote.
func (t *trim) apply(tx *bbolt.Tx) (trimmed int, err error) {
	outbox := tx.Bucket(bucketOutbox)
	c := outbox.Cursor()
	var keys [][]byte
	for k, _ := c.First(); k != nil && bytes.Compare(k, revisionKey(t.through)) <= 0; k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys { // deleting at the cursor would make it skip entries
		if err := outbox.Delete(k); err != nil {
			return 0, err
		}
	}
	anchors, err := tx.CreateBucketIfNotExists(bucketAnchors)
	if err != nil {
		return 0, err
	}
	return len(keys), anchors.Put([]byte(t.name), t.anchor)
}

func revisionKey(revision uint64) []byte { return binary.BigEndian.AppendUint64(nil, revision) }

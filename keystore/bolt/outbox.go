package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/cryptobyte"

	"attestcsr/keystore"
)

// trim is what a job does to the outbox beside its note.
type trim struct {
	through uint64
	anchors map[string][]byte
}

// Outbox implements keystore.Outbox.
func (s *Store) Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, previous, code, note []byte) error) error {
	var page []keystore.Note
	err := s.read(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(revisionKey(after + 1)); k != nil && len(page) < limit; k, v = c.Next() {
			note, err := decodeNote(k, v)
			if err != nil {
				return err
			}
			page = append(page, note)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, n := range page { // readers do not wait for fn
		if err := fn(n.Revision, n.Previous, n.Code, n.Text); err != nil {
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
func (s *Store) Trim(ctx context.Context, through uint64, anchors map[string][]byte) error {
	if err := keystore.ValidateAnchors(anchors); err != nil {
		return notCommitted(err)
	}
	_, err := s.submit(ctx, &job{trim: &trim{through, anchors}, done: make(chan struct{})})
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

// apply takes notes out of the outbox and writes the anchors, in the transaction of the
// job: a crash leaves all of it or nothing, and who exported the notes finds from the
// anchors which of them it has to look for in what it wrote.
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
	bucket, err := tx.CreateBucketIfNotExists(bucketAnchors)
	for name, anchor := range t.anchors {
		if err == nil {
			err = bucket.Put([]byte(name), anchor)
		}
	}
	return len(keys), err
}

// Advance implements keystore.Outbox.
func (s *Store) Advance(ctx context.Context, revision uint64) error {
	_, err := s.submit(ctx, &job{advance: revision, done: make(chan struct{})})
	return err
}

// encodeNote makes the value of a note in the outbox: the code of the note before and
// its own, each after a byte with its length, then the note.
func encodeNote(previous, code, note []byte) []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, 2+len(previous)+len(code)+len(note)))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(previous) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(code) })
	b.AddBytes(note)
	return b.BytesOrPanic()
}

// decodeNote reads a note of the outbox. It shares no memory with the value.
func decodeNote(key, value []byte) (n keystore.Note, err error) {
	if n.Revision, err = number(key); err != nil {
		return n, fmt.Errorf("outbox: %w", err)
	}
	p := cryptobyte.String(bytes.Clone(value))
	var previous, code cryptobyte.String
	if !p.ReadUint8LengthPrefixed(&previous) || !p.ReadUint8LengthPrefixed(&code) {
		return n, fmt.Errorf("outbox: the note of revision %d is %w", n.Revision, errDamaged)
	}
	n.Previous, n.Code, n.Text = previous, code, p
	return n, nil
}

func revisionKey(revision uint64) []byte { return binary.BigEndian.AppendUint64(nil, revision) }

package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// read runs fn with the published snapshot. What fn keeps it must copy.
func (s *Store) read(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.viewLock.Lock()
	defer s.viewLock.Unlock()
	if s.view == nil {
		return fmt.Errorf("%w: the store is closed or recovering", keystore.ErrUnavailable)
	}
	return s.watched(func() error { return fn(s.view) })
}

// Get implements keystore.Records.
func (s *Store) Get(ctx context.Context, slot keystore.Slot) (r keystore.Record, err error) {
	if err := slot.Validate(); err != nil {
		return r, err
	}
	err = s.read(ctx, func(*bbolt.Tx) error {
		r, err = get(s.slots, slot)
		return err
	})
	return r, err
}

func get(slots *bbolt.Bucket, slot keystore.Slot) (keystore.Record, error) {
	stored, err := lookUp(slots, slot)
	if err != nil {
		return keystore.Record{}, err
	}
	return stored.of(slot), nil
}

// lookUp reads a slot's record.
func lookUp(slots *bbolt.Bucket, slot keystore.Slot) (record, error) {
	value := slots.Get(recordKey(slot))
	if value == nil {
		return record{}, fmt.Errorf("%s: %w", slot, keystore.ErrNotFound)
	}
	r, err := decodeRecord(slot, value)
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", slot, err)
	}
	return r, nil
}

// List implements keystore.Records. An index entry whose record is not there is
// damage.
func (s *Store) List(ctx context.Context, q keystore.Query) (items []keystore.Item, err error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	err = s.read(ctx, func(*bbolt.Tx) error {
		order := spanOf(s.slots.Cursor(), q)
		for k, v := order.seek(q); k != nil && len(items) < q.Limit; k, v = order.step(q) {
			slot := keystore.Slot{Collection: q.Collection, ID: string(k)}
			if q.Index != "" {
				slot.ID = string(v)
			}
			r, err := get(s.slots, slot)
			if errors.Is(err, keystore.ErrNotFound) {
				err = fmt.Errorf("%w: there is no %s", errDamagedIndex, slot)
			}
			if err != nil {
				return fmt.Errorf("listing %s: %w", q.Collection, err)
			}
			items = append(items, keystore.Item{Record: r, Position: bytes.Clone(k)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// Count implements keystore.Records.
func (s *Store) Count(ctx context.Context, collection string) (n int, err error) {
	err = s.read(ctx, func(tx *bbolt.Tx) error {
		count, err := counted(tx, collection)
		n = int(count) //nolint:gosec // far below 2^63
		return err
	})
	return n, err
}

func counted(tx *bbolt.Tx, collection string) (uint64, error) {
	return number(tx.Bucket(bucketCounts).Get([]byte(collection)))
}

// number reads 8 bytes; absent is 0.
func number(b []byte) (uint64, error) {
	switch len(b) {
	case 0:
		return 0, nil
	case 8:
		return binary.BigEndian.Uint64(b), nil
	}
	return 0, errDamagedNumber
}

// Inspect implements keystore.Store. It reads a snapshot of its own, so that readers
// and commits go on meanwhile; Close waits for it.
func (s *Store) Inspect(ctx context.Context, fn func(keystore.Record, error) error) (found keystore.Evidence, err error) {
	err = s.watched(func() (err error) {
		tx, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tx.Rollback()) }()
		if found, err = evidence(tx); err != nil || fn == nil {
			return err
		}
		c := tx.Bucket(bucketSlots).Cursor()
		for k, value := c.Seek([]byte{ofRecord}); len(k) > 0 && k[0] == ofRecord; k, value = c.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			slot, ok := slotOf(k)
			if !ok {
				return fmt.Errorf("%q: %w", k, errDamagedRecord)
			}
			r, unreadable := decodeRecord(slot, value)
			if err := fn(r.of(slot), unreadable); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

// evidence reads what a state of the store says of the audit trail.
func evidence(tx *bbolt.Tx) (keystore.Evidence, error) {
	found := keystore.Evidence{Anchors: map[string][]byte{}, Head: bytes.Clone(tx.Bucket(bucketMeta).Get(keyHead))}
	var err error
	if found.Revision, err = number(tx.Bucket(bucketMeta).Get(keyRevision)); err != nil {
		return found, err
	}
	if anchors := tx.Bucket(bucketAnchors); anchors != nil {
		err = anchors.ForEach(func(name, anchor []byte) error {
			found.Anchors[string(name)] = bytes.Clone(anchor)
			return nil
		})
	}
	return found, errors.Join(err, tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		note, err := decodeNote(k, v)
		found.Notes = append(found.Notes, note)
		return err
	}))
}

// snapshot begins a transaction of the caller's own on the published state. bbolt has
// no newer state while the caller leads and no outcome is unknown.
func (s *Store) snapshot(ctx context.Context) (*bbolt.Tx, error) {
	select {
	case s.lead <- struct{}{}:
		defer func() { <-s.lead }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.usable(); err != nil {
		return nil, err
	}
	return s.db.Begin(false)
}

package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// errIndexes: what is beside the records does not agree with them.
var errIndexes = errors.New("restore a backup")

// CheckIndexes calls problem with each place where indexes and counts do not agree with
// the records of one moment. It leaves damaged records to Inspect.
func (s *Store) CheckIndexes(ctx context.Context, problem func(where string, err error)) error {
	return s.watched(func() (err error) {
		tx, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tx.Rollback()) }()
		return checkIndexes(ctx, tx, problem)
	})
}

func checkIndexes(ctx context.Context, tx *bbolt.Tx, problem func(where string, err error)) error {
	slots := tx.Bucket(bucketSlots)
	counts := map[string]uint64{}
	missing, damaged := 0, false // entries of records less entries in the indexes
	err := slots.ForEach(func(k, v []byte) error {
		if slot, is := slotOf(k); is {
			counts[slot.Collection]++
			r, err := decodeRecord(slot, v)
			missing += len(r.index)
			damaged = damaged || err != nil
		} else if hasEntry(slots, k, v) {
			missing--
		} else {
			problem(fmt.Sprintf("index entry %q", k), fmt.Errorf("no record has it: %w", errIndexes))
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if missing != 0 && !damaged {
		problem("indexes", fmt.Errorf("%d entries are missing, so that lists leave objects out: %w", missing, errIndexes))
	}
	err = tx.Bucket(bucketCounts).ForEach(func(k, v []byte) error {
		n, err := number(v)
		if err != nil || n != counts[string(k)] {
			problem("count of "+string(k), fmt.Errorf("it is %d, and there are %d records: %w", n, counts[string(k)], errIndexes))
		}
		delete(counts, string(k))
		return nil
	})
	for collection, n := range counts {
		problem("count of "+collection, fmt.Errorf("it is missing, and there are %d records: %w", n, errIndexes))
	}
	return err
}

// hasEntry reports whether the record that an index entry names has that entry.
func hasEntry(slots *bbolt.Bucket, key, id []byte) bool {
	name, _ := bytes.CutPrefix(key, []byte{ofEntry})
	collection, _, _ := bytes.Cut(name, []byte{0})
	slot := keystore.Slot{Collection: string(collection), ID: string(id)}
	value := slots.Get(recordKey(slot))
	r, err := decodeRecord(slot, value)
	return value != nil && (err != nil || slices.ContainsFunc(r.index, func(e keystore.IndexEntry) bool { return bytes.Equal(entryKey(slot, e), key) }))
}

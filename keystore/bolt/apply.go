package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// applyAll makes the changes of jobs in a transaction, each in the state that those
// before it left, and returns the jobs that are to be committed. A job whose
// conditions are not met fails alone and changes nothing. An error is of the
// transaction: nothing of it may be committed.
func (s *Store) applyAll(tx *bbolt.Tx, jobs []*job) (applied []*job, err error) {
	meta := tx.Bucket(bucketMeta)
	revision, err := number(meta.Get(keyRevision))
	if err != nil {
		return nil, err
	}
	full := s.full(tx)
	for _, j := range jobs {
		if full && j.writes() {
			j.err = notCommitted(s.errFull())
			continue
		}
		before, err := conditions(tx, j.ops)
		switch {
		case errors.Is(err, keystore.ErrConflict), errors.Is(err, keystore.ErrNotFound):
			j.err = err
			continue
		case err != nil:
			return nil, err
		}
		if err := j.apply(tx, before, revision+1); err != nil {
			// What was asked for is within bounds: it is the file that is wrong.
			return nil, fmt.Errorf("writing: %w: %w", errDamaged, err)
		}
		applied = append(applied, j)
		revision = max(revision, j.result.Revision)
	}
	// Written even when it did not change: a check is to go all the way to disk.
	return applied, meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, revision))
}

// full reports whether the file has room left for deletions only.
func (s *Store) full(tx *bbolt.Tx) bool {
	free := int64(s.db.Stats().FreePageN) * int64(s.db.Info().PageSize)
	return int64(s.maxSize)-tx.Size()+free < reserve
}

// writes reports whether a job makes the store larger.
func (j *job) writes() bool {
	return slices.ContainsFunc(j.ops, func(op keystore.Op) bool { return !op.Delete })
}

func (s *Store) errFull() error {
	return fmt.Errorf("the key store is full: %s may take %d bytes", s.path, s.maxSize)
}

// conditions returns what each slot holds (revision 0: nothing) if all of them
// are in the expected state.
func conditions(tx *bbolt.Tx, ops []keystore.Op) ([]record, error) {
	before := make([]record, len(ops))
	slots := tx.Bucket(bucketSlots)
	for i, op := range ops {
		r, err := lookUp(slots, op.Slot)
		absent := errors.Is(err, keystore.ErrNotFound)
		if err != nil && !absent {
			return nil, err
		}
		if err := op.Expect.Check(op.Slot, r.revision); err != nil {
			return nil, err
		}
		if op.Delete && absent {
			return nil, err
		}
		before[i] = r
	}
	return before, nil
}

// apply makes the changes of a job whose slots hold before.
func (j *job) apply(tx *bbolt.Tx, before []record, revision uint64) error {
	j.result, j.notes = keystore.Commit{}, 0
	if j.trim != nil {
		trimmed, err := j.trim.apply(tx)
		if err != nil {
			return fmt.Errorf("trimming the outbox: %w", err)
		}
		j.notes -= trimmed
	}
	if len(j.ops) == 0 && len(j.note) == 0 {
		return nil // a check, or nothing but a trim: no revision
	}
	j.result.Revision = revision
	for i, op := range j.ops {
		if err := write(tx, op, before[i], revision); err != nil {
			return fmt.Errorf("%s: %w", op.Slot, err)
		}
	}
	if len(j.note) > 0 {
		if err := tx.Bucket(bucketOutbox).Put(revisionKey(revision), j.note); err != nil {
			return err
		}
		j.notes++
	}
	j.result.Unlinked = unlinked(before, j.ops)
	return nil
}

// write makes the change of one operation whose slot holds old: the record, its
// index entries and the count.
func write(tx *bbolt.Tx, op keystore.Op, old record, revision uint64) error {
	slots := tx.Bucket(bucketSlots)
	for _, e := range old.index {
		if err := slots.Delete(entryKey(op.Slot, e)); err != nil {
			return err
		}
	}
	count, err := counted(tx, op.Slot.Collection)
	if err != nil {
		return err
	}
	if old.revision != 0 {
		count--
	}
	if op.Delete {
		err = slots.Delete(recordKey(op.Slot))
	} else {
		count++
		stored := newRecord(revision, op)
		err = slots.Put(recordKey(op.Slot), stored.encode(op.Slot))
		for _, e := range stored.index {
			err = errors.Join(err, slots.Put(entryKey(op.Slot, e), []byte(op.Slot.ID)))
		}
	}
	return errors.Join(err, tx.Bucket(bucketCounts).Put([]byte(op.Slot.Collection), binary.BigEndian.AppendUint64(nil, count)))
}

// unlinked returns the references that were in the slots before and that no
// operation wrote again.
func unlinked(before []record, ops []keystore.Op) []keystore.Ref {
	var refs []keystore.Ref
	for _, r := range before {
		again := slices.ContainsFunc(ops, func(op keystore.Op) bool { return !op.Delete && bytes.Equal(op.Ref, r.ref) })
		if len(r.ref) > 0 && !again {
			refs = append(refs, r.ref)
		}
	}
	return refs
}

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
		before, err := s.conditions(tx, j.ops)
		switch {
		case errors.Is(err, keystore.ErrConflict), errors.Is(err, keystore.ErrNotFound), errors.Is(err, keystore.ErrRotated):
			j.err = err
			continue
		case err != nil:
			return nil, err
		}
		if err := j.apply(tx, before, revision+1, s.guard); err != nil {
			// What was asked for is within bounds: it is the file that is wrong.
			return nil, fmt.Errorf("writing: %w: %w", errDamaged, err)
		}
		applied = append(applied, j)
		revision = max(revision, j.result.Revision, j.advance)
	}
	// Written even when it did not change: a check is to go all the way to disk.
	return applied, meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, revision))
}

// full reports whether the file has room left for deletions only.
func (s *Store) full(tx *bbolt.Tx) bool {
	return int64(s.maxSize)-tx.Size()+s.reusable() < reserve
}

// writes reports whether a job needs the room that is not kept for deletions. A note
// alone does, and so does a check, which stands for a create.
func (j *job) writes() bool {
	return j.check || len(j.ops) == 0 && len(j.note) > 0 || slices.ContainsFunc(j.ops, func(op keystore.Op) bool { return !op.Delete })
}

func (s *Store) errFull() error {
	return fmt.Errorf("the key store is full: %s may take %d bytes", s.path, s.maxSize)
}

// conditions returns what each slot holds (revision 0: nothing) if all of them
// are in the expected state, and the guard admits the operations.
func (s *Store) conditions(tx *bbolt.Tx, ops []keystore.Op) ([]record, error) {
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
		if (op.Delete || op.Relink) && absent {
			return nil, err
		}
		if s.guard != nil && !op.Delete {
			if err := s.guard.Admit(op); err != nil {
				return nil, err
			}
		}
		before[i] = r
	}
	return before, nil
}

// apply makes the changes of a job whose slots hold before.
func (j *job) apply(tx *bbolt.Tx, before []record, revision uint64, guard keystore.Guard) error {
	j.result, j.notes = keystore.Commit{}, 0
	if j.trim != nil {
		trimmed, err := j.trim.apply(tx)
		if err != nil {
			return fmt.Errorf("trimming the outbox: %w", err)
		}
		j.notes -= trimmed
	}
	switch {
	case j.check:
		return scratch(tx, revision)
	case j.compaction:
		return tx.Bucket(bucketMeta).Put(keyCompaction, []byte{1})
	}
	if len(j.ops) == 0 && len(j.note) == 0 {
		return nil // nothing but a trim or an advance: no revision
	}
	j.result.Revision = revision
	for i, op := range j.ops {
		if err := write(tx, op, before[i], revision); err != nil {
			return fmt.Errorf("%s: %w", op.Slot, err)
		}
	}
	for i, r := range before {
		if r.revision != 0 {
			j.result.Replaced = append(j.result.Replaced, r.of(j.ops[i].Slot))
		}
	}
	if len(j.note) == 0 {
		return nil
	}
	j.notes++
	return appendNote(tx, guard, revision, j.note)
}

// appendNote puts a note into the outbox, with its code and that of the note before,
// and makes its code the head of the chain of notes.
func appendNote(tx *bbolt.Tx, guard keystore.Guard, revision uint64, note []byte) (err error) {
	meta := tx.Bucket(bucketMeta)
	previous := bytes.Clone(meta.Get(keyHead))
	var code []byte
	if guard != nil {
		if code, err = guard.Seal(previous, revision, note); err != nil {
			return err
		}
	}
	return errors.Join(tx.Bucket(bucketOutbox).Put(revisionKey(revision), encodeNote(previous, code, note)), meta.Put(keyHead, code))
}

// scratch overwrites the scratch record, which is as large as what a create stores: a
// store that has no room for one is not ready for the other.
func scratch(tx *bbolt.Tx, revision uint64) error {
	bucket, err := tx.CreateBucketIfNotExists(bucketScratch)
	if err != nil {
		return err
	}
	value := make([]byte, keystore.CheckSize)
	binary.BigEndian.PutUint64(value, revision)
	return bucket.Put(keyScratch, value)
}

// write makes the change of one operation whose slot holds old: the record, its
// index entries and the count.
func write(tx *bbolt.Tx, op keystore.Op, old record, revision uint64) error {
	slots := tx.Bucket(bucketSlots)
	if op.Relink {
		old.ref, old.code = op.Ref, op.Code
		return slots.Put(recordKey(op.Slot), old.encode(op.Slot))
	}
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

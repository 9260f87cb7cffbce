package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"attestcsr/keystore"
)

// job is one call of Commit on its way through the queue.
type job struct {
	note []byte
	ops  []keystore.Op
	trim *trim // nil: nothing to trim

	done   chan struct{} // closed by the leader when the fields below are final
	result keystore.Commit
	notes  int // by how many the outbox grew
	err    error
}

const (
	// A leader takes this many jobs into one transaction at most, so that none
	// waits long for the others' pages to be written.
	maxBatch = 128
	// recoveryInterval is the least time between two attempts to recover.
	recoveryInterval = time.Second
)

// Commit implements keystore.Store. Commits that arrive while one is being
// written are written together by the next: whoever gets the right to lead
// commits for all in the queue. A lone caller leads at once.
func (s *Store) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	if err := keystore.ValidateCommit(note, ops); err != nil {
		return keystore.Commit{}, notCommitted(err)
	}
	return s.submit(ctx, &job{note: note, ops: ops, done: make(chan struct{})})
}

// Check implements keystore.Store. Like every commit it first tries to recover a
// store that refuses commits, at most once a second.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.submit(ctx, &job{done: make(chan struct{})})
	return err
}

func (s *Store) submit(ctx context.Context, j *job) (keystore.Commit, error) {
	if err := ctx.Err(); err != nil {
		return keystore.Commit{}, notCommitted(err)
	}
	s.queueLock.Lock()
	s.queue = append(s.queue, j)
	s.queueLock.Unlock()

	for {
		select {
		case s.lead <- struct{}{}:
			s.commitQueue()
			<-s.lead
			select {
			case <-j.done:
				return j.result, j.err
			default: // more were queued than one transaction takes
			}
		case <-j.done:
			return j.result, j.err
		case <-ctx.Done():
			if s.leave(j) {
				return keystore.Commit{}, notCommitted(ctx.Err())
			}
			<-j.done // a leader has it: only the outcome is left to hear
			return j.result, j.err
		}
	}
}

// leave takes a job out of the queue, unless a leader has taken it.
func (s *Store) leave(j *job) bool {
	s.queueLock.Lock()
	defer s.queueLock.Unlock()
	i := slices.Index(s.queue, j)
	if i < 0 {
		return false
	}
	s.queue = slices.Delete(s.queue, i, i+1)
	return true
}

// commitQueue takes what is queued and brings it to an end. The caller leads.
func (s *Store) commitQueue() {
	s.queueLock.Lock()
	n := min(len(s.queue), maxBatch)
	batch := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	s.queueLock.Unlock()
	if n == 0 {
		return // an earlier leader had taken them all
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err := s.usable()
	if err == nil {
		err = s.inPlace()
	}
	if err != nil {
		fail(batch, err)
	} else {
		for pending := batch; len(pending) > 0; {
			pending = s.commitBatch(pending)
		}
	}
	for _, j := range batch {
		close(j.done)
	}
}

func fail(jobs []*job, err error) {
	for _, j := range jobs {
		j.result, j.err = keystore.Commit{}, err
	}
}

// commitBatch writes jobs in one transaction, each on top of those before it. A
// job whose conditions are not met fails alone. One that fails after its first
// write has spoiled the transaction: the others are returned, to be tried again
// without it.
func (s *Store) commitBatch(jobs []*job) (again []*job) {
	tx, err := s.begin(true)
	if err != nil {
		fail(jobs, notCommitted(err))
		return nil
	}
	defer abandon(tx)
	applied, again, err := s.applyAll(tx, jobs)
	if err != nil {
		fail(jobs, notCommitted(err))
		return nil
	}
	if len(again) > 0 || len(applied) == 0 {
		return again
	}
	notes := 0
	for _, j := range applied {
		notes += j.notes
	}
	switch err := s.commitTx(tx, notes); {
	case errors.Is(err, keystore.ErrOutcomeUnknown):
		fail(applied, err)
	case err != nil:
		// Those whose conditions failed too: what they were checked against has
		// not happened.
		fail(jobs, err)
	}
	return nil
}

// applyAll applies jobs until one spoils the transaction. It returns those that
// are to be committed, or those that are to be tried again in another.
func (s *Store) applyAll(tx *bbolt.Tx, jobs []*job) (applied, again []*job, err error) {
	defer s.guard(&err)
	meta := tx.Bucket(bucketMeta)
	revision, err := number(meta.Get(keyRevision))
	if err != nil {
		return nil, nil, err
	}
	full := s.full(tx)
	for i, j := range jobs {
		if full && writes(j) {
			fail(jobs[i:i+1], notCommitted(s.errFull()))
			continue
		}
		spoiled, err := s.apply(tx, j, revision+1)
		switch {
		case spoiled:
			fail(jobs[i:i+1], notCommitted(err))
			return nil, slices.Concat(jobs[:i], jobs[i+1:]), nil
		case err != nil:
			fail(jobs[i:i+1], err)
		default:
			j.err = nil
			applied = append(applied, j)
			revision = max(revision, j.result.Revision)
		}
	}
	// Written even when it did not change: a check is to go all the way to disk.
	return applied, nil, meta.Put(keyRevision, binary.BigEndian.AppendUint64(nil, revision))
}

// commitTx is the commit point. In this order, the file is given
//
//  1. the pages of the transaction, on pages that no state in use refers to,
//  2. a flush,
//  3. the meta page that refers to them, over the older of the two,
//  4. a flush,
//
// and then readers are given the new state. A crash before 3 leaves the old
// state, whose pages are untouched; the new ones are free again at the next open.
// A crash between 3 and the end of 4 leaves the old or the new state, and nobody
// has been told either; a meta page that was torn fails its checksum and counts
// as not written. A crash after 4 leaves the new state.
//
// An error up to 3 is ErrNotCommitted: the old state is in place and commits go
// on. An error of 4 leaves the new meta page in the page cache, visible to bbolt
// but perhaps not on the disk, and Linux will not report the failure twice. That
// is ErrOutcomeUnknown. Readers keep the old state; nothing may be written any
// more, since bbolt takes the pages of the old state for free. What the disk has
// is found out by recover.
//
// A commit into a file that is no longer at its path may be gone with it, or there
// again when it is put back: its outcome is unknown, too.
func (s *Store) commitTx(tx *bbolt.Tx, notes int) error {
	id := tx.ID()
	panicked, err := s.finishTx(tx)
	if err == nil {
		if err = s.inPlace(); err == nil {
			err = s.publish(notes)
		}
		if err == nil {
			return nil
		}
	} else if !panicked && !s.shows(id) {
		if errors.Is(err, berrors.ErrMaxSizeReached) {
			err = s.errFull()
		}
		return notCommitted(err)
	}
	s.broken = fmt.Errorf("%w: recovering from a failed commit", keystore.ErrUnavailable)
	s.log.Error("a commit to the key store failed and may have happened all the same; no changes until it has been read again",
		"file", s.path, "error", err)
	return fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, err)
}

// finishTx commits and tells a panic of bbolt from an error: after a panic its
// state in memory is not to be trusted.
func (s *Store) finishTx(tx *bbolt.Tx) (panicked bool, err error) {
	panicked = true
	s.writing = true
	defer func() { s.writing = false }()
	defer s.guard(&err)
	err = s.finish(tx)
	return false, err
}

// shows reports whether bbolt would show new transactions the one with that id.
func (s *Store) shows(id int) bool {
	shown := true // if in doubt
	err := func() (err error) {
		defer s.guard(&err)
		tx, err := s.begin(false)
		if err != nil {
			return err
		}
		shown = tx.ID() >= id
		return tx.Rollback()
	}()
	return err != nil || shown
}

// full reports whether the file has room left for deletions only.
func (s *Store) full(tx *bbolt.Tx) bool {
	free := int64(s.db.Stats().FreePageN) * int64(s.pageSize)
	return int64(s.maxSize)-tx.Size()+free < reserve
}

// writes reports whether a job makes the store larger.
func writes(j *job) bool {
	return slices.ContainsFunc(j.ops, func(op keystore.Op) bool { return !op.Delete })
}

func (s *Store) errFull() error {
	return fmt.Errorf("the key store is full: %s may take %d bytes", s.path, s.maxSize)
}

func notCommitted(cause error) error {
	return fmt.Errorf("%w: %w", keystore.ErrNotCommitted, cause)
}

// apply checks the conditions of a job and makes its changes, in the state that
// the jobs before it left. Unless spoiled, an error means that nothing was written.
func (s *Store) apply(tx *bbolt.Tx, j *job, revision uint64) (spoiled bool, err error) {
	defer s.guard(&err)
	spoiled = true // what a panic leaves
	before, err := s.conditions(tx, j.ops)
	if err != nil {
		return false, err
	}
	j.result, j.notes = keystore.Commit{}, 0
	if j.trim != nil {
		trimmed, err := j.trim.apply(tx)
		if err != nil {
			return true, fmt.Errorf("trimming the outbox: %w", err)
		}
		j.notes -= trimmed
	}
	if len(j.ops) == 0 && len(j.note) == 0 {
		return false, nil // a check, or nothing but a trim: no revision
	}
	j.result.Revision = revision
	for i, op := range j.ops {
		if err := write(tx, op, before[i], revision); err != nil {
			return true, fmt.Errorf("%s: %w", op.Slot, err)
		}
	}
	if len(j.note) > 0 {
		if err := tx.Bucket(bucketOutbox).Put(revisionKey(revision), j.note); err != nil {
			return true, err
		}
		j.notes++
	}
	j.result.Unlinked = unlinked(before, j.ops)
	return false, nil
}

// conditions returns what each slot holds (revision 0: nothing) if all of them
// are in the expected state.
func (s *Store) conditions(tx *bbolt.Tx, ops []keystore.Op) ([]record, error) {
	before := make([]record, len(ops))
	slots := tx.Bucket(bucketSlots)
	for i, op := range ops {
		r, err := lookUp(slots, op.Slot)
		absent := errors.Is(err, keystore.ErrNotFound)
		if err != nil && !absent {
			return nil, notCommitted(err)
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

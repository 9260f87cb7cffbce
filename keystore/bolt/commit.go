package bolt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"attestcsr/keystore"
)

// job is one call of Commit on its way through the queue.
type job struct {
	note []byte
	ops  []keystore.Op
	trim *trim // nil: nothing to trim
	// advance is a revision that later commits are to be above; 0: any.
	advance    uint64
	check      bool // it overwrites the scratch record
	compaction bool // it says that one is due

	done   chan struct{} // closed by the leader when the fields below are final
	result keystore.Commit
	notes  int // by how many the outbox grew
	err    error
}

// A leader takes this many jobs into one transaction at most, so that none waits
// long for the others' pages to be written.
const maxBatch = 128

// Commit implements keystore.Records. Commits that arrive while one is being
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
	_, err := s.submit(ctx, &job{check: true, done: make(chan struct{})})
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
			if s.leaveQueue(j) {
				return keystore.Commit{}, notCommitted(ctx.Err())
			}
			<-j.done // a leader has it: only the outcome is left to hear
			return j.result, j.err
		}
	}
}

// leaveQueue takes a job out of the queue, unless a leader has taken it.
func (s *Store) leaveQueue(j *job) bool {
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
	err := s.usable()
	if err == nil {
		err = s.inPlace()
	}
	if err != nil {
		fail(batch, err)
	} else {
		s.commitBatch(batch)
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

// commitBatch writes jobs in one transaction. tx.Commit is the commit point. In this
// order, the file is given
//
//  1. the pages of the transaction, on pages that no state in use refers to,
//  2. a flush,
//  3. the meta page that refers to them, over the older of the two,
//  4. a flush,
//
// and then readers are given the new state. A crash before 3 leaves the old
// state, whose pages are untouched; the new ones are free again at the next open.
// A crash between 3 and the end of 4 leaves the old or the new state, and no
// caller has an answer yet; a meta page that was torn fails its checksum and counts
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
func (s *Store) commitBatch(jobs []*job) {
	var applied []*job
	unknown := false // whether the commit happened, if there is an error
	err := s.watched(func() error {
		tx, err := s.begin()
		if err != nil {
			return err
		}
		defer rollBack(tx)
		applied, err = s.applyAll(tx, jobs)
		if err != nil || len(applied) == 0 {
			return err
		}
		id := tx.ID()
		unknown = true // also if bbolt panics
		if err := s.finish(tx); err != nil {
			unknown = s.mayShow(id)
			if errors.Is(err, berrors.ErrMaxSizeReached) {
				err = s.errFull()
			}
			return err
		}
		if err := s.inPlace(); err != nil {
			return err
		}
		notes := 0
		for _, j := range applied {
			notes += j.notes
		}
		return s.publish(notes)
	})
	switch {
	case err == nil:
	case unknown:
		s.broken = fmt.Errorf("%w: recovering from a failed commit", keystore.ErrUnavailable)
		s.log.Error("a commit to the key store failed and may have happened all the same; no changes until it has been read again",
			"file", s.path, "error", err)
		fail(applied, fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, err))
	default:
		// That includes the jobs that failed their conditions: they were checked
		// against a state that did not come about.
		fail(jobs, notCommitted(err))
	}
}

// begin begins a transaction for writing. Where the newer of the two meta pages is
// damaged, bbolt takes the older one, and the commit would undo the one before it.
func (s *Store) begin() (*bbolt.Tx, error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, err
	}
	if tx.ID() <= s.view.ID() {
		rollBack(tx)
		return nil, fmt.Errorf("%w: the last commit is gone", errStructure)
	}
	return tx, nil
}

// mayShow reports whether bbolt shows the transaction with that id to new ones. If it
// cannot be found out, the answer is yes.
func (s *Store) mayShow(id int) bool {
	newest := id
	err := s.db.View(func(tx *bbolt.Tx) error {
		newest = tx.ID()
		return nil
	})
	return err != nil || newest >= id
}

func notCommitted(cause error) error {
	return fmt.Errorf("%w: %w", keystore.ErrNotCommitted, cause)
}

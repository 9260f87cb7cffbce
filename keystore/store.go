package keystore

import (
	"context"
	"fmt"
)

// Expect is the state a slot must be in for a change to happen.
type Expect struct {
	absent   bool
	revision uint64
}

// Any accepts whatever the slot holds; Absent only an empty slot.
var (
	Any    = Expect{}
	Absent = Expect{absent: true}
)

// At accepts only the record with that revision, as Record.Revision gave it.
// No record has revision 0, so At(0) is Absent.
func At(revision uint64) Expect { return Expect{absent: revision == 0, revision: revision} }

// Check reports whether a slot in the given state (revision 0: empty) is what
// was expected; otherwise the error is ErrConflict.
func (e Expect) Check(slot Slot, revision uint64) error {
	switch {
	case e.absent && revision != 0:
		return fmt.Errorf("%s: %w: it is not empty", slot, ErrConflict)
	case e.revision != 0 && e.revision != revision:
		return fmt.Errorf("%s: %w: revision %d, not %d", slot, ErrConflict, revision, e.revision)
	}
	return nil
}

// Record is what a store holds for a slot. Revision comes from one sequence for
// the whole store, so that a slot that was deleted and made again never repeats
// one; it is never 0 in a stored record. The byte slices belong to the caller.
type Record struct {
	Slot     Slot
	Revision uint64
	Ref      Ref // empty where the slot holds no key
	Payload  []byte
}

// IndexEntry sorts a record in the index of that name within its collection.
// Values are any bytes, of any length up to MaxIndexValueLen, and compare as
// bytes; the slot's ID breaks ties. A record has at most one entry per index.
type IndexEntry struct {
	Name  string
	Value []byte
}

// Op is one change of one slot within a commit.
type Op struct {
	Slot   Slot
	Expect Expect
	// Delete empties the slot; the fields below are then unused. Deleting an
	// empty slot that meets Expect is ErrNotFound.
	Delete  bool
	Ref     Ref
	Payload []byte
	Index   []IndexEntry
}

// Query asks for one page of a collection.
type Query struct {
	Collection string
	// Index is the name of the index to sort by; empty sorts by ID. Records
	// without an entry in that index are not listed.
	Index string
	// After is the Position of the last item of the page before; nil starts at
	// the beginning (at the end when Descending).
	After      []byte
	Limit      int // at least 1
	Descending bool
}

// Item is a record of a page. Position says where it stands in the order of the
// query; it is valid as Query.After whether or not the record still exists.
type Item struct {
	Record
	Position []byte
}

// Commit is the result of a successful commit: the revision that every written
// record of it carries, and the references of the records that it replaced or
// deleted, without those that it wrote again.
type Commit struct {
	Revision uint64
	Unlinked []Ref
}

// Records is where records live. Implementations are safe for concurrent use.
// Readers see a commit only after it is durable.
type Records interface {
	// Get returns the slot's record, or ErrNotFound.
	Get(ctx context.Context, slot Slot) (Record, error)
	// List returns up to q.Limit items. Its cost does not depend on the size of
	// the collection.
	List(ctx context.Context, q Query) ([]Item, error)
	// Count returns the number of records in a collection without a scan.
	Count(ctx context.Context, collection string) (int, error)
	// Refs calls fn with the reference of every record until fn returns an
	// error, which it returns. It scans; it is for start-up and maintenance.
	Refs(ctx context.Context, fn func(Slot, Ref) error) error
	// Commit applies all of ops, or none, durably: it has reached stable storage
	// when it returns. All conditions are checked before the first write. A
	// note, where given, is appended to the outbox in the same commit.
	// The bounds are those of ValidateCommit. The end of ctx withdraws a commit
	// only while it is certain that nothing of it will happen.
	// Errors: ErrConflict, ErrNotFound, ErrNotCommitted (bounds and the end of
	// ctx too), ErrOutcomeUnknown, ErrUnavailable.
	Commit(ctx context.Context, note []byte, ops ...Op) (Commit, error)
}

// Store is a back end that keeps records. Its owner closes it.
type Store interface {
	Records
	// Check makes a small durable write of its own and reports whether the
	// store can take commits.
	Check(ctx context.Context) error
	// Close waits for the commit under way; those still queued, and everything
	// after it, fail with ErrUnavailable. Closing twice is no error.
	Close() error
}

// Outbox is where the notes of commits wait to be exported. The same back end
// keeps it, since a note is appended in the commit that it is of. Implementations
// are safe for concurrent use.
type Outbox interface {
	// Outbox calls fn with the notes of commits after a revision, in the order of
	// their commits, limit of them at most, until fn returns an error, which it
	// returns. A note belongs to fn. What fn sees is durable, and later commits
	// have higher revisions. So notes cannot come up before one that fn has seen.
	Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, note []byte) error) error
	// Pending returns the number of notes in the outbox. It is cheap enough to
	// be asked before every change.
	Pending(ctx context.Context) (int, error)
	// Trim removes the notes up to and including a revision, and keeps an anchor
	// under a name in place of the one before, both in one commit. The anchor says
	// durably what became of the notes. Revision 0 removes nothing. The bounds are
	// those of ValidateAnchor, the errors those of Commit. A store that is too
	// full for other commits takes this one.
	Trim(ctx context.Context, through uint64, name string, anchor []byte) error
	// Anchor returns what the last Trim kept under a name, or nil. It belongs to
	// the caller.
	Anchor(ctx context.Context, name string) ([]byte, error)
}

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
	Index    []IndexEntry // in ascending order of names
	Code     []byte       // authenticates all of it but the revision
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
	Delete bool
	// Relink gives the record another reference and another code. Everything else of
	// it stays, its revision too. An empty slot is ErrNotFound.
	Relink  bool
	Ref     Ref
	Payload []byte
	Index   []IndexEntry
	Code    []byte
}

// Query asks for one page of a collection.
type Query struct {
	Collection string
	// Index is the name of the index to sort by; empty sorts by ID. Records
	// without an entry in that index are not listed.
	Index string
	// Prefix leaves out records whose ID, or with an Index whose value, does not begin
	// with it. It goes with the ascending order only.
	Prefix []byte
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
	Err      error // of Keystore.List: the record is not authentic, and its content left out
}

// Commit is the result of a successful commit: the revision that every written
// record of it carries, and the records that it replaced, relinked or deleted, as
// they were before.
type Commit struct {
	Revision uint64
	Replaced []Record
}

// Guard is what a store asks within the transaction of a commit, for each commit in
// the order in which they are applied, and again when a batch is repeated.
type Guard interface {
	// Admit returns ErrRotated for an operation whose code is of a key that is no
	// longer the primary one. That commit fails alone.
	Admit(op Op) error
	// Seal returns the code of a note. previous is the code of the note before, or
	// nothing.
	Seal(previous []byte, revision uint64, note []byte) ([]byte, error)
}

// Note is a note as the outbox holds it. Previous is the code of the note before it,
// which may have left the outbox.
type Note struct {
	Revision             uint64
	Previous, Code, Text []byte
}

// Evidence is what a store says of the audit trail at one moment.
type Evidence struct {
	Revision uint64 // the last that was given out
	Head     []byte // code of the newest note that there ever was
	Anchors  map[string][]byte
	Notes    []Note // in the outbox, the oldest first
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
	// Commit applies all of ops, or none, durably: it has reached stable storage
	// when it returns. All conditions are checked before the first write. A
	// note, where given, is appended to the outbox in the same commit. A note may come
	// alone.
	// The bounds are those of ValidateCommit. The end of ctx withdraws a commit
	// only while it is certain that nothing of it will happen.
	// Errors: ErrConflict, ErrNotFound, ErrNotCommitted (bounds and the end of
	// ctx too), ErrOutcomeUnknown, ErrUnavailable.
	Commit(ctx context.Context, note []byte, ops ...Op) (Commit, error)
}

// Store is a back end that keeps records. Its owner closes it.
type Store interface {
	Records
	// Protect says whom to ask within commits. It comes before the first commit.
	// Without a guard notes have no codes.
	Protect(g Guard)
	// Inspect reads all of the store at one moment, while commits go on. It calls fn
	// with every record until fn returns an error, which it returns. A record that
	// cannot be read comes with its slot alone and the reason. It is for start-up and
	// maintenance.
	Inspect(ctx context.Context, fn func(r Record, unreadable error) error) (Evidence, error)
	// Check overwrites a scratch record of CheckSize bytes and reports whether the
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
	// returns. Note says what previous and code are; all belong to fn. What fn sees is durable, and later commits
	// have higher revisions. So notes cannot come up before one that fn has seen.
	Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, previous, code, note []byte) error) error
	// Pending returns the number of notes in the outbox. It is cheap enough to
	// be asked before every change.
	Pending(ctx context.Context) (int, error)
	// Trim removes the notes up to and including a revision, and keeps anchors under
	// their names in place of those before, all in one commit. The anchors say durably
	// what became of the notes. Revision 0 removes nothing. The bounds are those of
	// ValidateAnchors, the errors those of Commit. A store that is too full for other
	// commits takes this one.
	Trim(ctx context.Context, through uint64, anchors map[string][]byte) error
	// Advance makes the revisions of later commits higher than this one, for a store
	// that was put back from a backup. The errors are those of Commit.
	Advance(ctx context.Context, revision uint64) error
	// Anchor returns what the last Trim kept under a name, or nil. It belongs to
	// the caller.
	Anchor(ctx context.Context, name string) ([]byte, error)
}

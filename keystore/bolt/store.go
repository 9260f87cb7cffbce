// Package bolt is a store in one file, on bbolt.
//
// # Layout, format 3
//
//	meta     "format"    4 bytes, big-endian: 3
//	         "revision"  8 bytes, big-endian: the last revision given out
//	slots    recordKey   the record (see record)
//	         entryKey    the slot's id
//	counts   collection  8 bytes, big-endian: the number of records
//	outbox   revision    8 bytes, big-endian: the note of the commit that has it
//	anchors  name        what the last Trim of that name kept; the bucket is absent
//	                     until the first
//
// Records and index entries of all collections are in one tree, since a commit
// writes a path of pages in each tree that it touches. Formats 1 and 2 were never
// released.
//
// # What readers see
//
// bbolt shows a commit to new transactions before its last flush to disk. Readers
// therefore share one transaction that was begun after the last commit returned,
// and never see what a power cut could take back. They wait for each other, for
// microseconds, but never for a disk.
//
// # Backup
//
// A copy of the file is a backup only while no process has it open.
package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// Names in the file; constants in spirit.
var (
	bucketMeta    = []byte("meta")
	bucketSlots   = []byte("slots")
	bucketCounts  = []byte("counts")
	bucketOutbox  = []byte("outbox")
	bucketAnchors = []byte("anchors")
	keyFormat     = []byte("format")
	keyRevision   = []byte("revision")
)

// Options says how a store is opened.
type Options struct {
	Logger *slog.Logger // nil discards
	// MaxSize is how large the file may grow, in bytes; default 64 GiB, at least
	// 128 MiB. Close to it commits that write records are refused, and those that
	// only delete go on.
	MaxSize int
}

// Store implements keystore.Store and keystore.Outbox.
type Store struct {
	path    string
	log     *slog.Logger
	maxSize int

	// queue holds the commits that no leader has taken yet.
	queueLock sync.Mutex
	queue     []*job

	// lead is the right to write, held by who could send to it: one commit leads
	// for all in the queue. It guards the fields below.
	lead      chan struct{}
	db        *bbolt.DB   // nil after a recovery that failed half-way
	file      *os.File    // the one that db has open, or had
	identity  fs.FileInfo // of the file, for os.SameFile
	pageSize  int         // of the file
	shown     int         // transaction of the state that readers were shown last
	displaced bool        // it was not at its path when that was looked at last
	writing   bool        // bbolt is committing
	broken    error       // why commits are refused; nil: they are not
	attempted time.Time   // last attempt to recover
	closed    bool
	finish    func(*bbolt.Tx) error // (*bbolt.Tx).Commit; tests make it fail

	// view is the published snapshot; nil after Close and while recovering.
	viewLock sync.Mutex
	view     *bbolt.Tx
	slots    *bbolt.Bucket // of view: finding it takes as long as finding a record
	pending  int           // notes in the outbox of view
}

var (
	_ keystore.Store  = (*Store)(nil)
	_ keystore.Outbox = (*Store)(nil)
)

// Open opens the store at path, or makes it where there is none. ErrLocked means
// that another process has it open. A file that is not a store, is damaged, of a
// newer format or accessible to others is refused with an error that says what
// to do.
func Open(path string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxSize == 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.MaxSize < minMaxSize {
		return nil, fmt.Errorf("the largest size of the key store is at least %d bytes", minMaxSize)
	}
	s := &Store{path: path, log: o.Logger, maxSize: o.MaxSize, lead: make(chan struct{}, 1), finish: (*bbolt.Tx).Commit}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := s.create(); err != nil {
			return nil, fmt.Errorf("creating the key store: %w", err)
		}
	}
	db, err := s.openDatabase()
	if err != nil {
		return nil, err
	}
	s.db = db
	if err := s.publishCounted(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// Close waits for the commit under way. Commits still in the queue, and every
// call after it, fail with keystore.ErrUnavailable. Closing twice is no error.
func (s *Store) Close() error {
	s.lead <- struct{}{}
	defer func() { <-s.lead }()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.withdraw()
	if s.db == nil {
		return err
	}
	if s.broken == nil {
		// The last commit writes the free list, which saves the next open bbolt's
		// own search of the whole file, beside that of checkStructure. A crash
		// before it costs only that search.
		s.db.NoFreelistSync = false
		err = errors.Join(err, s.update(func(*bbolt.Tx) error { return nil }))
	}
	return errors.Join(err, s.db.Close())
}

// update runs fn in a transaction of its own and commits it. The caller leads.
func (s *Store) update(fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	tx, err := s.begin(true)
	if err != nil {
		return err
	}
	defer abandon(tx)
	if err := fn(tx); err != nil {
		return err
	}
	_, err = s.finishTx(tx)
	return err
}

// abandon rolls a transaction back unless it is finished, and frees bbolt's
// writer lock also after a panic half-way through a commit.
func abandon(tx *bbolt.Tx) { _ = tx.Rollback() }

// guard turns a panic into an error, for functions that touch the file: bbolt
// panics on damaged pages, and a page that cannot be read is a memory fault, which
// is a panic after debug.SetPanicOnFault(true) and the end of the process without.
// Used as: defer s.guard(&err).
func (s *Store) guard(err *error) {
	switch p := recover().(type) {
	case nil:
	case foundDamage:
		*err = p.error
	default:
		s.log.Error("the key store is damaged", "file", s.path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = fmt.Errorf("%s is damaged: restore a backup", s.path)
	}
}

// publish makes the last commit visible to readers, by which the outbox grew by
// that many notes. The caller leads.
func (s *Store) publish(notes int) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	tx, err := s.begin(false)
	if err != nil {
		return err
	}
	s.shown = tx.ID()
	slots := tx.Bucket(bucketSlots)
	s.viewLock.Lock()
	old := s.view
	s.view, s.slots = tx, slots
	s.pending += notes
	s.viewLock.Unlock()
	if old != nil {
		return old.Rollback()
	}
	return nil
}

// publishCounted is publish where the file was just opened, so that the notes have
// to be counted. The caller leads, and there is no snapshot.
func (s *Store) publishCounted() error {
	notes := 0
	err := func() (err error) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer s.guard(&err)
		tx, err := s.begin(false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tx.Rollback()) }()
		return tx.Bucket(bucketOutbox).ForEach(func(_, _ []byte) error { notes++; return nil })
	}()
	if err != nil {
		return err
	}
	s.viewLock.Lock()
	s.pending = 0
	s.viewLock.Unlock()
	return s.publish(notes)
}

// withdraw takes the snapshot away from readers, which bbolt needs to close.
func (s *Store) withdraw() error {
	s.viewLock.Lock()
	old := s.view
	s.view, s.slots = nil, nil
	s.viewLock.Unlock()
	if old != nil {
		return old.Rollback()
	}
	return nil
}

// read runs fn with the published snapshot. What fn keeps it must copy.
func (s *Store) read(ctx context.Context, fn func(*bbolt.Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.viewLock.Lock()
	defer s.viewLock.Unlock()
	if s.view == nil {
		return fmt.Errorf("%w: the store is closed or recovering", keystore.ErrUnavailable)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	return fn(s.view)
}

// Get implements keystore.Store.
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
	return keystore.Record{Slot: slot, Revision: stored.revision, Ref: stored.ref, Payload: stored.payload}, nil
}

// lookUp reads a slot's record.
func lookUp(slots *bbolt.Bucket, slot keystore.Slot) (record, error) {
	key := recordKey(slot)
	value := slots.Get(key)
	if value == nil {
		if hidden(slots.Cursor(), key, slot) {
			return record{}, fmt.Errorf("%s: %w, or its name is", slot, errDamagedRecord)
		}
		return record{}, fmt.Errorf("%s: %w", slot, keystore.ErrNotFound)
	}
	r, err := decodeRecord(slot, value)
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", slot, err)
	}
	return r, nil
}

// hidden reports whether the record of a slot that is not found is there under a
// damaged name. A search for the right one ends beside that, as nothing else is out
// of order. What is whole under its own name is not what is looked for.
func hidden(c *bbolt.Cursor, key []byte, slot keystore.Slot) bool {
	k, value := c.Seek(key)
	if isDamaged(k, value, key, slot) {
		return true
	}
	if k == nil {
		k, value = c.Last()
	} else {
		k, value = c.Prev()
	}
	return isDamaged(k, value, key, slot)
}

// isDamaged reports whether what stands at k may be the record of a slot, whose
// key should be there: either the record says so or k is of another length, which
// shifts what follows it.
func isDamaged(k, value, key []byte, slot keystore.Slot) bool {
	if k == nil || !isIntact(value, slot) && !bytes.HasPrefix(k, key) && !bytes.HasPrefix(key, k) {
		return false
	}
	own, is := slotOf(k)
	return !is || !isIntact(value, own)
}

// List implements keystore.Store. Items without a record in the index's place
// would be damage and are an error.
func (s *Store) List(ctx context.Context, q keystore.Query) (items []keystore.Item, err error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	err = s.read(ctx, func(*bbolt.Tx) error {
		order := span{s.slots.Cursor(), recordPrefix(q.Collection)}
		if q.Index != "" {
			order.prefix = entryPrefix(q.Collection, q.Index)
		}
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

// Count implements keystore.Store.
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
	return 0, errors.New("a number in the store is damaged")
}

// Refs implements keystore.Store. It scans a snapshot of its own, so that readers
// and commits go on meanwhile; Close waits for it.
func (s *Store) Refs(ctx context.Context, fn func(keystore.Slot, keystore.Ref) error) (err error) {
	tx, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	c := tx.Bucket(bucketSlots).Cursor()
	for k, value := c.Seek([]byte{ofRecord}); len(k) > 0 && k[0] == ofRecord; k, value = c.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		slot, is := slotOf(k)
		if !is {
			return fmt.Errorf("%w: its name", errDamagedRecord)
		}
		r, err := decodeRecord(slot, value)
		if err != nil {
			return fmt.Errorf("%s: %w", slot, err)
		}
		if err := fn(slot, r.ref); err != nil {
			return err
		}
	}
	return nil
}

// snapshot begins a transaction of the caller's own on the published state: while
// nobody writes and no outcome is unknown, that is what bbolt shows.
func (s *Store) snapshot(ctx context.Context) (_ *bbolt.Tx, err error) {
	select {
	case s.lead <- struct{}{}:
		defer func() { <-s.lead }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.guard(&err)
	if err := s.usable(); err != nil {
		return nil, err
	}
	return s.begin(false)
}

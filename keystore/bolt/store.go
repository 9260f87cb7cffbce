// Package bolt is a store in one file, on bbolt.
//
// # Layout, format 4
//
//	meta     "format"    4 bytes, big-endian: 4
//	         "revision"  8 bytes, big-endian: the last revision given out
//	         "head"      the code of the newest note that there ever was
//	         "compact"   there where a compaction is due
//	slots    recordKey   the record (see record)
//	         entryKey    the slot's id
//	counts   collection  8 bytes, big-endian: the number of records
//	outbox   revision    8 bytes, big-endian: the note of the commit that has it (see
//	                     encodeNote)
//	anchors  name        what the last Trim of that name kept; the bucket is absent
//	                     until the first
//	scratch  "check"     what the last Check wrote
//
// Records and index entries of all collections are in one tree, since a commit
// writes a path of pages in each tree that it touches. Formats 1 to 3 were never
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
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"attestcsr/keystore"
)

// Names in the file; constants in spirit.
var (
	bucketMeta    = []byte("meta")
	bucketSlots   = []byte("slots")
	bucketCounts  = []byte("counts")
	bucketOutbox  = []byte("outbox")
	bucketAnchors = []byte("anchors")
	bucketScratch = []byte("scratch")
	keyFormat     = []byte("format")
	keyRevision   = []byte("revision")
	keyHead       = []byte("head")
	keyCompaction = []byte("compact")
	keyScratch    = []byte("check")
)

// Options says how a store is opened.
type Options struct {
	Logger *slog.Logger // nil discards
	// Compact has Open compact a store that RequestCompaction was called for. That takes
	// about as long as copying the file.
	Compact bool
}

// Store implements keystore.Store and keystore.Outbox.
type Store struct {
	path    string
	log     *slog.Logger
	maxSize int
	guard   keystore.Guard // nil: notes have no codes
	damaged atomic.Bool    // damage was found since the file was opened

	// queue holds the commits that no leader has taken yet.
	queueLock sync.Mutex
	queue     []*job

	// lead is the right to write. Whoever sends to it leads: one commit writes all
	// that are in the queue. It guards the fields below.
	lead      chan struct{}
	db        *bbolt.DB   // nil after a recovery that failed half-way
	file      *os.File    // the one that db has open, or had
	identity  fs.FileInfo // of the file, for os.SameFile
	missing   bool        // the file was not at its path when that was last checked
	broken    error       // why commits are refused until recover succeeds; nil: they are not
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
	s, err := open(path, o, maxSize)
	if err == nil && o.Compact && s.CompactionDue() {
		return openCompacted(s, o)
	}
	return s, err
}

func open(path string, o Options, maxSize int) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{path: path, log: o.Logger, maxSize: maxSize, lead: make(chan struct{}, 1), finish: (*bbolt.Tx).Commit}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := s.create(); err != nil {
			return nil, fmt.Errorf("creating the key store: %w", err)
		}
	}
	err := guarded(func() error {
		if err := s.openDatabase(); err != nil {
			return err
		}
		return s.publish(0)
	})
	switch {
	case err == nil:
		return s, nil
	case s.db != nil:
		err = errors.Join(err, s.unlock())
	}
	if errors.Is(err, errDamaged) {
		err = fmt.Errorf("%s is damaged: restore a backup: %w", path, err)
	}
	return nil, err
}

// Protect implements keystore.Store.
func (s *Store) Protect(g keystore.Guard) {
	s.lead <- struct{}{}
	s.guard = g
	<-s.lead
}

// Collectors returns the metrics of the file: its size, and how much of that is free for
// records to come.
func (s *Store) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_store_size_bytes", Help: "Size of the key store's file.",
		}, func() float64 { return s.measured(func(tx *bbolt.Tx) int64 { return tx.Size() }) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_store_reusable_bytes", Help: "Part of the key store's file that is free for records to come.",
		}, func() float64 { return s.measured(func(*bbolt.Tx) int64 { return s.reusable() }) }),
	}
}

// measured is 0 where the store cannot be read: readiness says why.
func (s *Store) measured(size func(*bbolt.Tx) int64) (n float64) {
	err := s.read(context.Background(), func(tx *bbolt.Tx) error { n = float64(size(tx)); return nil })
	if err != nil {
		return 0
	}
	return n
}

func (s *Store) reusable() int64 { return int64(s.db.Stats().FreePageN) * int64(s.db.Info().PageSize) }

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
	switch {
	case s.db == nil:
		return err
	case s.broken == nil && !s.damaged.Load():
		err = errors.Join(err, s.watched(s.writeFreeList))
	}
	if s.damaged.Load() {
		return errors.Join(err, s.unlock())
	}
	return errors.Join(err, s.db.Close())
}

// unlock gives up the file of a damaged store. A panic leaves bbolt's own locks
// locked, so that its Close would wait for ever.
func (s *Store) unlock() error {
	return errors.Join(unix.Flock(int(s.file.Fd()), unix.LOCK_UN), s.file.Close())
}

// writeFreeList makes a commit with the free list, which saves the next open bbolt's
// own search of the whole file, beside that of checkStructure. A crash before it
// costs only that search.
func (s *Store) writeFreeList() error {
	s.db.NoFreelistSync = false
	return s.update(func(*bbolt.Tx) error { return nil })
}

// update runs fn in a transaction of its own and commits it. The caller leads.
func (s *Store) update(fn func(*bbolt.Tx) error) error {
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer rollBack(tx)
	if err := fn(tx); err != nil {
		return err
	}
	return s.finish(tx)
}

// rollBack is for defer: it has no effect on a transaction that was committed.
func rollBack(tx *bbolt.Tx) { _ = tx.Rollback() }

// publish makes the last commit visible to readers, by which the outbox grew by
// that many notes. The caller leads.
func (s *Store) publish(notes int) error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return err
	}
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

// withdraw takes the snapshot away from readers, which bbolt needs to close.
func (s *Store) withdraw() error {
	s.viewLock.Lock()
	old := s.view
	s.view, s.slots = nil, nil
	s.viewLock.Unlock()
	if old == nil || s.damaged.Load() { // see unlock
		return nil
	}
	return old.Rollback()
}

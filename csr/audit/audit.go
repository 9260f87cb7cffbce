// Package audit keeps the evidence of who did what: every change, every signature, and
// every request that was refused. There is a stream of lines for each.
//
// A change or a signature commits a note of itself to the store's outbox, and a goroutine
// turns notes into lines: each has exactly one line, whenever the process ends.
// Refusals wait in memory for a second at most; equal ones are counted, and their
// files are bounded, because strangers cause them. Logins and logouts are folded as
// refusals are.
//
// Each line has an HMAC over itself and the HMAC of the line before. The store has
// an anchor, which says where the chain ends. A line of a change says what its slot
// holds then, so that Verify also knows what the store has to hold. Whoever changes,
// adds or removes lines, notes or records without the sealing keyset is found.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore/ownfile"
)

// The streams, which are also the names of their anchors and the beginnings of
// their files' names.
const (
	Changes    = "changes"
	Refusals   = "refusals"
	Signatures = "signatures"
)

// Streams lists the streams.
func Streams() []string { return []string{Changes, Refusals, Signatures} }

// Outbox is where notes wait, and where anchors are kept. keystore.Outbox says
// what the methods promise.
type Outbox interface {
	Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, previous, code, note []byte) error) error
	Pending(ctx context.Context) (int, error)
	Trim(ctx context.Context, through uint64, anchors map[string][]byte) error
	Anchor(ctx context.Context, name string) ([]byte, error)
	Advance(ctx context.Context, revision uint64) error
}

// Options says what a Log is made of.
type Options struct {
	Outbox Outbox // stays the caller's, who closes it after the Log
	MAC    MAC
	// Anchors is for anchors, under another purpose: of a key that has left the keyset
	// only that of lines is kept. Nil is MAC.
	Anchors MAC
	// State reads what the store holds. Nil: lines are not compared with records.
	State State
	// CheckNote reports whether the service made a note. Nil: notes are not checked.
	CheckNote func(revision uint64, previous, code, note []byte) error
	// Commit commits a note of the trail's own, alone. Nil: there are none.
	Commit func(ctx context.Context, note []byte) error
	Dir    string // of the files; made where it is not there, whose parent must be

	MaxFileSize       int64 // of a file of changes, in bytes
	MaxRefusalsSize   int64 // of all files of refusals, in bytes
	MaxSignaturesSize int64 // of all files of signatures, in bytes
	OutboxBound       int   // notes that may wait before changes are refused

	Logger    *slog.Logger // must not wait for its reader: the trail logs within its locks
	CopyToLog bool         // each line is also logged, at level info, without promises
	Now       func() time.Time

	step func(string) error // see chain
}

// boundedFiles is how many files share the bound of all files of a stream that has one.
const boundedFiles = 4

// ErrBacklog: the trail cannot be written, and OutboxBound notes wait.
var ErrBacklog = errors.New("the audit trail cannot be written, and no more changes fit the outbox")

// Log is the audit trail. It is safe for concurrent use. The methods of a nil Log
// do nothing, for benchmarks and tests.
type Log struct {
	o          Options
	changes    *chain
	signatures *chain // shares the lock of changes: their notes wait in one outbox
	refusals   *chain
	refused    *refusalTable // refusals that wait for their lines
	metrics    metrics

	readers chan struct{} // holds a token for each Read
	wake    chan struct{} // holds a token when changes are to be written at once
	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
}

// Open finds the end of both chains and starts to write. Files that are not what
// the store says are left as they are: a new file is begun, and an error logged.
// It fails where no file can be made or the store cannot be written.
func Open(ctx context.Context, o Options) (*Log, error) {
	if o.Anchors == nil {
		o.Anchors = o.MAC
	}
	if err := prepareDir(o.Dir, o.Logger); err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	l := &Log{
		o: o, refused: newRefusalTable(o.Now),
		readers: make(chan struct{}, maxReaders),
		wake:    make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	l.metrics = newMetrics(l)
	if err := l.openStreams(ctx); err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	var streams sync.WaitGroup
	streams.Go(l.checkAtStart)
	streams.Go(func() { l.run(l.changes, changesInterval, l.wake, l.exportNotes) })
	streams.Go(func() { l.run(l.refusals, refusalsInterval, nil, l.exportRefusals) })
	go func() {
		streams.Wait()
		close(l.stopped)
	}()
	return l, nil
}

// openStreams opens the changes last. Where the store has their anchor, the refusals have
// been there; the anchor itself says whether the signatures have, which older versions
// did not know.
func (l *Log) openStreams(ctx context.Context) error {
	before, err := l.o.Outbox.Anchor(ctx, Changes)
	if err != nil {
		return err
	}
	l.refusals = l.newChain(Refusals, l.o.MaxRefusalsSize/boundedFiles, &sync.Mutex{})
	l.refusals.maxTotal = l.o.MaxRefusalsSize
	l.changes = l.newChain(Changes, l.o.MaxFileSize, &sync.Mutex{})
	l.signatures = l.newChain(Signatures, l.o.MaxSignaturesSize/boundedFiles, l.changes.mu)
	l.signatures.maxTotal = l.o.MaxSignaturesSize
	l.changes.check, l.changes.state, l.changes.signatures = l.o.CheckNote, l.o.State, l.signatures
	l.signatures.check = l.o.CheckNote
	if err := l.refusals.open(ctx, before != nil); err != nil {
		return err
	}
	known, err := decodeAnchor(l.o.Anchors, Changes, before)
	if err := l.signatures.open(ctx, err == nil && known.Signatures); err != nil {
		return err
	}
	if err := l.writeSignatures(ctx); err != nil {
		return err
	}
	return l.changes.open(ctx, false)
}

func (l *Log) newChain(stream string, maxFile int64, mu *sync.Mutex) *chain {
	return &chain{
		stream: stream, maxFile: maxFile, mu: mu, dir: l.o.Dir, mac: l.o.MAC, anchors: l.o.Anchors, outbox: l.o.Outbox,
		log: l.o.Logger, now: l.o.Now, copies: l.o.CopyToLog, step: l.o.step, tell: l.commitNote,
	}
}

// checkAtStart compares the trail with the store while the service runs already. It is
// an error in the log and no more: what is left is served.
func (l *Log) checkAtStart() {
	if l.o.State == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-l.stop; cancel() }()
	found, err := l.check(ctx)
	if err != nil && ctx.Err() == nil {
		l.o.Logger.Error("the audit trail could not be checked at the start: run \"attestcsr audit verify\"", "error", err)
	}
	for _, s := range found {
		for _, p := range s.Problems[:min(len(s.Problems), maxLogged)] {
			l.o.Logger.Error("the audit trail and the store are not what the service left: run \"attestcsr audit verify\"", "stream", s.Stream, "problem", p.String())
		}
	}
}

// maxLogged is how many problems of a stream the log has.
const maxLogged = 10

// check verifies the trail as it is here. The oldest files may be in an archive.
func (l *Log) check(ctx context.Context) ([]Summary, error) {
	return Verify(ctx, VerifyOptions{
		Dirs: []string{l.o.Dir}, MAC: l.o.MAC, Anchors: l.o.Anchors, archived: true,
		Snapshot: func(ctx context.Context) (Snapshot, error) { return Take(ctx, l.o.State) },
	})
}

// prepareDir makes the folder of the files, 0700.
func prepareDir(dir string, log *slog.Logger) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Stat(dir)
	if err == nil {
		err = ownfile.CheckFolder(dir, info, log)
	}
	if err != nil {
		return err
	}
	// The folder's own entry, too: the store is going to have anchors of files in it.
	return errors.Join(ownfile.SyncDir(dir), ownfile.SyncDir(filepath.Dir(dir)))
}

// Admit returns ErrBacklog where a change must not be made because the trail cannot
// be written. It is asked before a key is taken. Changes that are under way then may
// bring the outbox over its bound.
func (l *Log) Admit(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l.admit(ctx, l.o.OutboxBound)
}

// AdmitSignature is Admit for a signature. Half of the outbox is kept for changes: who may
// sign cannot keep others from deleting a CSR.
func (l *Log) AdmitSignature(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l.admit(ctx, (l.o.OutboxBound+1)/2)
}

func (l *Log) admit(ctx context.Context, most int) error {
	n, err := l.o.Outbox.Pending(ctx)
	if err != nil {
		return nil //nolint:nilerr // the commit fails too, with an error that says why
	}
	if n >= most/2 {
		select { // so that a burst of changes does not reach the bound
		case l.wake <- struct{}{}:
		default:
		}
	}
	if n >= most {
		return ErrBacklog
	}
	return nil
}

// NoteAdministration returns the note of an event that is no change of a client's
// record; nil where there is no trail.
func (l *Log) NoteAdministration(e Event) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	return e.Administration(l.o.Now())
}

// Note returns what the commit of a change has to carry; nil where changes are not
// audited.
func (l *Log) Note(e Event) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	return e.Note(l.o.Now())
}

// NoteSignature is Note for a signature.
func (l *Log) NoteSignature(e Event) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	return e.Signature(l.o.Now())
}

// Refusal is a request that was refused. Its User is one that exists, or nothing:
// what strangers offer as a user name may be a password in the wrong field.
type Refusal struct {
	Request
	Operation string // where it was known before the refusal
	Outcome   string // why, of a closed set
}

// Refuse records a refusal. It costs no more than a look into a table.
func (l *Log) Refuse(r Refusal) {
	if l == nil {
		return
	}
	l.refused.add(Event{Kind: Refused, Request: r.Request, Operation: r.Operation, Outcome: r.Outcome})
}

// Login records a Login or a Logout, as its kind says. It is folded like a refusal: the
// first of a user, address and route has a line, the others are counted.
func (l *Log) Login(e Event) {
	if l == nil {
		return
	}
	l.refused.add(e)
}

// Close writes what waits and ends. Changes that cannot be written until ctx ends
// stay in the outbox, refusals are lost then.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.closing.Do(func() { close(l.stop) })
	select {
	case <-l.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("audit trail: what could not be written is written by the next start: %w", ctx.Err())
	}
}

// Collectors returns the metrics of this package.
func (l *Log) Collectors() []prometheus.Collector {
	if l == nil {
		return nil
	}
	return l.metrics.collectors()
}

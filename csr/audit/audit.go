// Package audit keeps the evidence of who did what: every change, and every
// request that was refused.
//
// # Two streams
//
// Changes come through the store's outbox: a change commits a note of itself, and
// a writer in the background turns notes into lines. Nothing is lost, whenever the
// process ends, since a note leaves the outbox only in the commit that says that
// its line is durable; nothing is doubled, since the next start looks how far the
// lines got. Files of changes are never removed by the service.
//
// Refusals are told by strangers, so that nothing of them may cost much: they wait
// in memory for a second at most, equal ones are counted rather than written, and
// their files have a bound of their own, at which the oldest goes.
//
// # Chain
//
// Each line carries an HMAC over itself and the HMAC of the line before, under a
// key that is derived from the sealing keyset. The end of the chain is anchored in
// the store. Verify therefore finds whatever was edited, removed, added, put in
// another order or cut off by somebody without the keyset.
package audit

import (
	"cmp"
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
	Changes  = "changes"
	Refusals = "refusals"
)

// Outbox is where notes wait, and where anchors are kept. keystore.Outbox says
// what the methods promise.
type Outbox interface {
	Outbox(ctx context.Context, after uint64, limit int, fn func(revision uint64, note []byte) error) error
	Pending(ctx context.Context) (int, error)
	Trim(ctx context.Context, through uint64, name string, anchor []byte) error
	Anchor(ctx context.Context, name string) ([]byte, error)
}

// Options says what a Log is made of. Zero values stand for the defaults.
type Options struct {
	Outbox Outbox // stays the caller's, who closes it after the Log
	MAC    MAC
	Dir    string // of the files; made where it is not there, whose parent must be

	MaxFileSize     int64 // of a file of changes, in bytes; 64 MiB
	MaxRefusalsSize int64 // of all files of refusals, in bytes; 64 MiB
	OutboxBound     int   // notes that may wait before changes are refused; 10,000

	Logger    *slog.Logger     // nil discards
	CopyToLog bool             // each line is also logged, at level info, without promises
	Now       func() time.Time // nil is time.Now

	step func(string) error // see chain
}

const (
	defaultFileSize = 64 << 20
	defaultBound    = 10_000
	// refusalFiles is in how many files the bound of all of them is parted.
	refusalFiles = 4

	changesInterval  = 200 * time.Millisecond
	refusalsInterval = time.Second / 2 // half of what is promised
	retryInterval    = time.Second
	// pageSize is how many notes are written as one group, at most.
	pageSize = 500
)

// ErrBacklog: changes cannot be exported, and as many notes wait as may.
var ErrBacklog = errors.New("the audit trail cannot be written, and no more changes fit the outbox")

// Log is the audit trail. It is safe for concurrent use. The methods of a nil Log
// do nothing: that is for programs that measure, and for tests.
type Log struct {
	o        Options
	changes  *chain
	refusals *chain
	folded   *foldTable
	copies   *copies
	metrics  metrics

	filling chan struct{} // holds a token when there is much in the outbox
	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
	failing map[string]bool // by stream; of the goroutine that writes
}

// Open finds the end of both chains and starts to write. Files that are not what
// the store says are left as they are: a new file is begun, and an error logged.
// It fails where no file can be made or the store cannot be written.
func Open(ctx context.Context, o Options) (*Log, error) {
	o.MaxFileSize = cmp.Or(o.MaxFileSize, defaultFileSize)
	o.MaxRefusalsSize = cmp.Or(o.MaxRefusalsSize, defaultFileSize)
	o.OutboxBound = cmp.Or(o.OutboxBound, defaultBound)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := prepareDir(o.Dir, o.Logger); err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	l := &Log{
		o: o, folded: newFoldTable(o.Now),
		filling: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}), failing: map[string]bool{},
	}
	l.metrics = newMetrics(l)
	if o.CopyToLog {
		l.copies = newCopies(o.Logger)
	}
	base := chain{dir: o.Dir, mac: o.MAC, outbox: o.Outbox, log: o.Logger, now: o.Now, copies: l.copies, step: o.step}
	changes, refusals := base, base
	changes.stream, changes.max = Changes, o.MaxFileSize
	refusals.stream, refusals.max, refusals.keep = Refusals, o.MaxRefusalsSize/refusalFiles, o.MaxRefusalsSize
	l.changes, l.refusals = &changes, &refusals
	err := l.changes.open(ctx, behind{l.pendingLine(ctx), l.noteAfter(ctx)})
	if err == nil {
		err = l.refusals.open(ctx, behind{
			func(_ position, _ []byte, l line) (uint64, bool) { return 0, l.Kind == Refused },
			func(position) bool { return true },
		})
	}
	if err != nil {
		l.copies.close()
		return nil, errors.Join(fmt.Errorf("audit trail: %w", err), l.changes.closeFile(), l.refusals.closeFile())
	}
	go l.run() //nolint:gosec // it lives until Close, not as long as ctx
	return l, nil
}

// prepareDir makes the folder of the files, 0700.
func prepareDir(dir string, log *slog.Logger) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case info.Mode()&0o007 != 0:
		return fmt.Errorf("%s is accessible to others (mode %#o): find out who could have changed what is in it, then chmod 0700 it", dir, info.Mode().Perm())
	case info.Mode()&0o070 != 0:
		log.Warn("the folder of the audit trail is accessible to its group", "dir", dir, "mode", fmt.Sprintf("%#o", info.Mode().Perm()))
	}
	// The folder itself, too: the store is going to know of files in it.
	return errors.Join(ownfile.SyncDir(dir), ownfile.SyncDir(filepath.Dir(dir)))
}

// Admit returns ErrBacklog where a change must not be made, since the trail could
// not tell of it. It is asked before a key is taken; changes that are under way
// then may bring the outbox over its bound.
func (l *Log) Admit(ctx context.Context) error {
	if l == nil {
		return nil
	}
	// A store that cannot say it cannot commit either, and has its own error for
	// that.
	n, err := l.o.Outbox.Pending(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if n >= l.o.OutboxBound/2 {
		l.hurry() // a burst of changes is no reason to refuse any
	}
	if n >= l.o.OutboxBound {
		return ErrBacklog
	}
	return nil
}

// hurry has changes written without waiting for their interval.
func (l *Log) hurry() {
	select {
	case l.filling <- struct{}{}:
	default:
	}
}

// Note returns what the commit of a change is to carry, nothing where changes are
// not audited.
func (l *Log) Note(e Event) ([]byte, error) {
	if l == nil {
		return nil, nil
	}
	return e.Note(l.o.Now())
}

// Refusal is a request that was refused. Its User is one that exists, or nothing:
// what strangers offer as a user name may be a password in the wrong field.
type Refusal struct {
	Request
	User      string
	Method    string // of authentication
	Operation string // where it was chosen before the refusal
	Outcome   string // of a closed set: why
}

// Refuse records a refusal. It costs no more than a look into a table.
func (l *Log) Refuse(r Refusal) {
	if l == nil {
		return
	}
	l.folded.add(r)
}

// Close writes what waits and ends. What cannot be written until ctx ends stays in
// the outbox; refusals of the last moment are lost then.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.closing.Do(func() { close(l.stop) })
	select {
	case <-l.stopped:
		return errors.Join(l.changes.closeFile(), l.refusals.closeFile())
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

package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"
)

const (
	changesInterval = 200 * time.Millisecond
	// refusalsInterval lets a refusal have its line within the second that is
	// promised, at no more than two flushes a second.
	refusalsInterval = time.Second / 2
	retryInterval    = time.Second
	// pageSize is how many notes are written as one group, at most.
	pageSize = 500
)

// run writes one stream until Close, and once more then. export writes what waits, and
// reports whether there may be more. Each stream has a goroutine of its own, so that a
// flood of one does not keep the other waiting.
func (l *Log) run(c *chain, interval time.Duration, wake <-chan struct{}, export func(ctx context.Context, stopping bool) (more bool, err error)) {
	failing := false
	watch := newClockWatch(l.o.Now)
	for stopping := false; !stopping; {
		wait, early := interval, wake
		if failing {
			wait, early = retryInterval, nil
		}
		select {
		case <-time.After(wait):
		case <-early:
		case <-l.stop:
			stopping = true
		}
		if c == l.changes {
			l.noteJump(watch.jump())
		}
		for more := true; more; {
			var err error
			more, err = export(context.Background(), stopping)
			l.report(c, err, failing)
			failing = err != nil
		}
	}
}

// report counts an attempt that failed. It logs once that writing fails, and once that
// it works again.
func (l *Log) report(c *chain, err error, failedBefore bool) {
	c.full.Store(nil)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		c.full.Store(&err)
	}
	if err != nil {
		l.metrics.failures.WithLabelValues(c.stream).Inc()
	}
	switch {
	case err != nil && !failedBefore:
		l.o.Logger.Error("the audit trail cannot be written; this is tried again every second. Changes wait in the store, and are refused with 503 once audit.outbox_bound of them wait",
			"stream", c.stream, "error", err)
	case err == nil && failedBefore:
		l.o.Logger.Info("the audit trail is written again", "stream", c.stream)
	}
}

// Ready returns an error as long as a line cannot be written because there is no
// space for it. Writing is tried again every second.
func (l *Log) Ready() error {
	if l == nil {
		return nil
	}
	for _, c := range []*chain{l.changes, l.signatures, l.refusals} {
		if err := c.full.Load(); err != nil {
			return fmt.Errorf("the audit trail cannot be written: %w", *err)
		}
	}
	return nil
}

// clockStep is by how much the clock has to jump for a line of it. Verify compares
// the times of lines with less rigour.
const clockStep = 10 * time.Second

// clockWatch compares the clock with the time that passes.
type clockWatch struct {
	now   func() time.Time
	wall  time.Time // without monotonic clock
	start time.Time // of the monotonic clock at wall
}

func newClockWatch(now func() time.Time) *clockWatch {
	return &clockWatch{now, now().Round(0), time.Now()}
}

// jump returns what the clock should say and what it says, where it jumped.
func (w *clockWatch) jump() (should, is time.Time, jumped bool) {
	is, should = w.now().Round(0), w.wall.Add(time.Since(w.start))
	w.wall, w.start = is, time.Now()
	return should, is, is.Sub(should).Abs() >= clockStep
}

// noteJump commits a note of a jump of the clock. One that cannot be committed is in
// the log only: a full store, say, refuses it.
func (l *Log) noteJump(should, is time.Time, jumped bool) {
	if !jumped || l.o.Commit == nil {
		return
	}
	l.commitNote(context.Background(), Event{
		Operation: opClock, Reason: fmt.Sprintf("the clock went from %s to %s", should.UTC().Format(time.RFC3339), is.UTC().Format(time.RFC3339)),
	})
}

// commitNote commits a note of what the trail itself has to say.
func (l *Log) commitNote(ctx context.Context, e Event) {
	e.User = serviceUser
	note, err := e.Administration(l.o.Now())
	if err == nil && l.o.Commit != nil {
		err = l.o.Commit(ctx, note)
	}
	l.o.Logger.Warn("something happened to the store or to the clock", "operation", e.Operation, "what", e.Reason)
	if err != nil {
		l.o.Logger.Error("an event is missing in the audit trail", "operation", e.Operation, "error", err)
	}
}

// Settle writes all notes that wait as lines, and all anchors under the primary key.
// It may be repeated.
func (l *Log) Settle(ctx context.Context) error {
	if l == nil {
		return nil
	}
	for more := true; more; {
		var err error
		if more, err = l.exportNotes(ctx, false); err != nil {
			return fmt.Errorf("audit trail: %w", err)
		}
	}
	for _, c := range []*chain{l.changes, l.refusals} {
		c.mu.Lock()
		err := c.commit(ctx)
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("audit trail: %w", err)
		}
	}
	return nil
}

// exportNotes writes a group of the notes that wait in the outbox: the signatures first,
// so that a commit of the changes' anchor never gives up the note of a signature that
// has no line. chain.commit says what a crash leaves.
func (l *Log) exportNotes(ctx context.Context, _ bool) (more bool, err error) {
	l.changes.mu.Lock()
	defer l.changes.mu.Unlock()
	waiting, err := l.o.Outbox.Pending(ctx)
	if err != nil || waiting == 0 && !l.changes.uncommitted() {
		return false, err
	}
	group, err := l.changes.readNotes(ctx, pageSize)
	if err != nil {
		return false, err
	}
	var changes, signatures []entry
	for _, e := range group {
		switch {
		case e.Kind != Signed:
			changes = append(changes, e)
		case e.Revision > l.signatures.head.Revision: // else it has its line
			signatures = append(signatures, e)
		}
	}
	if _, err := l.write(ctx, l.signatures, signatures); err != nil {
		return false, err
	}
	if _, err := l.write(ctx, l.changes, changes); err != nil {
		return false, err
	}
	if len(group) > 0 { // also where the last of them are signatures
		last := group[len(group)-1]
		l.changes.head.Revision, l.changes.head.notePosition = last.Revision, *last.notes
	}
	if err := l.changes.commit(ctx); err != nil {
		return false, err
	}
	return len(group) >= pageSize, nil
}

// write appends entries and returns how many of them are durable. After damage to
// the files it goes on in a new one, once.
func (l *Log) write(ctx context.Context, c *chain, entries []entry) (written int, err error) {
	written, err = c.append(ctx, entries)
	if damaged := (*damagedError)(nil); errors.As(err, &damaged) {
		if err = c.continueAfterDamage(ctx, damaged.reason); err == nil {
			var more int
			more, err = c.append(ctx, entries[written:])
			written += more
		}
	}
	l.metrics.events.WithLabelValues(c.stream).Add(float64(written))
	return written, err
}

// copyToLog brings durable lines to the log, for collectors, where the settings say so.
// The files are the evidence, and nothing waits for a log: where the log drops lines,
// their sequence numbers are missing.
func (c *chain) copyToLog(lines []byte) {
	if !c.copies {
		return
	}
	for line := range bytes.Lines(lines) {
		// A JSON log holds the line as an object, byte for byte as in the file. A text
		// log holds it as a quoted string.
		c.log.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.Any("line", json.RawMessage(bytes.TrimSuffix(line, []byte("\n")))))
	}
}

// readNotes reads the notes of commits that have no line yet. One that the service did
// not make or that cannot be read becomes a line that says so, and so do notes that
// are missing: the trail does not end there. Nothing of an unauthentic note is in it.
//
// What a note becomes depends on the position of head alone, so that the same notes
// become the same lines after a crash.
func (c *chain) readNotes(ctx context.Context, limit int) ([]entry, error) {
	var group []entry
	at := c.head.notePosition
	err := c.outbox.Outbox(ctx, c.head.Revision, limit, func(revision uint64, previous, code, note []byte) error {
		if before := hex.EncodeToString(previous); at.Code != before && at.Code != unknownCode {
			c.log.Error("changes have no line in the audit trail, since their notes were taken out of the store: find out who wrote to it", "before_revision", revision)
			at.Code = before
			group = append(group, entry{Event: Event{Kind: Change, Outcome: missing}, notes: new(at)})
		}
		event, err := c.readNote(&at, revision, previous, code, note)
		if err != nil {
			c.log.Error("a change was committed with a note that is not to be believed or read: it is in the audit trail without who and what", "revision", revision, "error", err)
		}
		group = append(group, entry{Event: event, Revision: revision, notes: new(at)})
		return nil
	})
	return group, err
}

// nextChange is the next entry of readNotes that is of no signature.
func (c *chain) nextChange(ctx context.Context) (waiting []entry, err error) {
	for limit := 1; ; limit *= 2 {
		all, err := c.readNotes(ctx, limit)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(all, func(e entry) bool { return e.Kind != Signed }); i >= 0 {
			return all[i:], nil
		}
		if len(all) < limit {
			return nil, nil
		}
	}
}

// readSignatures reads the signatures among the notes after a revision, as many notes as
// limit at most. last is the revision of the last note; 0: there is none.
func (c *chain) readSignatures(ctx context.Context, after uint64, limit int) (found []entry, last uint64, err error) {
	err = c.outbox.Outbox(ctx, after, limit, func(revision uint64, previous, code, note []byte) error {
		last = revision
		ours := c.check == nil || c.check(revision, previous, code, note) == nil
		if event, err := decodeNote(note); ours && err == nil && event.Kind == Signed {
			found = append(found, entry{Event: event, Revision: revision})
		}
		return nil
	})
	return found, last, err
}

// writeSignatures writes the signatures that a crash, or damage to their files, left
// without lines. The changes may have theirs already, and then their next commit gives up
// the notes of both.
func (l *Log) writeSignatures(ctx context.Context) error {
	for after := l.signatures.head.Revision; ; {
		found, last, err := l.signatures.readSignatures(ctx, after, pageSize)
		if err == nil {
			_, err = l.write(ctx, l.signatures, found)
		}
		if err != nil || last == 0 {
			return err
		}
		after = last
	}
}

// readNote returns the event of a note, and moves the position over it.
func (c *chain) readNote(at *notePosition, revision uint64, previous, code, note []byte) (Event, error) {
	at.Code = hex.EncodeToString(code)
	var err error
	if c.check != nil {
		err = c.check(revision, previous, code, note)
	}
	if err == nil && c.check != nil {
		var inOrder bool
		if at.Keys, inOrder = at.Keys.next(keyOf(code), c.mac.Primary()); !inOrder {
			err = fmt.Errorf("it was made with key %s, which another key has followed", keyOf(code))
		}
	}
	if err != nil {
		at.Code = unknownCode
		return Event{Kind: Change, Outcome: unauthentic}, err
	}
	event, err := decodeNote(note)
	if err != nil {
		event = Event{Kind: Change, Outcome: unreadable}
	}
	return event, err
}

// keyOf is the id of the key that a code of the store was made with: it begins with it.
func keyOf(code []byte) string { return hex.EncodeToString(code[:min(4, len(code))]) }

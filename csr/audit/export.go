package audit

import (
	"context"
	"errors"
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
		for more := true; more; {
			var err error
			more, err = export(context.Background(), stopping)
			l.report(c.stream, err, failing)
			failing = err != nil
		}
	}
}

// report counts an attempt that failed. It logs once that writing fails, and once that
// it works again.
func (l *Log) report(stream string, err error, failedBefore bool) {
	if err != nil {
		l.metrics.failures.WithLabelValues(stream).Inc()
	}
	switch {
	case err != nil && !failedBefore:
		l.o.Logger.Error("the audit trail cannot be written; this is tried again every second. Changes wait in the store, and are refused with 503 once audit.outbox_bound of them wait",
			"stream", stream, "error", err)
	case err == nil && failedBefore:
		l.o.Logger.Info("the audit trail is written again", "stream", stream)
	}
}

// exportChanges writes a group of the notes that wait in the outbox. chain.commit
// says what a crash leaves.
func (l *Log) exportChanges(ctx context.Context, _ bool) (more bool, err error) {
	waiting, err := l.o.Outbox.Pending(ctx)
	if err != nil || waiting == 0 && !l.changes.uncommitted() {
		return false, err
	}
	group, err := l.changes.readNotes(ctx, pageSize)
	if err != nil {
		return false, err
	}
	if _, err := l.write(ctx, l.changes, group); err != nil {
		return false, err
	}
	if err := l.changes.commit(ctx); err != nil {
		return false, err
	}
	return len(group) == pageSize, nil
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

// readNotes reads the notes of changes that have no line yet. One that cannot be read
// becomes a line that says so: the trail does not end at it.
func (c *chain) readNotes(ctx context.Context, limit int) ([]entry, error) {
	var group []entry
	err := c.outbox.Outbox(ctx, c.head.Revision, limit, func(revision uint64, _, _, note []byte) error {
		event, err := decodeNote(note)
		if err != nil {
			c.log.Error("a change was committed with a note that cannot be read: it is in the audit trail without who and what", "revision", revision, "error", err)
			event = Event{Kind: Change, Outcome: unreadable}
		}
		group = append(group, entry{Event: event, Revision: revision})
		return nil
	})
	return group, err
}

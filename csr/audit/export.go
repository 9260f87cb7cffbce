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

// task is a stream that is written when it is time.
type task struct {
	stream   string
	export   func(context.Context) error
	interval time.Duration // between two groups of lines, at least
	due      time.Time
	failing  bool
}

// run writes both streams until Close, and once more then.
func (l *Log) run() {
	defer close(l.stopped)
	defer l.copies.close()
	ctx, stopping := context.Background(), false
	changes := &task{stream: Changes, export: l.exportChanges}
	refusals := &task{stream: Refusals, interval: refusalsInterval, export: func(ctx context.Context) error {
		return l.exportRefusals(ctx, stopping)
	}}
	tick := time.NewTicker(changesInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.wake:
		case <-l.stop:
			stopping = true
			l.exportAll(ctx, changes, refusals)
			return
		}
		// One group of each at a time: changes that come faster than they are written
		// do not keep refusals waiting.
		for _, t := range []*task{changes, refusals} {
			if !time.Now().Before(t.due) {
				l.attempt(ctx, t)
			}
		}
	}
}

// exportAll writes everything that waits, as far as it can be written.
func (l *Log) exportAll(ctx context.Context, changes, refusals *task) {
	for l.attempt(ctx, changes) {
		if n, err := l.o.Outbox.Pending(ctx); err != nil || n == 0 {
			break
		}
	}
	l.attempt(ctx, refusals)
}

// attempt writes a group of lines and reports whether it could. It logs once that
// writing fails, and once that it works again.
func (l *Log) attempt(ctx context.Context, t *task) bool {
	err := t.export(ctx)
	t.due = time.Now().Add(t.interval)
	if err != nil {
		t.due = time.Now().Add(retryInterval)
		l.metrics.failures.WithLabelValues(t.stream).Inc()
	}
	switch {
	case err != nil && !t.failing:
		l.o.Logger.Error("the audit trail cannot be written; this is tried again every second. Changes wait in the store, and are refused with 503 once audit.outbox_bound of them wait",
			"stream", t.stream, "error", err)
	case err == nil && t.failing:
		l.o.Logger.Info("the audit trail is written again", "stream", t.stream)
	}
	t.failing = err != nil
	return err == nil
}

// exportChanges writes a group of the notes that wait in the outbox. chain.commit
// says what a crash leaves.
func (l *Log) exportChanges(ctx context.Context) error {
	waiting, err := l.o.Outbox.Pending(ctx)
	if err != nil || waiting == 0 && !l.changes.uncommitted() {
		return err
	}
	group, err := l.readNotes(ctx, l.changes.head.Revision, pageSize)
	if err != nil {
		return err
	}
	if _, err := l.write(ctx, l.changes, group); err != nil {
		return err
	}
	if len(group) == pageSize { // there may be more
		l.wakeUp()
	}
	return l.changes.commit(ctx)
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

// readNotes reads notes as entries. One that cannot be read becomes a line that
// says so: the trail does not end at it.
func (l *Log) readNotes(ctx context.Context, after uint64, limit int) ([]entry, error) {
	var group []entry
	err := l.o.Outbox.Outbox(ctx, after, limit, func(revision uint64, note []byte) error {
		event, err := decodeNote(note)
		if err != nil {
			l.o.Logger.Error("a change was committed with a note that cannot be read: it is in the audit trail without who and what", "revision", revision, "error", err)
			event = Event{Kind: Change, Outcome: unreadable}
		}
		group = append(group, entry{Event: event, revision: revision})
		return nil
	})
	return group, err
}

// nextChange is chain.next of changes: the first note that waits.
func (l *Log) nextChange(ctx context.Context, after uint64, _ line) (entry, bool, error) {
	group, err := l.readNotes(ctx, after, 1)
	if err != nil || len(group) == 0 {
		return entry{}, false, err
	}
	return group[0], true, nil
}

// nextRefusal is chain.next of refusals. They were in memory, so that any refusal may
// be the one.
func nextRefusal(_ context.Context, _ uint64, found line) (entry, bool, error) {
	e := found.Event
	e.Kind = Refused
	return entry{Event: e}, true, nil
}

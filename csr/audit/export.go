package audit

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// run writes both streams until Close, and once more then.
func (l *Log) run() {
	defer close(l.stopped)
	defer l.copies.close()
	ctx := context.Background()
	changes, refusals := time.NewTicker(changesInterval), time.NewTicker(refusalsInterval)
	defer changes.Stop()
	defer refusals.Stop()
	retry := map[string]time.Time{}
	attempt := func(stream string, write func(context.Context) error) {
		if time.Now().Before(retry[stream]) {
			return
		}
		err := write(ctx)
		l.outcome(stream, err)
		if err != nil {
			retry[stream] = time.Now().Add(retryInterval)
		}
	}
	// Changes that come faster than they are written must not keep refusals waiting:
	// it is the turn of both between two groups.
	exportChanges := func(ctx context.Context) error {
		more, err := l.exportChanges(ctx)
		if more {
			l.hurry()
		}
		return err
	}
	exportRefusals := func(ctx context.Context) error { return l.exportRefusals(ctx, false) }
	for {
		select {
		case <-refusals.C: // first: where several are due, the next select takes any
			attempt(Refusals, exportRefusals)
		default:
		}
		select {
		case <-changes.C:
			attempt(Changes, exportChanges)
		case <-l.filling:
			attempt(Changes, exportChanges)
		case <-refusals.C:
			attempt(Refusals, exportRefusals)
		case <-l.stop:
			more, err := true, error(nil)
			for more {
				more, err = l.exportChanges(ctx)
			}
			l.outcome(Changes, err)
			l.outcome(Refusals, l.exportRefusals(ctx, true))
			return
		}
	}
}

// outcome tells once that writing fails, and once that it works again.
func (l *Log) outcome(stream string, err error) {
	if err != nil {
		l.metrics.failures.WithLabelValues(stream).Inc()
	}
	switch {
	case err != nil && !l.failing[stream]:
		l.o.Logger.Error("the audit trail cannot be written; it is tried again every second. Changes are kept in the store meanwhile, and are refused with 503 when audit.outbox_bound is reached",
			"stream", stream, "error", err)
	case err == nil && l.failing[stream]:
		l.o.Logger.Info("the audit trail is written again", "stream", stream)
	}
	l.failing[stream] = err != nil
}

// exportChanges turns notes in the outbox into lines, as a group: notes → lines →
// flush → anchor and trim in one commit. more: there may be another group.
func (l *Log) exportChanges(ctx context.Context) (more bool, err error) {
	n, err := l.o.Outbox.Pending(ctx)
	if err != nil || n == 0 && !l.changes.unanchored() {
		return false, err
	}
	group, err := l.readNotes(ctx, l.changes.head.Revision, pageSize)
	if err != nil {
		return false, err
	}
	if _, err := l.write(ctx, l.changes, group); err != nil {
		return false, err
	}
	err = l.changes.commit(ctx, l.changes.head.Revision)
	return err == nil && len(group) == pageSize, err
}

// write appends entries and returns how many of them are durable. Where the files
// are not what they were it goes on in a new one, once.
func (l *Log) write(ctx context.Context, c *chain, entries []entry) (written int, err error) {
	// A line that opens a file is owed where writing it failed.
	err = c.writeOpening(ctx)
	before := c.head.Seq
	if err == nil {
		err = c.append(entries)
		written = int(c.head.Seq - before) //nolint:gosec // at most len(entries)
	}
	if broken := (*brokenError)(nil); errors.As(err, &broken) {
		if err = c.goOn(ctx, broken.reason); err == nil {
			before = c.head.Seq
			err = c.append(entries[written:])
			written += int(c.head.Seq - before) //nolint:gosec // at most len(entries)
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
		group = append(group, l.entryOf(revision, note))
		return nil
	})
	return group, err
}

func (l *Log) entryOf(revision uint64, note []byte) entry {
	event, err := decodeNote(note)
	if err != nil {
		l.o.Logger.Error("a change was committed with a note that cannot be read: it is in the audit trail without who and what", "revision", revision, "error", err)
		event = Event{Kind: Change, Outcome: unreadable}
	}
	return entry{Event: event, revision: revision}
}

// pendingLine says of a line behind the anchor whether it is the one that the next
// note in the outbox becomes. Lines of changes that the store does not know are
// not taken over: it may be a restored one, and would give their revisions to
// others.
func (l *Log) pendingLine(ctx context.Context) func(position, []byte, line) (uint64, bool) {
	var waiting []entry
	return func(at position, text []byte, found line) (uint64, bool) {
		if len(waiting) == 0 {
			var err error
			if waiting, err = l.readNotes(ctx, at.Revision, pageSize); err != nil || len(waiting) == 0 {
				return 0, false
			}
		}
		next := waiting[0]
		waiting = waiting[1:]
		want, _, err := l.changes.encode(at, next, found.Key)
		return next.revision, err == nil && bytes.Equal(want, text)
	}
}

// noteAfter says whether a note waits to become the line after a position.
func (l *Log) noteAfter(ctx context.Context) func(position) bool {
	return func(at position) bool {
		waiting, err := l.readNotes(ctx, at.Revision, 1)
		return err == nil && len(waiting) > 0
	}
}

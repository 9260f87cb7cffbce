package audit

import (
	"context"
	"sync"
	"time"
)

const (
	// maxFolds is how many different refusals are told apart within a minute.
	maxFolds = 2048
	// foldWindow is how long equal refusals become one line.
	foldWindow = time.Minute
	// outcomeOthers is the outcome of refusals that were not told apart.
	outcomeOthers = "others"
)

// foldKey is what equal refusals have in common.
type foldKey struct{ user, method, address, operation, route, outcome string }

// fold is what is known of equal refusals within a window.
type fold struct {
	told      bool      // the first has its line
	firstID   string    // request id of the first
	at        time.Time // of the first
	opened    time.Time // when the window began
	repeats   int       // since the last line
	since     time.Time // of the first of repeats
	last      time.Time // of the last of repeats
	requestID string    // of the last of repeats
}

// foldTable holds refusals until they are written. It is the only queue of them,
// and it is bounded.
type foldTable struct {
	now func() time.Time

	mu     sync.Mutex
	folds  map[foldKey]*fold
	others fold // those for which there was no room
	count  int  // refusals that were folded, for the metric
}

func newFoldTable(now func() time.Time) *foldTable {
	return &foldTable{now: now, folds: map[foldKey]*fold{}}
}

func (t *foldTable) add(r Refusal) {
	id := bounded(r.ID)
	key := foldKey{bounded(r.User), bounded(r.Method), bounded(r.Address), bounded(r.Operation), bounded(r.Route), bounded(r.Outcome)}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	f, known := t.folds[key]
	switch {
	case known:
	case len(t.folds) < maxFolds:
		t.folds[key] = &fold{firstID: id, at: now, opened: now}
		return
	default:
		f = &t.others
		if f.repeats == 0 {
			f.opened = now
		}
	}
	if f.repeats == 0 {
		f.since = now
	}
	f.repeats, f.last, f.requestID = f.repeats+1, now, id
	t.count++
}

// folded is the number of refusals that got no line of their own.
func (t *foldTable) folded() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// owed is a line that is due, and what to do once it is written.
type owed struct {
	event Event
	done  func() // with the lock held
}

// due returns the lines that are to be written now: the first of each kind, and
// the count of those whose minute is over, or of all where the end is near.
func (t *foldTable) due(all bool) []owed {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	var lines []owed
	for key, f := range t.folds {
		over := all || now.Sub(f.opened) >= foldWindow
		if !f.told {
			e := key.event(f.at)
			e.RequestID = f.firstID
			lines = append(lines, owed{e, func() { f.told = true }})
		}
		switch {
		case over && f.repeats > 0:
			lines = append(lines, owed{f.event(key), t.taken(f, f.repeats, now)})
		case over && f.told:
			delete(t.folds, key)
		}
	}
	if f := &t.others; f.repeats > 0 && (all || now.Sub(f.opened) >= foldWindow) {
		lines = append(lines, owed{f.event(foldKey{outcome: outcomeOthers}), t.taken(f, f.repeats, now)})
	}
	return lines
}

// taken returns what leaves those that came while the line was written for the
// next one, whose window begins now.
func (t *foldTable) taken(f *fold, n int, now time.Time) func() {
	return func() {
		f.repeats -= n
		f.opened, f.since = now, f.last
	}
}

func (k foldKey) event(at time.Time) Event {
	return Event{
		Kind: Refused, Time: stamp(at), User: k.user, Method: k.method, Address: k.address,
		Operation: k.operation, Route: k.route, Outcome: k.outcome,
	}
}

// event is the counted line of repeats.
func (f *fold) event(key foldKey) Event {
	e := key.event(f.last)
	e.RequestID, e.Count, e.Since = f.requestID, f.repeats, stamp(f.since)
	return e
}

// exportRefusals writes the lines that are due. Only what was written leaves the
// table.
func (l *Log) exportRefusals(ctx context.Context, all bool) error {
	lines := l.folded.due(all)
	if len(lines) == 0 && !l.refusals.unanchored() {
		return nil
	}
	entries := make([]entry, len(lines))
	for i, line := range lines {
		entries[i] = entry{Event: line.event}
	}
	written, err := l.write(ctx, l.refusals, entries)
	l.folded.mu.Lock()
	for _, line := range lines[:written] {
		line.done()
	}
	l.folded.mu.Unlock()
	if err != nil {
		return err
	}
	return l.refusals.commit(ctx, 0)
}

package audit

import (
	"context"
	"sync"
	"time"
)

const (
	// maxGroups is how many different refusals are counted apart within a minute.
	maxGroups = 2048
	// groupWindow is how long equal refusals are counted in one line.
	groupWindow = time.Minute
)

// refusalKey is the line of a refusal without its time and request id: what equal
// refusals have in common.
type refusalKey Event

// others is the key of refusals that were not counted apart.
func others() refusalKey { return refusalKey{Kind: Refused, Outcome: "others"} }

func (k refusalKey) event(at time.Time, requestID string) Event {
	k.Time, k.RequestID = stamp(at), requestID
	return Event(k)
}

// refusalGroup counts equal refusals. The first has a line of its own, the others
// have one together.
type refusalGroup struct {
	opened  time.Time // when the window began
	written bool      // the first has its line
	first   time.Time
	firstID string // its request id

	count       int // of the others, since the last line
	since, last time.Time
	lastID      string
}

// refusalTable holds refusals until they are written. It is the only queue of them,
// and it is bounded.
type refusalTable struct {
	now func() time.Time

	mu     sync.Mutex
	groups map[refusalKey]*refusalGroup
}

func newRefusalTable(now func() time.Time) *refusalTable {
	return &refusalTable{now: now, groups: map[refusalKey]*refusalGroup{}}
}

func (t *refusalTable) add(r Refusal) {
	e := Event{Kind: Refused, Request: r.Request, Operation: r.Operation, Outcome: r.Outcome}
	e.bound()
	id := e.RequestID
	e.RequestID = ""
	key := refusalKey(e)
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	group, known := t.groups[key]
	if !known && len(t.groups) < maxGroups {
		t.groups[key] = &refusalGroup{opened: now, first: now, firstID: id}
		return
	}
	if !known {
		if group, known = t.groups[others()]; !known {
			group = &refusalGroup{opened: now, written: true} // all of them are counted
			t.groups[others()] = group
		}
	}
	if group.count == 0 {
		group.since = now
	}
	group.count, group.last, group.lastID = group.count+1, now, id
}

// refusalLine is a line that is due.
type refusalLine struct {
	Event
	group *refusalGroup
	made  time.Time
}

// due returns the lines that are to be written now.
func (t *refusalTable) due(stopping bool) []refusalLine {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []refusalLine
	for key, group := range t.groups {
		if key != others() {
			lines = append(lines, t.dueOf(key, group, stopping)...)
		}
	}
	// Last, so that the lines of a flood do not push this one out of the files.
	if group, known := t.groups[others()]; known {
		lines = append(lines, t.dueOf(others(), group, stopping)...)
	}
	return lines
}

// dueOf returns the line of the first refusal, and the count of the others where
// the minute is over or the service stops. It removes a group of which nothing came
// within its minute.
func (t *refusalTable) dueOf(key refusalKey, g *refusalGroup, stopping bool) (lines []refusalLine) {
	now := t.now()
	if !g.written {
		lines = append(lines, refusalLine{key.event(g.first, g.firstID), g, now})
	}
	over := stopping || now.Sub(g.opened) >= groupWindow
	switch {
	case over && g.count > 0:
		e := key.event(g.last, g.lastID)
		e.Count, e.Since = g.count, stamp(g.since)
		lines = append(lines, refusalLine{e, g, now})
	case over && g.written:
		delete(t.groups, key)
	}
	return lines
}

// setWritten takes lines out of the table. What came while they were written is for
// the next line, and a new minute begins.
func (t *refusalTable) setWritten(lines []refusalLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lines {
		g := l.group
		if l.Count == 0 {
			g.written = true
			continue
		}
		g.count -= l.Count
		g.opened, g.since = l.made, g.last
	}
}

// exportRefusals writes the lines that are due. Only what was written leaves the
// table.
func (l *Log) exportRefusals(ctx context.Context, stopping bool) error {
	lines := l.refused.due(stopping)
	if len(lines) == 0 && !l.refusals.uncommitted() {
		return nil
	}
	entries := make([]entry, len(lines))
	for i, line := range lines {
		entries[i] = entry{Event: line.Event}
	}
	written, err := l.write(ctx, l.refusals, entries)
	l.refused.setWritten(lines[:written])
	if err != nil {
		return err
	}
	return l.refusals.commit(ctx)
}

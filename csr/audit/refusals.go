package audit

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// maxGroups is how many different refusals are counted apart within a minute.
	maxGroups = 2048
	// groupWindow is how long equal refusals are counted in one line.
	groupWindow = time.Minute
)

// others is the key of refusals that were not counted apart.
func others() Event { return Event{Kind: Refused, Outcome: "others"} }

// refusalGroup counts equal refusals. The first has a line of its own, the others
// have one together.
type refusalGroup struct {
	opened time.Time // when the window began
	first  *Event    // nil: it has its line
	rest   Event     // the others, since the last line
}

// refusalTable holds refusals until they are written. It is the only queue of them,
// and it is bounded.
type refusalTable struct {
	now func() time.Time

	mu     sync.Mutex
	groups map[Event]*refusalGroup // by what equal refusals have in common: all but time and request id
}

func newRefusalTable(now func() time.Time) *refusalTable {
	return &refusalTable{now: now, groups: map[Event]*refusalGroup{}}
}

func (t *refusalTable) add(r Refusal) {
	key := Event{Kind: Refused, Request: r.Request, Operation: r.Operation, Outcome: r.Outcome}
	key.bound()
	id := key.RequestID
	key.RequestID = ""
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	group, known := t.groups[key]
	if !known && len(t.groups) < maxGroups {
		first := key
		first.Time, first.RequestID = stamp(now), id
		t.groups[key] = &refusalGroup{opened: now, first: &first}
		return
	}
	if !known {
		key = others()
		if group, known = t.groups[key]; !known {
			group = &refusalGroup{opened: now} // all of them are counted
			t.groups[key] = group
		}
	}
	if group.rest.Count == 0 {
		group.rest = key
		group.rest.Since = stamp(now)
	}
	group.rest.Count++
	group.rest.Time, group.rest.RequestID = stamp(now), id
}

// refusalLine is a line that is due.
type refusalLine struct {
	entry
	group *refusalGroup
}

// due returns the lines that are to be written now: those of first refusals, and the
// counts of the others where the minute is over or the service stops. It removes the
// groups of which nothing came within their minute.
func (t *refusalTable) due(now time.Time, stopping bool) (lines []refusalLine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var last []refusalLine
	for key, g := range t.groups {
		before := len(lines)
		if g.first != nil {
			lines = append(lines, refusalLine{entry{Event: *g.first}, g})
		}
		over := stopping || now.Sub(g.opened) >= groupWindow
		switch {
		case over && g.rest.Count > 0:
			lines = append(lines, refusalLine{entry{Event: g.rest}, g})
		case over && g.first == nil:
			delete(t.groups, key)
		}
		if key == others() {
			lines, last = lines[:before], slices.Clone(lines[before:])
		}
	}
	// The lines of a flood do not push this one out of the files.
	return append(lines, last...)
}

// setWritten takes lines that were due at a time out of the table. What came while
// they were written is for the next line, whose minute begins at that time.
func (t *refusalTable) setWritten(lines []refusalLine, due time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lines {
		g := l.group
		if l.Count == 0 {
			g.first = nil
			continue
		}
		g.rest.Count -= l.Count
		g.opened, g.rest.Since = due, g.rest.Time
	}
}

// exportRefusals writes the lines that are due. Only what was written leaves the
// table.
func (l *Log) exportRefusals(ctx context.Context, stopping bool) (more bool, err error) {
	now := l.o.Now()
	lines := l.refused.due(now, stopping)
	if len(lines) == 0 && !l.refusals.uncommitted() {
		return false, nil
	}
	entries := make([]entry, len(lines))
	for i, line := range lines {
		entries[i] = line.entry
	}
	written, err := l.write(ctx, l.refusals, entries)
	l.refused.setWritten(lines[:written], now)
	if err != nil {
		return false, err
	}
	return false, l.refusals.commit(ctx)
}

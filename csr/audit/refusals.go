package audit

import (
	"context"
	"sync"
	"time"
)

const (
	// maxGroups is how many different refusals, logins and logouts are counted apart
	// within a minute.
	maxGroups = 2048
	// groupWindow is how long equal ones are counted in one line.
	groupWindow = time.Minute
	// others is the outcome of those that were not counted apart.
	others = "others"
)

// group is what equal refusals, logins or logouts have in common.
type group struct {
	kind      Kind
	request   Request // without its id, session and peer
	operation string
	outcome   string
}

func groupOf(e Event) group {
	e.RequestID, e.Session, e.Peer = "", "", "" // a user may make processes at will
	return group{e.Kind, e.Request, e.Operation, e.Outcome}
}

// refusalGroup counts equal refusals, logins or logouts. The first has a line of its
// own, the others have one together.
type refusalGroup struct {
	opened time.Time // when the window began
	first  *Event    // nil: it has its line
	rest   Event     // the others, since the last line; of the last of them
}

// refusalTable holds refusals, logins and logouts until they are written. It is the
// only queue of them, and it is bounded.
type refusalTable struct {
	now func() time.Time

	mu     sync.Mutex
	groups map[group]*refusalGroup
}

func newRefusalTable(now func() time.Time) *refusalTable {
	return &refusalTable{now: now, groups: map[group]*refusalGroup{}}
}

func (t *refusalTable) add(e Event) {
	e.bound()
	now := t.now()
	e.Time = stamp(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	g, known := t.groups[groupOf(e)]
	if !known && len(t.groups) < maxGroups {
		t.groups[groupOf(e)] = &refusalGroup{opened: now, first: &e}
		return
	}
	if !known {
		e = Event{Kind: e.Kind, Time: e.Time, Request: Request{RequestID: e.RequestID}, Outcome: others}
		if g, known = t.groups[groupOf(e)]; !known {
			g = &refusalGroup{opened: now} // all of them are counted
			t.groups[groupOf(e)] = g
		}
	}
	e.Count, e.Since = g.rest.Count+1, g.rest.Since
	if e.Count == 1 {
		e.Since = e.Time
	}
	g.rest = e
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
		if key.outcome == others {
			last = append(last, lines[before:]...)
			lines = lines[:before]
		}
	}
	// The lines of a flood do not push these out of the files.
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
	l.refusals.mu.Lock()
	defer l.refusals.mu.Unlock()
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

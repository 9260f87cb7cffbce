package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

func refusal(user, address, outcome string) audit.Refusal {
	return audit.Refusal{
		Request: audit.Request{User: user, Method: "basic", RequestID: "r", Address: address, Route: "GET /x"},
		Outcome: outcome,
	}
}

func (tr *trail) refusals() []parsed {
	tr.t.Helper()
	lines := tr.lines(audit.Refusals)
	if len(lines) == 0 || lines[0].Event != "begin" {
		tr.t.Fatalf("%+v", lines)
	}
	return lines[1:]
}

// The first of equal refusals has its line within a second, the others are one
// line a minute that counts them.
func TestFolding(t *testing.T) {
	t.Parallel()
	c := kit.NewClock()
	tr := newTrail(t, func(o *audit.Options) { o.Now = c.Now })
	alice := refusal("alice", "192.0.2.1", "unauthenticated")
	want := func(what string, n, count int) parsed {
		t.Helper()
		kit.Eventually(t, what, func() bool { return len(tr.refusals()) == n })
		last := tr.refusals()[n-1]
		if last.Count != count || last.User != "alice" || last.Route != "GET /x" || last.Event != "refusal" || last.RequestID != "r" {
			t.Errorf("%s: %+v", what, last)
		}
		return last
	}
	start := c.Now()
	for range 5 {
		tr.log.Refuse(alice)
		c.Advance(time.Second)
	}
	tr.log.Refuse(refusal("alice", "192.0.2.2", "unauthenticated"))
	tr.log.Refuse(refusal("alice", "192.0.2.1", "throttled"))
	refused := time.Now()
	want("the first of each", 3, 0)
	if took := time.Since(refused); took > 3*time.Second { // a second, on a machine that has one to spare
		t.Errorf("after %s", took)
	}
	c.Advance(time.Minute)
	if l := want("the count", 4, 4); l.Address != "192.0.2.1" || l.Outcome != "unauthenticated" ||
		!l.Since.Equal(start.Add(time.Second)) || !l.Time.Equal(start.Add(4*time.Second)) {
		t.Errorf("%+v", l)
	}
	// The next window counts from there on, and ends when nothing comes.
	tr.log.Refuse(alice)
	c.Advance(time.Minute)
	want("the next count", 5, 1)
	c.Advance(2 * time.Minute)
	time.Sleep(1200 * time.Millisecond) // two looks
	tr.log.Refuse(alice)
	want("a line of its own again", 6, 0)
	// What is counted and has no line yet has one at the end.
	for range 3 {
		tr.log.Refuse(alice)
	}
	tr.close()
	want("the count at the end", 7, 3)
	tr.wantWhole()
}

// observeRefusals reads the files of refusals. It returns how large they are, 0 where some
// came and went meanwhile, and notes the counts of refusals that were not counted apart,
// by sequence: old lines go.
func (tr *trail) observeRefusals(others map[uint64]int) (total int) {
	names := tr.files(audit.Refusals)
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			continue // it may have gone
		}
		total += len(content)
		for line := range bytes.Lines(content) {
			var l parsed
			if json.Unmarshal(line, &l) == nil && l.Outcome == "others" { // else it is being written
				others[l.Seq] = l.Count
			}
		}
	}
	if !slices.Equal(names, tr.files(audit.Refusals)) {
		return 0
	}
	return total
}

// A flood from many addresses takes no more than its bound, and every refusal is
// counted in some line.
func TestFlood(t *testing.T) {
	t.Parallel()
	const bound = 256 << 10
	c := kit.NewClock()
	tr := newTrail(t, func(o *audit.Options) { o.Now, o.MaxRefusalsSize = c.Now, bound })
	tr.changes(1)
	sent, largest, others := 0, 0, map[uint64]int{}
	for round := range kit.Effort(1, 60) {
		var senders sync.WaitGroup
		for s := range 4 {
			senders.Go(func() {
				for i := range 6_000 {
					tr.log.Refuse(refusal("", fmt.Sprintf("2001:db8::%x:%x:%x", round, s, i), "unauthenticated"))
				}
			})
		}
		senders.Wait()
		sent += 4 * 6_000
		for range 5 {
			time.Sleep(150 * time.Millisecond)
			largest = max(largest, tr.observeRefusals(others))
		}
		c.Advance(time.Minute)
	}
	tr.changes(3)
	tr.close()
	if largest = max(largest, tr.observeRefusals(others)); largest > bound || largest < bound/4 {
		t.Errorf("%d bytes of %d", largest, bound)
	}
	counted := 0
	for _, n := range others {
		counted += n
	}
	// 2,048 of each round are counted apart; a line may come and go between two looks.
	if counted < sent/2 || counted > sent {
		t.Errorf("%d of %d are counted as others", counted, sent)
	}
	tr.wantWhole()
	tr.wantChanges() // are no part of it
	kit.Count(t, "refusals in a flood", sent)
}

// What strangers send cannot forge or flood the trail.
func TestTextOfStrangers(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	odd := "a\n{\"v\":1}\x1b[2J\xff\u202e" + strings.Repeat("x", 5000)
	tr.log.Refuse(audit.Refusal{Request: audit.Request{User: odd, Method: odd, RequestID: odd, Address: odd}, Operation: odd, Outcome: odd})
	tr.close()
	content := kit.Read(t, "", tr.files(audit.Refusals)[0])
	lines := parse(t, content)
	if len(lines) != 2 || len(content) > 9000 || bytes.ContainsAny(content, "\x1b\u202e") {
		t.Errorf("%d lines, %d bytes", len(lines), len(content))
	}
	if l := lines[1]; !strings.HasPrefix(l.User, `a.{"v":1}.[2J..xxx`) || len(l.User) > 1100 {
		t.Errorf("%+v", l)
	}
	tr.wantWhole()
}

// Refusals that cannot be written stay in the table, which is bounded, and are
// written when it works again, each once.
func TestFailingRefusals(t *testing.T) {
	t.Parallel()
	var failing atomic.Bool
	tr := newTrail(t, failAt("refusals write", new(atomic.Int64), failing.Load))
	failing.Store(true)
	for i := range audit.MaxGroups + 100 {
		tr.log.Refuse(refusal("", fmt.Sprint(i), "unauthenticated"))
	}
	kit.Eventually(t, "the failure is logged", func() bool { return strings.Contains(tr.said.String(), "cannot be written") })
	failing.Store(false)
	tr.close()
	lines := tr.refusals()
	if l := lines[len(lines)-1]; len(lines) != audit.MaxGroups+1 || l.Outcome != "others" || l.Count != 100 || l.Address != "" {
		t.Errorf("%d lines, the last is %+v", len(lines), l)
	}
	seen := map[string]bool{}
	for _, l := range lines {
		if seen[l.Address] {
			t.Errorf("%s has two lines", l.Address)
		}
		seen[l.Address] = true
	}
	tr.wantWhole()
}

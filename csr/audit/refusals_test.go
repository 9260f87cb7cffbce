package audit_test

import (
	"bytes"
	"context"
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
	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
)

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func refusal(user, address, outcome string) audit.Refusal {
	return audit.Refusal{
		Request: audit.Request{ID: "r", Address: address, Route: "GET /x"},
		User:    user, Method: "basic", Outcome: outcome,
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
	c := newClock()
	tr := newTrail(t, func(o *audit.Options) { o.Now = c.now })
	start := c.now()
	for range 5 {
		tr.log.Refuse(refusal("alice", "192.0.2.1", "unauthenticated"))
		c.forward(time.Second)
	}
	tr.log.Refuse(refusal("alice", "192.0.2.2", "unauthenticated"))
	tr.log.Refuse(refusal("alice", "192.0.2.1", "throttled"))
	told := time.Now()
	eventually(t, "the first of each", func() bool { return len(tr.refusals()) == 3 })
	if took := time.Since(told); took > 3*time.Second { // a second, on a machine that has one to spare
		t.Errorf("after %s", took)
	}
	for _, l := range tr.refusals() {
		if l.Count != 0 || l.User != "alice" || l.Route != "GET /x" || l.Event != "refusal" || l.RequestID != "r" {
			t.Errorf("%+v", l)
		}
	}
	c.forward(time.Minute)
	eventually(t, "the count", func() bool { return len(tr.refusals()) == 4 })
	if l := tr.refusals()[3]; l.Count != 4 || l.Address != "192.0.2.1" || l.Outcome != "unauthenticated" ||
		!l.Since.Equal(start.Add(time.Second)) || !l.Time.Equal(start.Add(4*time.Second)) {
		t.Errorf("%+v", l)
	}
	// The next window counts from there on, and ends when nothing comes.
	tr.log.Refuse(refusal("alice", "192.0.2.1", "unauthenticated"))
	c.forward(time.Minute)
	eventually(t, "the next count", func() bool { return len(tr.refusals()) == 5 })
	if l := tr.refusals()[4]; l.Count != 1 {
		t.Errorf("%+v", l)
	}
	c.forward(2 * time.Minute)
	time.Sleep(1200 * time.Millisecond) // two looks
	tr.log.Refuse(refusal("alice", "192.0.2.1", "unauthenticated"))
	eventually(t, "a line of its own again", func() bool { return len(tr.refusals()) == 6 })
	if l := tr.refusals()[5]; l.Count != 0 {
		t.Errorf("%+v", l)
	}
	// What is counted and not told yet is told at the end.
	for range 3 {
		tr.log.Refuse(refusal("alice", "192.0.2.1", "unauthenticated"))
	}
	tr.close()
	if l := tr.refusals()[6]; l.Count != 3 {
		t.Errorf("%+v", l)
	}
	tr.wantWhole()
}

// A flood from many addresses takes no more than its bound, and every refusal is
// counted in some line.
func TestFlood(t *testing.T) {
	t.Parallel()
	const bound = 256 << 10
	c := newClock()
	tr := newTrail(t, func(o *audit.Options) { o.Now, o.MaxRefusalsSize = c.now, bound })
	tr.change()
	largest := int64(0)
	others := map[uint64]int{} // counted in lines, by sequence: old lines go
	measure := func() {
		total, names := int64(0), tr.files(audit.Refusals)
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				continue // it may have gone
			}
			total += int64(len(content))
			for line := range bytes.Lines(content) {
				var l parsed
				if json.Unmarshal(line, &l) == nil && l.Outcome == "others" { // else it is being written
					others[l.Seq] = l.Count
				}
			}
		}
		if slices.Equal(names, tr.files(audit.Refusals)) { // else some have come and gone meanwhile
			largest = max(largest, total)
		}
	}
	sent := 0
	for round := range keystoretest.Effort(3, 60) {
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
			measure()
		}
		c.forward(time.Minute)
	}
	tr.changes(3)
	tr.close()
	measure()
	if largest > bound || largest < bound/4 {
		t.Errorf("%d bytes of %d", largest, bound)
	}
	counted := 0
	for _, n := range others {
		counted += n
	}
	// 2,048 of each round are told apart; a line may come and go between two looks.
	if counted < sent/2 || counted > sent {
		t.Errorf("%d of %d are counted as others", counted, sent)
	}
	tr.wantWhole()
	tr.wantChanges() // are no part of it
	keystoretest.Count(t, "refusals in a flood", sent)
}

// Changes that come faster than they are written do not keep refusals waiting.
func TestRefusalsAmongChanges(t *testing.T) {
	t.Parallel()
	const notes = 2000 // of which a group takes a quarter
	var (
		held  atomic.Bool // the outbox cannot be read
		mu    sync.Mutex
		steps []string
	)
	tr := newTrail(t)
	tr.close()
	tr.o = tr.o.WithStep(func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if step == "changes write" && !held.Load() {
			if len(steps) == 0 {
				tr.log.Refuse(refusal("", "192.0.2.1", "unauthenticated"))
			}
			time.Sleep(600 * time.Millisecond) // a slow disk
		}
		steps = append(steps, step)
		return nil
	})
	tr.wrap = func(o audit.Outbox) audit.Outbox { return heldOutbox{o, &held} }
	tr.open()
	held.Store(true)
	var writers sync.WaitGroup
	for w := range 16 {
		writers.Go(func() {
			for i := range notes / 16 {
				text, err := tr.log.Note(event(w<<16 + i))
				if err == nil {
					_, err = tr.store.Commit(t.Context(), text, keystore.Op{Slot: keystore.Slot{Collection: "c", ID: fmt.Sprint(w)}})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	mu.Lock()
	steps = nil
	mu.Unlock()
	held.Store(false)
	tr.flush()
	mu.Lock()
	defer mu.Unlock()
	refused, last := slices.Index(steps, "refusals flushed"), 0
	for i, step := range steps {
		if step == "changes flushed" {
			last = i
		}
	}
	if refused < 0 || refused > last {
		t.Errorf("the refusal is written after all changes: %q", steps)
	}
}

// heldOutbox cannot be read while it is held.
type heldOutbox struct {
	outbox
	held *atomic.Bool
}

func (h heldOutbox) Pending(ctx context.Context) (int, error) {
	if h.held.Load() {
		return 0, errInjected
	}
	return h.outbox.Pending(ctx)
}

// What strangers send cannot forge or flood the trail.
func TestTextOfStrangers(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	odd := "a\n{\"v\":1}\x1b[2J\xff\u202e" + strings.Repeat("x", 5000)
	tr.log.Refuse(audit.Refusal{Request: audit.Request{ID: odd, Address: odd, Route: odd}, User: odd, Method: odd, Operation: odd, Outcome: odd})
	tr.close()
	content := string(read(t, tr.files(audit.Refusals)[0]))
	lines := parse(t, content)
	if len(lines) != 2 || len(content) > 9000 || strings.ContainsAny(content, "\x1b\u202e") {
		t.Errorf("%d lines, %d bytes", len(lines), len(content))
	}
	if l := lines[1]; !strings.HasPrefix(l.User, `a.{"v":1}.[2J..xxx`) || len(l.User) > 1100 {
		t.Errorf("%+v", l)
	}
	tr.wantWhole()
}

// Refusals that cannot be written stay in the table, which is bounded, and are
// written when it works again.
func TestFailingRefusals(t *testing.T) {
	t.Parallel()
	var failing sync.Mutex
	failing.Lock()
	tr := newTrail(t, func(o *audit.Options) {
		*o = o.WithStep(func(step string) error {
			if step == "refusals written" {
				if !failing.TryLock() {
					return errInjected
				}
				failing.Unlock()
			}
			return nil
		})
		failing.Unlock() // the first line is written
	})
	failing.Lock()
	for i := range audit.MaxFolds + 100 {
		tr.log.Refuse(refusal("", fmt.Sprint(i), "unauthenticated"))
	}
	eventually(t, "the failure is told", func() bool { return strings.Contains(tr.said.String(), "cannot be written") })
	failing.Unlock()
	eventually(t, "it works again", func() bool { return len(tr.refusals()) == audit.MaxFolds })
	tr.close()
	lines := tr.refusals()
	if l := lines[len(lines)-1]; l.Outcome != "others" || l.Count != 100 || l.Address != "" {
		t.Errorf("%+v", l)
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

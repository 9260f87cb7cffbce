package keystoretest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/keystore"
)

// OutboxStore is a store together with its outbox.
type OutboxStore interface {
	keystore.Store
	keystore.Outbox
}

// OpenOutbox is OpenStore for a store with its outbox.
type OpenOutbox func(t *testing.T, dir string) OutboxStore

// TestOutbox runs the contract of keystore.Outbox.
func TestOutbox(t *testing.T, open OpenOutbox) {
	for name, test := range map[string]func(*testing.T, OpenOutbox){
		"notes":               testNotes,
		"trim and anchors":    testTrim,
		"closed":              testOutboxClosed,
		"bounds of anchors":   testAnchorBounds,
		"chain of notes":      testChain,
		"note alone":          testNoteAlone,
		"advance":             testAdvance,
		"inspection":          testInspection,
		"outbox under change": testOutboxUnderChange,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

// note commits a change of a slot with a note and returns its revision.
func note(t testing.TB, s keystore.Store, text string) uint64 {
	t.Helper()
	c, err := s.Commit(t.Context(), []byte(text), put(slot("c", "a"), keystore.Any, text))
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return c.Revision
}

// wantOutbox checks what the outbox holds after a revision, and how much in all.
func wantOutbox(t testing.TB, s keystore.Outbox, after uint64, limit, pending int, want ...string) {
	t.Helper()
	got := []string{}
	last := after
	err := s.Outbox(t.Context(), after, limit, func(revision uint64, _, _, note []byte) error {
		if revision <= last {
			t.Errorf("revision %d after %d", revision, last)
		}
		last = revision
		got = append(got, string(note))
		clear(note) // it is ours
		return nil
	})
	if err != nil || !slices.Equal(got, want) && len(got)+len(want) > 0 {
		t.Errorf("outbox after %d: %q, %v, want %q", after, got, err, want)
	}
	if n, err := s.Pending(t.Context()); err != nil || n != pending {
		t.Errorf("Pending: %d, %v, want %d", n, err, pending)
	}
}

func wantAnchor(t testing.TB, s keystore.Outbox, name, want string) {
	t.Helper()
	got, err := s.Anchor(t.Context(), name)
	if err != nil || string(got) != want || (got == nil) != (want == "") {
		t.Errorf("anchor %q: %q, %v, want %q", name, got, err, want)
	}
	clear(got)
}

func testNotes(t *testing.T, open OpenOutbox) {
	dir := t.TempDir()
	s := open(t, dir)
	wantOutbox(t, s, 0, 9, 0)
	first := note(t, s, "one")
	mustCommit(t, s, put(slot("c", "b"), keystore.Any, "without a note"))
	second, third := note(t, s, "two"), note(t, s, "three")
	// A change that does not happen leaves no note.
	_, err := s.Commit(t.Context(), []byte("never"), put(slot("c", "a"), keystore.Absent, "x"))
	wantError(t, "Commit", err, keystore.ErrConflict)
	for range 2 {
		wantOutbox(t, s, 0, 9, 3, "one", "two", "three")
		wantOutbox(t, s, 0, 2, 3, "one", "two")
		wantOutbox(t, s, first, 9, 3, "two", "three")
		wantOutbox(t, s, second, 9, 3, "three")
		wantOutbox(t, s, third, 9, 3)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
	}
	stop, calls := errors.New("stop"), 0
	wantError(t, "Outbox", s.Outbox(t.Context(), 0, 9, func(uint64, []byte, []byte, []byte) error { calls++; return stop }), stop)
	if calls != 1 {
		t.Errorf("Outbox went on after an error: %d calls", calls)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func testTrim(t *testing.T, open OpenOutbox) {
	dir := t.TempDir()
	s := open(t, dir)
	first := note(t, s, "one")
	note(t, s, "two")
	third := note(t, s, "three")
	wantAnchor(t, s, "changes", "")
	for _, step := range []struct {
		through      uint64
		name, anchor string
		left         []string
	}{
		{0, "other", "nothing", []string{"one", "two", "three"}},
		{first, "changes", "first", []string{"two", "three"}},
		{first, "changes", "again", []string{"two", "three"}},
		{third - 1, "changes", "second", []string{"three"}},
		{third + 100, "changes", "all", nil},
	} {
		if err := s.Trim(t.Context(), step.through, map[string][]byte{step.name: []byte(step.anchor)}); err != nil {
			t.Fatalf("Trim: %v", err)
		}
		wantOutbox(t, s, 0, 9, len(step.left), step.left...)
		wantAnchor(t, s, step.name, step.anchor)
	}
	wantAnchor(t, s, "other", "nothing")
	if fourth := note(t, s, "four"); fourth <= third {
		t.Errorf("revision %d after %d", fourth, third)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	wantOutbox(t, s, 0, 9, 1, "four")
	wantAnchor(t, s, "changes", "all")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func testOutboxClosed(t *testing.T, open OpenOutbox) {
	s := open(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Outbox", s.Outbox(t.Context(), 0, 9, func(uint64, []byte, []byte, []byte) error { return nil }), keystore.ErrUnavailable)
	_, err := s.Pending(t.Context())
	wantError(t, "Pending", err, keystore.ErrUnavailable)
	_, err = s.Anchor(t.Context(), "changes")
	wantError(t, "Anchor", err, keystore.ErrUnavailable)
	wantError(t, "Trim", s.Trim(t.Context(), 0, map[string][]byte{"changes": []byte("x")}), keystore.ErrUnavailable)
}

func testAnchorBounds(t *testing.T, open OpenOutbox) {
	s := openNew(t, open)
	note(t, s, "one")
	for name, anchor := range map[string][]byte{
		"": []byte("x"), "n\x00": []byte("x"), strings.Repeat("n", keystore.MaxAnchorNameLen+1): []byte("x"),
		"empty": nil, "long": make([]byte, keystore.MaxAnchorLen+1),
	} {
		wantError(t, fmt.Sprintf("%q of %d bytes", name, len(anchor)), s.Trim(t.Context(), 1<<40, map[string][]byte{name: anchor}), keystore.ErrNotCommitted)
	}
	wantOutbox(t, s, 0, 9, 1, "one")
	name, anchor := strings.Repeat("n", keystore.MaxAnchorNameLen), bytes.Repeat([]byte("x"), keystore.MaxAnchorLen)
	if err := s.Trim(t.Context(), 1<<40, map[string][]byte{name: anchor}); err != nil {
		t.Fatalf("Trim at the bounds: %v", err)
	}
	clear(anchor)
	wantAnchor(t, s, name, strings.Repeat("x", keystore.MaxAnchorLen))
	wantOutbox(t, s, 0, 9, 0)
}

// testOutboxUnderChange exports while others change: every note is seen once, in
// order, however trims fall between the commits.
func testOutboxUnderChange(t *testing.T, open OpenOutbox) {
	s := openNew(t, open)
	const writers, each = 8, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				at := slot("c", fmt.Sprint(w))
				if _, err := s.Commit(t.Context(), fmt.Appendf(nil, "%d-%d", w, i), put(at, keystore.Any, "x")); err != nil {
					t.Errorf("Commit: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := map[string]int{}
	next := map[string]int{}
	var last uint64
	for ended := false; ; {
		n := 0
		err := s.Outbox(t.Context(), last, 7, func(revision uint64, _, _, note []byte) error {
			var w, i int
			if _, err := fmt.Sscanf(string(note), "%d-%d", &w, &i); err != nil || i != next[fmt.Sprint(w)] {
				t.Errorf("note %q, want number %d of that writer, %v", note, next[fmt.Sprint(w)], err)
			}
			next[fmt.Sprint(w)]++
			seen[string(note)]++
			last, n = revision, n+1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			if err := s.Trim(t.Context(), last, map[string][]byte{"changes": []byte("x")}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if ended {
			break
		}
		select {
		case <-done:
			ended = true // one more look
		default:
		}
	}
	if len(seen) != writers*each {
		t.Errorf("%d notes seen, want %d", len(seen), writers*each)
	}
	wantOutbox(t, s, 0, 9, 0)
}

// sealer is a guard that writes down what it was asked. It refuses the operations on one
// slot.
type sealer struct {
	asked   []string
	refused keystore.Slot
}

func (g *sealer) Admit(op keystore.Op) error {
	if op.Slot == g.refused {
		return keystore.ErrRotated
	}
	return nil
}

func (g *sealer) Seal(previous []byte, revision uint64, note []byte) ([]byte, error) {
	g.asked = append(g.asked, fmt.Sprintf("%s<%d:%s", previous, revision, note))
	return fmt.Appendf(nil, "code %s", note), nil
}

// testChain: each note has a code that follows the one before, also after a trim and a
// restart, and the newest is the head.
func testChain(t *testing.T, open OpenOutbox) {
	dir := t.TempDir()
	s := open(t, dir)
	g := &sealer{refused: slot("c", "refused")}
	s.Protect(g)
	first := note(t, s, "one")
	_, err := s.Commit(t.Context(), []byte("never"), put(slot("c", "refused"), keystore.Any, "x"))
	wantError(t, "refused by the guard", err, keystore.ErrRotated)
	second := note(t, s, "two")
	if err := s.Trim(t.Context(), second, map[string][]byte{"changes": []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	s.Protect(g)
	third := note(t, s, "three")
	want := []string{fmt.Sprintf("<%d:one", first), fmt.Sprintf("code one<%d:two", second), fmt.Sprintf("code two<%d:three", third)}
	if !slices.Equal(g.asked, want) {
		t.Errorf("the guard was asked %q, want %q", g.asked, want)
	}
	found, err := s.Inspect(t.Context(), nil)
	if err != nil || string(found.Head) != "code three" || len(found.Notes) != 1 || string(found.Anchors["changes"]) != "x" || found.Revision != third {
		t.Fatalf("Inspect: %+v, %v", found, err)
	}
	if n := found.Notes[0]; n.Revision != third || string(n.Previous) != "code two" || string(n.Code) != "code three" || string(n.Text) != "three" {
		t.Errorf("note %+v", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func testNoteAlone(t *testing.T, open OpenOutbox) {
	s := openNew(t, open)
	before := note(t, s, "one")
	c, err := s.Commit(t.Context(), []byte("alone"))
	if err != nil || c.Revision <= before || len(c.Replaced) > 0 {
		t.Errorf("a note alone: %+v, %v", c, err)
	}
	wantOutbox(t, s, 0, 9, 2, "one", "alone")
}

func testAdvance(t *testing.T, open OpenOutbox) {
	dir := t.TempDir()
	s := open(t, dir)
	before := note(t, s, "one")
	for _, to := range []uint64{before + 1000, 1} {
		if err := s.Advance(t.Context(), to); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Advance", s.Advance(t.Context(), 1<<40), keystore.ErrUnavailable)
	s = open(t, dir)
	if after := note(t, s, "two"); after != before+1001 {
		t.Errorf("revision %d after an advance to %d", after, before+1000)
	}
	wantOutbox(t, s, 0, 9, 2, "one", "two")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// testInspection: it shows one moment, while readers and commits go on.
func testInspection(t *testing.T, open OpenOutbox) {
	s := openNew(t, open)
	s.Protect(&sealer{})
	a, b := slot("c", "a"), slot("c", "b")
	both := func(text string) uint64 {
		c, err := s.Commit(t.Context(), []byte(text), put(a, keystore.Any, text), put(b, keystore.Any, text))
		if err != nil {
			t.Fatal(err)
		}
		return c.Revision
	}
	old := both("old")
	if err := s.Trim(t.Context(), 0, map[string][]byte{"changes": []byte("old")}); err != nil {
		t.Fatal(err)
	}
	seen := map[keystore.Slot]string{}
	found, err := s.Inspect(t.Context(), func(r keystore.Record, unreadable error) error {
		both("new " + r.Slot.ID)
		wantPayload(t, s, b, "new "+r.Slot.ID)
		seen[r.Slot] = fmt.Sprintf("%s of %d, %v", r.Payload, r.Revision, unreadable)
		return s.Trim(t.Context(), old, map[string][]byte{"changes": []byte("new")})
	})
	want := fmt.Sprintf("old of %d, <nil>", old)
	if err != nil || len(seen) != 2 || seen[a] != want || seen[b] != want {
		t.Errorf("Inspect: %v, %v, want %q twice", seen, err, want)
	}
	if len(found.Notes) != 1 || found.Notes[0].Revision != old || string(found.Head) != "code old" ||
		found.Revision != old || string(found.Anchors["changes"]) != "old" {
		t.Errorf("evidence of another moment: %+v, want revision %d", found, old)
	}
	wantOutbox(t, s, 0, 9, 2, "new a", "new b")
}

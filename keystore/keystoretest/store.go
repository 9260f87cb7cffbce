// Package keystoretest holds the contracts of package keystore as tests, for
// every store and every custodian to run whole, and the doubles that prove what
// the core promises: a custodian that keeps books (Vault) and a store that fails
// on demand (Faulty).
package keystoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/keystore"
)

// OpenStore opens the store that lives in a folder, making it where there is
// none. Closing is the suite's business.
type OpenStore func(t *testing.T, dir string) keystore.Store

// TestStore runs the contract of keystore.Store.
func TestStore(t *testing.T, open OpenStore) {
	for name, test := range map[string]func(*testing.T, OpenStore){
		"empty":                      testEmpty,
		"put get delete":             testPutGetDelete,
		"expectations":               testExpectations,
		"all or nothing":             testAllOrNothing,
		"bounds":                     testBounds,
		"unlinked references":        testUnlinked,
		"revisions never repeat":     testRevisions,
		"index order":                testIndexOrder,
		"values of an index":         testValues,
		"survives reopening":         testReopen,
		"closed":                     testClosed,
		"ended context":              testEndedContext,
		"caller owns the bytes":      testOwnership,
		"one of many wins a race":    testRace,
		"concurrent commits all end": testConcurrentCommits,
		"readers see whole commits":  testWholeCommits,
		"paging under change":        testPagingUnderChange,
		"outbox":                     testOutbox,
		"bounds of anchors":          testAnchorBounds,
		"outbox under change":        testOutboxUnderChange,
		"model":                      testModel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

func openNew(t *testing.T, open OpenStore) keystore.Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func slot(collection, id string) keystore.Slot {
	return keystore.Slot{Collection: collection, ID: id}
}

func put(s keystore.Slot, e keystore.Expect, payload string, index ...keystore.IndexEntry) keystore.Op {
	return keystore.Op{Slot: s, Expect: e, Ref: keystore.Ref("ref of " + payload), Payload: []byte(payload), Index: index}
}

func remove(s keystore.Slot, e keystore.Expect) keystore.Op {
	return keystore.Op{Slot: s, Expect: e, Delete: true}
}

func by(name, value string) keystore.IndexEntry {
	return keystore.IndexEntry{Name: name, Value: []byte(value)}
}

func mustCommit(t testing.TB, s keystore.Store, ops ...keystore.Op) keystore.Commit {
	t.Helper()
	c, err := s.Commit(t.Context(), nil, ops...)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return c
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func wantPayload(t testing.TB, s keystore.Store, at keystore.Slot, want string) keystore.Record {
	t.Helper()
	r, err := s.Get(t.Context(), at)
	if err != nil {
		t.Fatalf("Get %s: %v", at, err)
	}
	if r.Slot != at || string(r.Payload) != want || string(r.Ref) != "ref of "+want {
		t.Fatalf("Get %s: %s with payload %q and reference %q, want %q", at, r.Slot, r.Payload, r.Ref, want)
	}
	return r
}

func wantCount(t testing.TB, s keystore.Store, collection string, want int) {
	t.Helper()
	if n, err := s.Count(t.Context(), collection); err != nil || n != want {
		t.Errorf("Count %s: %d, %v, want %d", collection, n, err, want)
	}
}

// ids lists a page and returns the ids on it.
func ids(t testing.TB, s keystore.Store, q keystore.Query) []string {
	t.Helper()
	items, err := s.List(t.Context(), q)
	if err != nil {
		t.Fatalf("List %+v: %v", q, err)
	}
	out := []string{}
	for _, item := range items {
		out = append(out, item.Slot.ID)
	}
	return out
}

func testEmpty(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	_, err := s.Get(t.Context(), slot("c", "a"))
	wantError(t, "Get", err, keystore.ErrNotFound)
	_, err = s.Commit(t.Context(), nil, remove(slot("c", "a"), keystore.Any))
	wantError(t, "Delete", err, keystore.ErrNotFound)
	wantCount(t, s, "c", 0)
	for _, index := range []string{"", "name"} {
		if got := ids(t, s, keystore.Query{Collection: "c", Index: index, Limit: 10}); len(got) != 0 {
			t.Errorf("List by %q: %v", index, got)
		}
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	if err := s.Refs(t.Context(), func(at keystore.Slot, _ keystore.Ref) error { return fmt.Errorf("%s exists", at) }); err != nil {
		t.Errorf("Refs: %v", err)
	}
}

func testPutGetDelete(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a := slot("c", "a")
	first := mustCommit(t, s, put(a, keystore.Any, "one"))
	if r := wantPayload(t, s, a, "one"); r.Revision != first.Revision || r.Revision == 0 {
		t.Errorf("revision %d, committed %d", r.Revision, first.Revision)
	}
	// The same id elsewhere is another slot.
	mustCommit(t, s, put(slot("d", "a"), keystore.Absent, "other"))
	mustCommit(t, s, put(a, keystore.Any, "two"))
	wantPayload(t, s, a, "two")
	wantCount(t, s, "c", 1)
	mustCommit(t, s, remove(a, keystore.Any))
	_, err := s.Get(t.Context(), a)
	wantError(t, "Get", err, keystore.ErrNotFound)
	wantCount(t, s, "c", 0)
	wantPayload(t, s, slot("d", "a"), "other")

	// Neither a reference nor a payload is required.
	mustCommit(t, s, keystore.Op{Slot: a})
	if r, err := s.Get(t.Context(), a); err != nil || len(r.Ref) != 0 || len(r.Payload) != 0 {
		t.Errorf("empty record: %+v, %v", r, err)
	}
}

func testExpectations(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	present, absent := slot("c", "present"), slot("c", "absent")
	revision := mustCommit(t, s, put(present, keystore.Any, "x")).Revision
	for name, test := range map[string]struct {
		op   keystore.Op
		want error
	}{
		"absent, is present":          {put(present, keystore.Absent, "y"), keystore.ErrConflict},
		"older revision":              {put(present, keystore.At(revision-1), "y"), keystore.ErrConflict},
		"later revision":              {put(present, keystore.At(revision+1), "y"), keystore.ErrConflict},
		"revision, is absent":         {put(absent, keystore.At(revision), "y"), keystore.ErrConflict},
		"delete with other revision":  {remove(present, keystore.At(revision+1)), keystore.ErrConflict},
		"delete present as absent":    {remove(present, keystore.Absent), keystore.ErrConflict},
		"delete absent":               {remove(absent, keystore.Any), keystore.ErrNotFound},
		"delete absent as absent":     {remove(absent, keystore.Absent), keystore.ErrNotFound},
		"delete absent with revision": {remove(absent, keystore.At(revision)), keystore.ErrConflict},
	} {
		_, err := s.Commit(t.Context(), nil, test.op)
		wantError(t, name, err, test.want)
	}
	wantPayload(t, s, present, "x")
	wantCount(t, s, "c", 1)
	mustCommit(t, s, put(present, keystore.At(revision), "y"), put(absent, keystore.Absent, "z"))
	wantPayload(t, s, present, "y")
	wantPayload(t, s, absent, "z")
}

func testAllOrNothing(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a, b, c := slot("c", "a"), slot("c", "b"), slot("d", "c")
	mustCommit(t, s, put(b, keystore.Any, "b", by("name", "b")))
	_, err := s.Commit(t.Context(), nil,
		put(a, keystore.Any, "a", by("name", "a")), remove(b, keystore.Any), put(c, keystore.At(77), "c"))
	wantError(t, "Commit", err, keystore.ErrConflict)
	_, err = s.Get(t.Context(), a)
	wantError(t, "Get", err, keystore.ErrNotFound)
	wantPayload(t, s, b, "b")
	wantCount(t, s, "c", 1)
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "name", Limit: 9}); !slices.Equal(got, []string{"b"}) {
		t.Errorf("index: %v", got)
	}
	done := mustCommit(t, s, put(a, keystore.Absent, "a"), remove(b, keystore.Any), put(c, keystore.Absent, "c"))
	if x, y := wantPayload(t, s, a, "a"), wantPayload(t, s, c, "c"); x.Revision != done.Revision || y.Revision != done.Revision {
		t.Errorf("revisions %d and %d of one commit, want %d", x.Revision, y.Revision, done.Revision)
	}
}

func testBounds(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a := slot("c", "a")
	many := make([]keystore.Op, keystore.MaxOpsPerCommit+1)
	for i := range many {
		many[i] = put(slot("c", fmt.Sprint(i)), keystore.Any, "x")
	}
	for name, ops := range map[string][]keystore.Op{
		"empty collection":    {put(slot("", "a"), keystore.Any, "x")},
		"empty id":            {put(slot("c", ""), keystore.Any, "x")},
		"NUL in collection":   {put(slot("c\x00", "a"), keystore.Any, "x")},
		"NUL in id":           {put(slot("c", "a\x00"), keystore.Any, "x")},
		"NUL in deleted id":   {remove(slot("c", "a\x00"), keystore.Any)},
		"long collection":     {put(slot(strings.Repeat("c", keystore.MaxCollectionLen+1), "a"), keystore.Any, "x")},
		"long id":             {put(slot("c", strings.Repeat("a", keystore.MaxIDLen+1)), keystore.Any, "x")},
		"long payload":        {{Slot: a, Payload: make([]byte, keystore.MaxPayloadLen+1)}},
		"long reference":      {{Slot: a, Ref: make([]byte, keystore.MaxRefLen+1)}},
		"empty index name":    {put(a, keystore.Any, "x", by("", "v"))},
		"NUL in index name":   {put(a, keystore.Any, "x", by("n\x00", "v"))},
		"long index name":     {put(a, keystore.Any, "x", by(strings.Repeat("n", keystore.MaxIndexNameLen+1), "v"))},
		"long index value":    {put(a, keystore.Any, "x", by("n", strings.Repeat("v", keystore.MaxIndexValueLen+1)))},
		"index entered twice": {put(a, keystore.Any, "x", by("n", "v"), by("n", "w"))},
		"many index entries":  {{Slot: a, Index: make([]keystore.IndexEntry, keystore.MaxIndexEntries+1)}},
		"slot twice":          {put(a, keystore.Any, "x"), remove(a, keystore.Any)},
		"many operations":     many,
	} {
		_, err := s.Commit(t.Context(), nil, ops...)
		wantError(t, name, err, keystore.ErrNotCommitted)
	}
	_, err := s.Commit(t.Context(), make([]byte, keystore.MaxNoteLen+1), put(a, keystore.Any, "x"))
	wantError(t, "long note", err, keystore.ErrNotCommitted)
	wantCount(t, s, "c", 0)
	if _, err := s.Get(t.Context(), slot("c", "\x00")); err == nil {
		t.Error("Get takes an id with a NUL byte")
	}
	for name, q := range map[string]keystore.Query{
		"no collection": {Limit: 1}, "no limit": {Collection: "c"}, "bad index": {Collection: "c", Index: "\x00", Limit: 1},
	} {
		if _, err := s.List(t.Context(), q); err == nil {
			t.Errorf("List takes a query with %s", name)
		}
	}

	// At the bounds.
	big := keystore.Op{
		Slot:    slot(strings.Repeat("c", keystore.MaxCollectionLen), strings.Repeat("a", keystore.MaxIDLen)),
		Ref:     bytes.Repeat([]byte{1}, keystore.MaxRefLen),
		Payload: bytes.Repeat([]byte{2}, keystore.MaxPayloadLen),
	}
	for i := range keystore.MaxIndexEntries {
		big.Index = append(big.Index, by(fmt.Sprintf("%0*d", keystore.MaxIndexNameLen, i), strings.Repeat("\x00", keystore.MaxIndexValueLen)))
	}
	if _, err := s.Commit(t.Context(), make([]byte, keystore.MaxNoteLen), big); err != nil {
		t.Fatalf("Commit at the bounds: %v", err)
	}
	r, err := s.Get(t.Context(), big.Slot)
	if err != nil || !bytes.Equal(r.Ref, big.Ref) || !bytes.Equal(r.Payload, big.Payload) {
		t.Errorf("Get at the bounds: %v, other bytes than written: %t", err, err == nil)
	}
	mustCommit(t, s, remove(big.Slot, keystore.Any))
}

func testUnlinked(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a, b := slot("c", "a"), slot("c", "b")
	for _, step := range []struct {
		name string
		ops  []keystore.Op
		want []string
	}{
		{"first", []keystore.Op{put(a, keystore.Any, "1")}, nil},
		{"replaced", []keystore.Op{put(a, keystore.Any, "2")}, []string{"ref of 1"}},
		{"moved with its reference", []keystore.Op{put(b, keystore.Any, "2"), remove(a, keystore.Any)}, nil},
		{"same reference again", []keystore.Op{put(b, keystore.Any, "2")}, nil},
		{"two at once", []keystore.Op{put(a, keystore.Any, "3"), put(b, keystore.Any, "4")}, []string{"ref of 2"}},
		{"deleted", []keystore.Op{remove(a, keystore.Any), remove(b, keystore.Any)}, []string{"ref of 3", "ref of 4"}},
		{"no reference", []keystore.Op{{Slot: a}}, nil},
		{"no reference replaced", []keystore.Op{{Slot: a}}, nil},
	} {
		got := []string{}
		for _, ref := range mustCommit(t, s, step.ops...).Unlinked {
			got = append(got, string(ref))
		}
		slices.Sort(got)
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: unlinked %q, want %q", step.name, got, step.want)
		}
	}
}

func testRevisions(t *testing.T, open OpenStore) {
	dir := t.TempDir()
	a := slot("c", "a")
	var last uint64
	for range 2 {
		s := open(t, dir)
		for range 3 {
			for _, op := range []keystore.Op{put(a, keystore.Absent, "x"), put(a, keystore.Any, "y"), remove(a, keystore.Any)} {
				c := mustCommit(t, s, op)
				if c.Revision <= last {
					t.Errorf("revision %d after %d", c.Revision, last)
				}
				last = c.Revision
			}
			if err := s.Check(t.Context()); err != nil {
				t.Errorf("Check: %v", err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
}

func testIndexOrder(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	// In the order in which they must come out: by value as bytes, then by id.
	ordered := []struct{ value, id string }{
		{"", "z"}, {"\x00", "y"}, {"\x00\x00", "a"}, {"\x00\x01", "b"}, {"\x00\xff", "c"}, {"\x01", "d"},
		{"a", "k"}, {"a", "l"}, {"a\x00", "e"}, {"a\x00b", "f"}, {"a\x01", "A"}, {"aa", "B"}, {"b", "0"}, {"\xff\xff", "\xff"},
	}
	var want []string
	for i := range ordered {
		e := ordered[(i*5)%len(ordered)] // in another order
		mustCommit(t, s, put(slot("c", e.id), keystore.Absent, e.id, by("n", e.value), by("other", "x")))
		want = append(want, ordered[i].id)
	}
	mustCommit(t, s, put(slot("c", "not indexed"), keystore.Absent, "x"))
	check := func(what string, want []string) {
		t.Helper()
		if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 100}); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
		backwards := slices.Clone(want)
		slices.Reverse(backwards)
		if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 100, Descending: true}); !slices.Equal(got, backwards) {
			t.Errorf("%s, descending: %q, want %q", what, got, backwards)
		}
	}
	check("all", want)
	if got := ids(t, s, keystore.Query{Collection: "c", Limit: 2}); !slices.Equal(got, []string{"0", "A"}) {
		t.Errorf("by id: %q", got)
	}

	mustCommit(t, s, put(slot("c", "z"), keystore.Any, "z", by("n", "zz")))   // to another place
	mustCommit(t, s, put(slot("c", "y"), keystore.Any, "y", by("other", ""))) // out of this index
	mustCommit(t, s, remove(slot("c", "a"), keystore.Any))
	want = slices.Insert(slices.Clone(want[3:]), len(want)-4, "z")
	check("after changes", want)
	wantCount(t, s, "c", len(ordered))
}

func testReopen(t *testing.T, open OpenStore) {
	dir := t.TempDir()
	s := open(t, dir)
	r := mustCommit(t, s, put(slot("c", "a"), keystore.Any, "x", by("n", "v")), put(slot("d", "b"), keystore.Any, "y")).Revision
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	s = open(t, dir)
	defer s.Close()
	if got := wantPayload(t, s, slot("c", "a"), "x").Revision; got != r {
		t.Errorf("revision %d, committed %d", got, r)
	}
	wantCount(t, s, "c", 1)
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 9}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("index: %q", got)
	}
	refs := map[string]string{}
	err := s.Refs(t.Context(), func(at keystore.Slot, ref keystore.Ref) error { refs[at.String()] = string(ref); return nil })
	if want := map[string]string{"c/a": "ref of x", "d/b": "ref of y"}; err != nil || !maps.Equal(refs, want) {
		t.Errorf("Refs: %v, %v, want %v", refs, err, want)
	}
	stop := errors.New("stop")
	wantError(t, "Refs", s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { return stop }), stop)
}

func testClosed(t *testing.T, open OpenStore) {
	s := open(t, t.TempDir())
	mustCommit(t, s, put(slot("c", "a"), keystore.Any, "x"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, err := s.Get(t.Context(), slot("c", "a"))
	wantError(t, "Get", err, keystore.ErrUnavailable)
	_, err = s.Commit(t.Context(), nil, put(slot("c", "a"), keystore.Any, "y"))
	wantError(t, "Commit", err, keystore.ErrUnavailable)
	_, err = s.List(t.Context(), keystore.Query{Collection: "c", Limit: 1})
	wantError(t, "List", err, keystore.ErrUnavailable)
	_, err = s.Count(t.Context(), "c")
	wantError(t, "Count", err, keystore.ErrUnavailable)
	wantError(t, "Refs", s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { return nil }), keystore.ErrUnavailable)
	wantError(t, "Values", s.Values(t.Context(), "c", "n", nil, func([]byte) error { return nil }), keystore.ErrUnavailable)
	wantError(t, "Check", s.Check(t.Context()), keystore.ErrUnavailable)
}

func testEndedContext(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Commit(ended, nil, put(slot("c", "a"), keystore.Any, "x"))
	wantError(t, "Commit", err, keystore.ErrNotCommitted)
	wantError(t, "Commit", err, context.Canceled)
	_, err = s.Get(t.Context(), slot("c", "a"))
	wantError(t, "Get", err, keystore.ErrNotFound)
}

func testOwnership(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	op := put(slot("c", "a"), keystore.Any, "x", by("n", "v"))
	mustCommit(t, s, op)
	clear(op.Payload)
	clear(op.Ref)
	clear(op.Index[0].Value)
	r := wantPayload(t, s, slot("c", "a"), "x")
	clear(r.Payload)
	clear(r.Ref)
	wantPayload(t, s, slot("c", "a"), "x")
	items, err := s.List(t.Context(), keystore.Query{Collection: "c", Index: "n", Limit: 1})
	if err != nil || len(items) != 1 {
		t.Fatalf("List: %v, %v", items, err)
	}
	clear(items[0].Payload)
	clear(items[0].Position)
	wantPayload(t, s, slot("c", "a"), "x")
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 1}); len(got) != 1 {
		t.Errorf("index: %q", got)
	}
}

func testRace(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	at := slot("c", "a")
	revision := mustCommit(t, s, put(at, keystore.Any, "first")).Revision
	var wg sync.WaitGroup
	results := make([]error, 16)
	for i := range results {
		wg.Go(func() {
			_, results[i] = s.Commit(t.Context(), nil, put(at, keystore.At(revision), fmt.Sprint(i)))
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err != nil:
			wantError(t, "a loser", err, keystore.ErrConflict)
		case winner >= 0:
			t.Errorf("%d and %d both won", winner, i)
		default:
			winner = i
		}
	}
	wantPayload(t, s, at, fmt.Sprint(winner))
}

func testConcurrentCommits(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	const writers, each = 16, 12
	var lock sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				at := slot("c", fmt.Sprintf("%02d-%02d", w, i))
				c, err := s.Commit(t.Context(), []byte("note"), put(at, keystore.Absent, at.ID, by("n", at.ID)))
				if err != nil {
					t.Errorf("Commit: %v", err)
					return
				}
				// What was acknowledged is there to read.
				if r, err := s.Get(t.Context(), at); err != nil || r.Revision != c.Revision {
					t.Errorf("Get after Commit: %+v, %v", r, err)
				}
				lock.Lock()
				if seen[c.Revision] {
					t.Errorf("revision %d given out twice", c.Revision)
				}
				seen[c.Revision] = true
				lock.Unlock()
				// A job that fails its conditions beside others that do not.
				_, err = s.Commit(t.Context(), nil, put(at, keystore.Absent, "late"))
				wantError(t, "late", err, keystore.ErrConflict)
			}
		})
	}
	wg.Wait()
	wantCount(t, s, "c", writers*each)
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 1000}); len(got) != writers*each || !slices.IsSorted(got) {
		t.Errorf("index: %q", got)
	}
}

// testWholeCommits moves a token between two slots while readers look: the
// listing, one read, must always show it exactly once.
func testWholeCommits(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	mustCommit(t, s, put(slot("c", "0"), keystore.Any, "token"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if items, err := s.List(t.Context(), keystore.Query{Collection: "c", Limit: 3}); err != nil || len(items) != 1 {
					t.Errorf("List: %d items, %v", len(items), err)
					return
				}
			}
		})
	}
	for i := range 60 {
		mustCommit(t, s, remove(slot("c", fmt.Sprint(i%2)), keystore.Any), put(slot("c", fmt.Sprint((i+1)%2)), keystore.Absent, "token"))
	}
	close(stop)
	wg.Wait()
}

// testPagingUnderChange pages through a collection while others come and go: what
// stays all the time is seen exactly once.
func testPagingUnderChange(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	var steady []string
	for i := range 40 {
		id := fmt.Sprintf("%02d", i)
		mustCommit(t, s, put(slot("c", id), keystore.Absent, id, by("n", id)))
		if i%2 == 0 {
			steady = append(steady, id)
		}
	}
	for _, q := range []keystore.Query{
		{Collection: "c", Limit: 3},
		{Collection: "c", Limit: 3, Descending: true},
		{Collection: "c", Limit: 3, Index: "n"},
		{Collection: "c", Limit: 3, Index: "n", Descending: true},
	} {
		seen := map[string]int{}
		for page := 0; ; page++ {
			items, err := s.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(items) == 0 {
				break
			}
			for _, item := range items {
				seen[item.Slot.ID]++
			}
			q.After = items[len(items)-1].Position
			// The item the next page starts after disappears, or comes back, with others.
			for i := 1 + page%4; i < 40; i += 4 {
				id := fmt.Sprintf("%02d", i)
				if i%2 == 0 {
					continue
				}
				if _, err := s.Get(t.Context(), slot("c", id)); err == nil {
					mustCommit(t, s, remove(slot("c", id), keystore.Any))
				} else {
					mustCommit(t, s, put(slot("c", id), keystore.Absent, id, by("n", id)))
				}
			}
		}
		for _, id := range steady {
			if seen[id] != 1 {
				t.Errorf("%+v: %s seen %d times", q, id, seen[id])
			}
		}
	}
}

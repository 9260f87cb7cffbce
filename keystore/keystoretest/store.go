// Package keystoretest holds the contracts of package keystore as tests, for
// every store and every custodian to run whole, and the doubles that prove what
// the core promises: a custodian that keeps books (Vault) and a store that fails
// on demand (Faulty).
package keystoretest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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
		"at the bounds":              testAtBounds,
		"what was replaced":          testReplaced,
		"relink":                     testRelink,
		"revisions never repeat":     testRevisions,
		"index order":                testIndexOrder,
		"survives reopening":         testReopen,
		"closed":                     testClosed,
		"ended context":              testEndedContext,
		"caller owns the bytes":      testOwnership,
		"one of many wins a race":    testRace,
		"concurrent commits all end": testConcurrentCommits,
		"readers see whole commits":  testWholeCommits,
		"paging under change":        testPagingUnderChange,
		"model":                      testModel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

// openNew opens a store in a folder of its own and closes it when the test ends.
func openNew[S keystore.Store](t *testing.T, open func(*testing.T, string) S) S {
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
	if _, err := s.Inspect(t.Context(), func(r keystore.Record, _ error) error { return fmt.Errorf("%s exists", r.Slot) }); err != nil {
		t.Errorf("Inspect: %v", err)
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
	found, err := s.Inspect(t.Context(), func(r keystore.Record, unreadable error) error {
		refs[r.Slot.String()] = string(r.Ref)
		return unreadable
	})
	if want := map[string]string{"c/a": "ref of x", "d/b": "ref of y"}; err != nil || !maps.Equal(refs, want) || found.Revision != r {
		t.Errorf("Inspect: %v, revision %d, %v, want %v, %d", refs, found.Revision, err, want, r)
	}
	stop := errors.New("stop")
	_, err = s.Inspect(t.Context(), func(keystore.Record, error) error { return stop })
	wantError(t, "Inspect", err, stop)
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
	_, err = s.Inspect(t.Context(), nil)
	wantError(t, "Inspect", err, keystore.ErrUnavailable)
	wantError(t, "Check", s.Check(t.Context()), keystore.ErrUnavailable)
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

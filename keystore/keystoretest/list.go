package keystoretest

import (
	"fmt"
	"slices"
	"testing"

	"attestcsr/keystore"
)

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

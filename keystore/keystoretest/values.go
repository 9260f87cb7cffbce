package keystoretest

import (
	"errors"
	"slices"
	"testing"

	"attestcsr/keystore"
)

// values returns what Store.Values gives.
func values(t testing.TB, s keystore.Store, index string, below []byte) []string {
	t.Helper()
	out := []string{}
	err := s.Values(t.Context(), "c", index, below, func(v []byte) error {
		out = append(out, string(v))
		clear(v) // it is ours
		return nil
	})
	if err != nil {
		t.Fatalf("Values below %q: %v", below, err)
	}
	return out
}

func testValues(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	if got := values(t, s, "n", nil); len(got) != 0 {
		t.Errorf("values of an empty store: %q", got)
	}
	all := []string{"", "\x00", "\x00\x01", "\x00\xff", "a", "a", "a\x00", "a\x00\x01", "a\x01", "b", "\xff\xff"}
	for i, v := range all {
		mustCommit(t, s, put(slot("c", string(rune('z'-i))), keystore.Absent, "x", by("n", v)))
	}
	mustCommit(t, s, put(slot("c", "not indexed"), keystore.Absent, "x"), put(slot("d", "a"), keystore.Absent, "y", by("n", "a")))
	for _, below := range []string{"", "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "a", "a\x00", "a\x00\x01\xff", "b", "\xff", "\xff\xff", "\xff\xff\x00"} {
		var want []string
		for _, v := range all {
			if v < below {
				want = append(want, v)
			}
		}
		if got := values(t, s, "n", []byte(below)); !slices.Equal(got, want) {
			t.Errorf("values below %q: %q, want %q", below, got, want)
		}
	}
	if got := values(t, s, "n", nil); !slices.Equal(got, all) {
		t.Errorf("values: %q, want %q", got, all)
	}
	if got := values(t, s, "unknown", nil); len(got) != 0 {
		t.Errorf("values of an unknown index: %q", got)
	}

	stop, calls := errors.New("stop"), 0
	err := s.Values(t.Context(), "c", "n", nil, func([]byte) error { calls++; return stop })
	if wantError(t, "Values", err, stop); calls != 1 {
		t.Errorf("Values went on after an error: %d calls", calls)
	}
	for _, bad := range [][2]string{{"", "n"}, {"c", ""}, {"c\x00", "n"}, {"c", "n\x00"}} {
		if err := s.Values(t.Context(), bad[0], bad[1], nil, func([]byte) error { return nil }); err == nil {
			t.Errorf("Values takes collection %q, index %q", bad[0], bad[1])
		}
	}
}

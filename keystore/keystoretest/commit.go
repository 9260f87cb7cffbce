package keystoretest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
)

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
}

func testAtBounds(t *testing.T, open OpenStore) {
	s := openNew(t, open)
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

func testReplaced(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a, b := slot("c", "a"), slot("c", "b")
	for _, step := range []struct {
		name string
		ops  []keystore.Op
		want []string
	}{
		{"first", []keystore.Op{put(a, keystore.Any, "1")}, nil},
		{"replaced", []keystore.Op{put(a, keystore.Any, "2")}, []string{"a: ref of 1"}},
		{"moved", []keystore.Op{put(b, keystore.Any, "2"), remove(a, keystore.Any)}, []string{"a: ref of 2"}},
		{"relinked", []keystore.Op{{Slot: b, Relink: true, Ref: keystore.Ref("again")}}, []string{"b: ref of 2"}},
		{"two at once", []keystore.Op{put(a, keystore.Any, "3"), put(b, keystore.Any, "4")}, []string{"b: again"}},
		{"deleted", []keystore.Op{remove(a, keystore.Any), remove(b, keystore.Any)}, []string{"a: ref of 3", "b: ref of 4"}},
	} {
		var got []string
		for _, r := range mustCommit(t, s, step.ops...).Replaced {
			got = append(got, r.Slot.ID+": "+string(r.Ref))
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: replaced %q, want %q", step.name, got, step.want)
		}
	}
}

// testRelink: a record gets another reference and code; everything else of it stays.
func testRelink(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	a := slot("c", "a")
	op := put(a, keystore.Any, "x", by("n", "v"), by("m", "w"))
	op.Code = []byte("code")
	before := mustCommit(t, s, op).Revision
	other := mustCommit(t, s, put(slot("c", "b"), keystore.Any, "y")).Revision
	again := keystore.Op{Slot: a, Expect: keystore.At(before), Relink: true, Ref: keystore.Ref("new"), Code: []byte("new code")}
	mustCommit(t, s, again)
	r, err := s.Get(t.Context(), a)
	want := keystore.Record{
		Slot: a, Revision: before, Ref: keystore.Ref("new"), Payload: []byte("x"), Code: []byte("new code"),
		Index: []keystore.IndexEntry{by("m", "w"), by("n", "v")},
	}
	if err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("relinked: %+v, %v, want %+v", r, err, want)
	}
	wantCount(t, s, "c", 2)
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 9}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("index: %v", got)
	}
	again.Expect = keystore.At(other)
	_, err = s.Commit(t.Context(), nil, again)
	wantError(t, "other revision", err, keystore.ErrConflict)
	_, err = s.Commit(t.Context(), nil, keystore.Op{Slot: slot("c", "none"), Relink: true})
	wantError(t, "empty slot", err, keystore.ErrNotFound)
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

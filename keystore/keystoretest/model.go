package keystoretest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"attestcsr/keystore"
)

// modelRecord is a record in the model that testModel compares with.
type modelRecord struct {
	payload  string
	revision uint64
	index    map[string]string
}

type model map[keystore.Slot]modelRecord

// list is what Records.List must return, the slow way.
func (m model) list(q keystore.Query) []string {
	type entry struct{ value, id string }
	var entries []entry
	for at, r := range m {
		value, indexed := r.index[q.Index]
		begins := value
		if q.Index == "" {
			begins = at.ID
		}
		if at.Collection == q.Collection && (q.Index == "" || indexed) && strings.HasPrefix(begins, string(q.Prefix)) {
			entries = append(entries, entry{value, at.ID})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if c := strings.Compare(a.value, b.value); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	if q.Descending {
		slices.Reverse(entries)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.id)
	}
	return out
}

// testModel makes random commits and compares the store with a map after each.
func testModel(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	slots := []keystore.Slot{slot("c", "a"), slot("c", "b"), slot("c", "c"), slot("c", "\xff"), slot("d", "a"), slot("d", "b\x01")}
	values := []string{"", "\x00", "v", "v\x00", "w"}
	m := model{}
	last := uint64(0)
	rapid.Check(t, func(rt *rapid.T) {
		var ops []keystore.Op
		for _, at := range rapid.SliceOfNDistinct(rapid.SampledFrom(slots), 1, 3, rapid.ID[keystore.Slot]).Draw(rt, "slots") {
			op := put(at, keystore.Any, rapid.StringN(1, 8, 32).Draw(rt, "payload"))
			op.Delete = rapid.Bool().Draw(rt, "delete")
			op.Expect = rapid.SampledFrom([]keystore.Expect{keystore.Any, keystore.Any, keystore.Absent, keystore.At(max(1, m[at].revision)), keystore.At(1)}).Draw(rt, "expect")
			for _, name := range []string{"n", "o"} {
				if rapid.Bool().Draw(rt, name) {
					op.Index = append(op.Index, by(name, rapid.SampledFrom(values).Draw(rt, "value")))
				}
			}
			ops = append(ops, op)
		}
		var want error
		for _, op := range ops {
			current, present := m[op.Slot]
			if want = op.Expect.Check(op.Slot, current.revision); want != nil {
				want = keystore.ErrConflict
				break
			}
			if op.Delete && !present {
				want = keystore.ErrNotFound
				break
			}
		}
		c, err := s.Commit(t.Context(), nil, ops...)
		if !errors.Is(err, want) {
			rt.Fatalf("Commit %+v: %v, want %v", ops, err, want)
		}
		if err == nil {
			if c.Revision <= last {
				rt.Fatalf("revision %d after %d", c.Revision, last)
			}
			last = c.Revision
			for _, op := range ops {
				delete(m, op.Slot)
				if op.Delete {
					continue
				}
				r := modelRecord{payload: string(op.Payload), revision: c.Revision, index: map[string]string{}}
				for _, e := range op.Index {
					r.index[e.Name] = string(e.Value)
				}
				m[op.Slot] = r
			}
		}
		compare(t.Context(), rt, s, m, slots)
	})
}

func compare(ctx context.Context, rt *rapid.T, s keystore.Store, m model, slots []keystore.Slot) {
	for _, at := range slots {
		r, err := s.Get(ctx, at)
		want, present := m[at]
		switch {
		case !present && !errors.Is(err, keystore.ErrNotFound):
			rt.Fatalf("Get %s: %v, want it empty", at, err)
		case present && (err != nil || string(r.Payload) != want.payload || r.Revision != want.revision):
			rt.Fatalf("Get %s: %+v, %v, want %+v", at, r, err, want)
		}
	}
	for _, collection := range []string{"c", "d"} {
		for _, index := range []string{"", "n", "o"} {
			for _, q := range []keystore.Query{{}, {Descending: true}, {Prefix: []byte("v")}, {Prefix: []byte{0}}, {Prefix: []byte("b\x01")}, {Prefix: []byte{0xff}}} {
				q.Collection, q.Index, q.Limit = collection, index, 2
				compareList(ctx, rt, s, m, q)
			}
		}
		all := m.list(keystore.Query{Collection: collection})
		if n, err := s.Count(ctx, collection); err != nil || n != len(all) {
			rt.Fatalf("Count %s: %d, %v, want %d", collection, n, err, len(all))
		}
	}
}

// compareList pages through a query.
func compareList(ctx context.Context, rt *rapid.T, s keystore.Store, m model, q keystore.Query) {
	want, got := m.list(q), []string{}
	for {
		items, err := s.List(ctx, q)
		if err != nil {
			rt.Fatalf("List %+v: %v", q, err)
		}
		for _, item := range items {
			got = append(got, item.Slot.ID)
			q.After = item.Position
		}
		if len(items) < q.Limit {
			break
		}
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("List %+v: %q, want %q", q, got, want)
	}
}

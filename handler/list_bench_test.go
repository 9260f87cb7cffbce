package handler_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"attestcsr/keystore"
)

// BenchmarkList measures pages of collections of two sizes, for every order, and
// a walk over all of the larger one. What a page costs must not depend on the
// size; heap-MB is the heap that is live after the pages, peak-MB the most heap in
// use after any page of the walk.
func BenchmarkList(b *testing.B) {
	for _, size := range []int{1_000, 100_000} {
		s := seeded(b, size)
		for _, sortBy := range []string{"id", "display_name", "_create_time", "_last_modified_time"} {
			b.Run(fmt.Sprintf("page of 100 of %d by %s", size, sortBy), func(b *testing.B) {
				first := s.page(b, "page_size=100", "sort_by="+sortBy)
				b.ReportAllocs()
				for b.Loop() {
					s.page(b, "page_size=100", "sort_by="+sortBy, "cursor="+first)
				}
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MB")
			})
		}
		b.Run(fmt.Sprintf("walk over %d", size), func(b *testing.B) {
			var peak uint64
			for b.Loop() {
				for cursor := s.page(b, "page_size=1000"); cursor != ""; {
					cursor = s.page(b, "page_size=1000", "cursor="+cursor)
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc)
				}
			}
			b.ReportMetric(float64(peak)/(1<<20), "peak-MB")
		})
	}
}

// page reads one page and returns its cursor.
func (s *stack) page(b *testing.B, params ...string) string {
	b.Helper()
	a := s.serve(call{method: "GET", path: nsxPath("", params...)})
	if a.status != http.StatusOK {
		b.Fatalf("%d %s", a.status, a.body)
	}
	_, cursor, _ := strings.Cut(string(a.body), `"cursor":"`)
	cursor, _, _ = strings.Cut(cursor, `"`)
	return cursor
}

// seeded is a stack that holds n certification requests. They are written below the
// API, each a copy of one that was made through it: a list opens no key.
func seeded(b *testing.B, n int) *stack {
	b.Helper()
	s := newStackOf(b, setup{requests: n})
	s.nsxMake("seed", quickSpec)
	seed, err := s.store.Get(b.Context(), keystore.Slot{Collection: "nsx/csrs", ID: "seed"})
	if err != nil {
		b.Fatal(err)
	}
	copies(b, s.store, seed, n)
	s.log.Reset()
	return s
}

// copies commits n copies of a record under further ids and names.
func copies(b *testing.B, store keystore.Store, seed keystore.Record, n int) {
	b.Helper()
	var ops []keystore.Op
	for i := range n {
		id := fmt.Sprintf("csr-%07d", i)
		at := binary.BigEndian.AppendUint64(nil, uint64(1_700_000_000_000+i))
		ops = append(ops, keystore.Op{
			Slot: keystore.Slot{Collection: seed.Slot.Collection, ID: id}, Expect: keystore.Absent, Ref: seed.Ref,
			Payload: bytes.Replace(seed.Payload, []byte(`"display_name":"seed"`), fmt.Appendf(nil, `"display_name":%q`, id), 1),
			Index:   []keystore.IndexEntry{{Name: "display_name", Value: []byte(id)}, {Name: "created", Value: at}},
		})
		if len(ops) < keystore.MaxOpsPerCommit && i+1 < n {
			continue
		}
		if _, err := store.Commit(b.Context(), nil, ops...); err != nil {
			b.Fatal(err)
		}
		ops = nil
	}
}

package bolt_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"attestcsr/keystore"
)

// BenchmarkCommit commits records of the size of a sealed RSA-2048 pair. BenchmarkFloor
// and test/bench measure plain transactions of bbolt.
func BenchmarkCommit(b *testing.B) {
	payload := make([]byte, 2500)
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("grouped/%d", callers), func(b *testing.B) {
			s := open(b, b.TempDir())
			closing(b, s)
			atOnce(b, callers, func(n uint64) error {
				_, err := s.Commit(b.Context(), nil, keystore.Op{Slot: keystore.Slot{Collection: "c", ID: fmt.Sprint(n % 100)}, Payload: payload})
				return err
			})
		})
	}
}

// atOnce has that many callers share b.N calls of fn.
func atOnce(b *testing.B, callers int, fn func(n uint64) error) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
				if err := fn(n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkGet(b *testing.B) {
	s := open(b, b.TempDir())
	closing(b, s)
	mustCommit(b, s, keystore.Op{Slot: a, Payload: make([]byte, 1200), Ref: make([]byte, 1300)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get(b.Context(), a); err != nil {
			b.Fatal(err)
		}
	}
}

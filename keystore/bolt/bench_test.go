package bolt_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// BenchmarkCommit commits records of the size of a sealed RSA-2048 pair, grouped
// by leader hand-over and, for comparison, with one plain bbolt transaction each.
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
		b.Run(fmt.Sprintf("plain/%d", callers), func(b *testing.B) {
			db := plain(b)
			atOnce(b, callers, func(n uint64) error {
				return db.Update(func(tx *bbolt.Tx) error {
					return tx.Bucket([]byte("c")).Put(binary.BigEndian.AppendUint64(nil, n%100), payload)
				})
			})
		})
	}
}

// plain opens a bare database with the options that the store uses.
func plain(b *testing.B) *bbolt.DB {
	b.Helper()
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "plain.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("c")); return err }); err != nil {
		b.Fatal(err)
	}
	return db
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

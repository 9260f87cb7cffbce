package audit_test

import (
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// BenchmarkCommit is a commit with a note, exported beside it, and the floor: the
// same commit without.
func BenchmarkCommit(b *testing.B) {
	op := keystore.Op{Slot: keystore.Slot{Collection: "c", ID: "a"}, Payload: make([]byte, 2048)}
	b.Run("floor", func(b *testing.B) {
		store, err := bolt.Open(b.TempDir()+"/store.db", bolt.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		for b.Loop() {
			if _, err := store.Commit(b.Context(), nil, op); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("audited", func(b *testing.B) {
		tr := newTrail(b)
		for b.Loop() {
			if err := tr.log.Admit(b.Context()); err != nil {
				b.Fatal(err)
			}
			note, err := tr.log.Note(goldenEvent())
			if err == nil {
				_, err = tr.store.Commit(b.Context(), note, op)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRefuse is what a refusal costs the request.
func BenchmarkRefuse(b *testing.B) {
	tr := newTrail(b)
	b.ReportAllocs()
	for b.Loop() {
		tr.log.Refuse(audit.Refusal{Request: audit.Request{ID: "r", Address: "192.0.2.1", Route: "GET /x"}, Method: "none", Outcome: "unauthenticated"})
	}
}

package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// oldStore writes a store in format 2 with n records, each with two index entries,
// and as many notes as records in another collection.
func oldStore(t *testing.T, file string, n int) (ops []keystore.Op) {
	t.Helper()
	for i := range n {
		ops = append(ops, keystore.Op{
			Slot: keystore.Slot{Collection: fmt.Sprintf("nsx/%d", i%2), ID: fmt.Sprintf("csr-%04d", i*7%n)},
			Ref:  keystore.Ref("sealed"), Payload: fmt.Appendf(nil, "payload %d", i),
			Index: []keystore.IndexEntry{{Name: "created", Value: binary.BigEndian.AppendUint32(nil, uint32(i))}, {Name: "name", Value: fmt.Appendf(nil, "%04d", n-i)}},
		})
	}
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket := func(names ...string) *bbolt.Bucket {
			b, err := tx.CreateBucketIfNotExists([]byte(names[0]))
			for _, name := range names[1:] {
				if err == nil {
					b, err = b.CreateBucketIfNotExists([]byte(name))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		counts := map[string]uint64{}
		bucket("records")
		bucket("index")
		bucket("outbox")
		for i, op := range ops {
			counts[op.Slot.Collection]++
			if err := bucket("records", op.Slot.Collection).Put([]byte(op.Slot.ID), bolt.EncodeRecord(uint64(i+1), op)); err != nil {
				return err
			}
			for _, e := range op.Index {
				if err := bucket("index", op.Slot.Collection, e.Name).Put(bolt.IndexKey(e.Value, op.Slot.ID), []byte(op.Slot.ID)); err != nil {
					return err
				}
			}
		}
		for collection, count := range counts {
			if err := bucket("counts").Put([]byte(collection), binary.BigEndian.AppendUint64(nil, count)); err != nil {
				return err
			}
		}
		return errors.Join(
			bucket("counts").Put([]byte("none"), make([]byte, 8)),
			bucket("meta").Put([]byte("format"), []byte{0, 0, 0, 2}),
			bucket("meta").Put([]byte("revision"), binary.BigEndian.AppendUint64(nil, uint64(n))))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return ops
}

// An upgrade may end after any of its steps: the next open goes on, and has all
// there was and nothing else.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ records, steps int }{{0, 0}, {1, 0}, {1, 1}, {1000, 0}, {1500, 0}, {1500, 1}, {1500, 2}, {1500, 3}, {1500, 4}, {1500, 5}, {1500, 6}} {
		t.Run(fmt.Sprintf("%d records, %d steps", test.records, test.steps), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "store.db")
			ops := oldStore(t, file, test.records)
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			for range test.steps {
				err = errors.Join(err, db.Update(bolt.UpgradeOnce))
			}
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			for range 2 { // and again when nothing is left to do
				s := open(t, dir)
				wantAll(t, s, ops)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func wantAll(t *testing.T, s *bolt.Store, ops []keystore.Op) {
	t.Helper()
	byCollection := map[string][]string{"nsx/0": nil, "nsx/1": nil}
	for i, op := range ops {
		r, err := s.Get(t.Context(), op.Slot)
		if err != nil || r.Revision != uint64(i+1) || !bytes.Equal(r.Payload, op.Payload) {
			t.Fatalf("%s: %+v, %v", op.Slot, r, err)
		}
		byCollection[op.Slot.Collection] = append(byCollection[op.Slot.Collection], op.Slot.ID)
	}
	for collection, want := range byCollection {
		n, err := s.Count(t.Context(), collection)
		if err != nil || n != len(want) {
			t.Errorf("%s has %d, want %d: %v", collection, n, len(want), err)
		}
		// In the order of creation, and of names backwards, in pages.
		for _, q := range []keystore.Query{
			{Collection: collection, Index: "created", Limit: 7},
			{Collection: collection, Index: "name", Limit: 7, Descending: true},
		} {
			var got []string
			for more := true; more; {
				items, err := s.List(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				for _, item := range items {
					got = append(got, item.Slot.ID)
					q.After = item.Position
				}
				more = len(items) > 0
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%+v: %v, want %v", q, got, want)
			}
		}
	}
	found := 0
	if err := s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { found++; return nil }); err != nil || found != len(ops) {
		t.Errorf("%d records, want %d: %v", found, len(ops), err)
	}
	err := s.DB().View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if string(name) == "records" || string(name) == "index" {
				t.Errorf("bucket %q is left", name)
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}

// What an upgrade has begun, an older release must not take for whole.
func TestUpgradeSaysSoFirst(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "store.db")
	oldStore(t, file, 2*bolt.UpgradeStep)
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(bolt.UpgradeOnce)
	viewErr := db.View(func(tx *bbolt.Tx) error {
		if format := tx.Bucket([]byte("meta")).Get([]byte("format")); !bytes.Equal(format, []byte{0, 0, 0, 3}) {
			t.Errorf("format %v after the first step", format)
		}
		if tx.Bucket([]byte("records")) == nil {
			t.Error("one step moves all there is: the test shows nothing")
		}
		return nil
	})
	if err := errors.Join(err, viewErr, db.Close()); err != nil {
		t.Fatal(err)
	}
}

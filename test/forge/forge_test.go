package forge_test

import (
	"crypto"
	"maps"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/test/forge"
)

// dump returns what is in a store file, by bucket and key.
func dump(t *testing.T, file string) map[string]string {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := map[string]string{}
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			all[string(name)] = ""
			return b.ForEach(func(k, v []byte) error {
				all[string(name)+" "+string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// written is a store that the service wrote: records with and without index entries,
// notes with and without lines, an anchor.
func written(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "store.db")
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keystore.Open(t.Context(), keystore.Options{Store: store, Custodian: keystoretest.NewVault(), MAC: keystoretest.MAC("records")})
	if err != nil {
		t.Fatal(err)
	}
	var last keystore.Record
	for _, id := range []string{"a", "b", "c"} {
		last, err = keys.Replace(t.Context(), keystore.Target{Slot: keystore.Slot{Collection: "c/d", ID: id}}, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256},
			func(crypto.Signer) (keystore.Change, error) {
				index := []keystore.IndexEntry{{Name: "n", Value: []byte("x\x00\x00y\x01")}, {Name: "m", Value: nil}}
				return keystore.Change{Payload: []byte(id), Index: index, Note: []byte("note of " + id)}, nil
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Trim(t.Context(), last.Revision-1, map[string][]byte{"anchor": []byte("here")}); err != nil {
		t.Fatal(err)
	}
	if err := keys.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestFormat: who takes everything out of a store file and puts it back has the same
// file. Else the attacker would try nothing.
func TestFormat(t *testing.T) {
	t.Parallel()
	file := written(t)
	before := dump(t, file)
	forge.Edit(t, file, func(s *forge.Store) {
		records, notes, anchors, head, revision := s.Records(), s.Notes(), s.Anchors(), s.Head(), s.Revision()
		if len(records) != 4 || len(notes) != 1 || len(anchors) != 1 || len(head) == 0 || revision == 0 {
			t.Errorf("%d records, %d notes, %d anchors, head %x, revision %d", len(records), len(notes), len(anchors), head, revision)
		}
		for _, r := range records {
			s.Delete(r.Slot)
		}
		s.SetNotes()
		s.SetAnchors(nil)
		s.SetHead(nil)
		s.SetRevision(0)
		if len(s.Records())+len(s.Notes())+len(s.Anchors())+len(s.Head())+int(s.Revision())+int(s.Count("c/d")) != 0 {
			t.Error("something is left")
		}
		for _, r := range records {
			s.Put(r)
			s.Put(r)
		}
		s.SetNotes(notes...)
		s.SetAnchors(anchors)
		s.SetHead(head)
		s.SetRevision(revision)
		a, b := keystore.Slot{Collection: "c/d", ID: "a"}, keystore.Slot{Collection: "c/d", ID: "b"}
		s.Swap(a, b)
		if string(s.Get(a).Payload) != "b" {
			t.Error("nothing was swapped")
		}
		s.Swap(b, a)
	})
	if after := dump(t, file); !maps.Equal(before, after) {
		t.Errorf("before: %q\nafter: %q", before, after)
	}
}

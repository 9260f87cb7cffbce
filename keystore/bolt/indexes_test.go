package bolt_test

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// TestCheckIndexes: each kind of disagreement between records and what is beside them is
// found, in a store that is open.
func TestCheckIndexes(t *testing.T) {
	t.Parallel()
	slot := func(n int) keystore.Slot { return keystore.Slot{Collection: "nsx/csrs", ID: fmt.Sprintf("id-%d", n)} }
	entry := func(n int) []byte {
		return append([]byte("insx/csrs\x00name\x00"), bolt.IndexKey(fmt.Appendf(nil, "name %d", n), slot(n).ID)...)
	}
	for _, test := range []struct {
		name         string
		bucket       string
		key, value   []byte // no value: the key is deleted
		where, wants string
	}{
		{name: "nothing"},
		{"an entry is missing", "slots", entry(1), nil, "indexes", "1 entries are missing"},
		{"an entry of a record that is not there", "slots", entry(9), []byte("id-9"), `index entry "insx/csrs\x00name\x00name 9\x00\x01id-9"`, "no record has it"},
		{"an entry of another record", "slots", entry(1), []byte("id-2"), `index entry "insx/csrs\x00name\x00name 1\x00\x01id-1"`, "no record has it"},
		{"a count", "counts", []byte("nsx/csrs"), []byte{0, 0, 0, 0, 0, 0, 0, 2}, "count of nsx/csrs", "it is 2, and there are 3 records"},
		{"a count that is none", "counts", []byte("nsx/csrs"), []byte{3}, "count of nsx/csrs", "3 records"},
		{"no count", "counts", []byte("nsx/csrs"), nil, "count of nsx/csrs", "it is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir())
			for n := range 3 {
				op := put(slot(n), "payload")
				op.Index = []keystore.IndexEntry{{Name: "name", Value: fmt.Appendf(nil, "name %d", n)}}
				mustCommit(t, s, op)
			}
			if test.bucket != "" {
				err := s.DB().Update(func(tx *bbolt.Tx) error {
					if test.value == nil {
						return tx.Bucket([]byte(test.bucket)).Delete(test.key)
					}
					return tx.Bucket([]byte(test.bucket)).Put(test.key, test.value)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			var found []string
			err := s.CheckIndexes(t.Context(), func(where string, err error) { found = append(found, where+": "+err.Error()) })
			if err != nil {
				t.Fatal(err)
			}
			if test.where == "" {
				if len(found) > 0 {
					t.Errorf("found %q", found)
				}
				return
			}
			if len(found) == 0 || !strings.HasPrefix(found[0], test.where+": ") || !strings.Contains(found[0], test.wants) {
				t.Errorf("found %q, want %s: %s", found, test.where, test.wants)
			}
		})
	}
}

package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// grown is the file of a store whose buckets have branches and free pages, as it
// is while the store is open: its free list is not in it. It holds the records.
func grown(f *testing.F) (content []byte, records map[keystore.Slot]string) {
	f.Helper()
	s, err := bolt.Open(filepath.Join(f.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		f.Fatal(err)
	}
	records = map[keystore.Slot]string{}
	for i := range 120 {
		op := keystore.Op{Slot: keystore.Slot{Collection: "nsx/csrs", ID: fmt.Sprintf("csr-%03d", i*7%120)}, Ref: keystore.Ref("sealed"),
			Payload: bytes.Repeat([]byte{byte(i)}, 150), Index: []keystore.IndexEntry{{Name: "name", Value: fmt.Appendf(nil, "%03d", 120-i)}}}
		records[op.Slot] = string(op.Payload)
		if _, err := s.Commit(f.Context(), []byte("note"), op); err != nil {
			f.Fatal(err)
		}
	}
	for i := range 20 {
		gone := keystore.Slot{Collection: "nsx/csrs", ID: fmt.Sprintf("csr-%03d", i*3)}
		delete(records, gone)
		if _, err := s.Commit(f.Context(), nil, keystore.Op{Slot: gone, Delete: true}); err != nil {
			f.Fatal(err)
		}
	}
	var b bytes.Buffer
	err = s.DB().View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(&b); return err })
	if err := errors.Join(err, s.Close()); err != nil {
		f.Fatal(err)
	}
	return b.Bytes(), records
}

// damage applies patches, each two bytes of page and three of offset and length,
// followed by as many bytes.
func damage(content, patches []byte) []byte {
	damaged := bytes.Clone(content)
	for len(patches) > 5 {
		page, offset, length := int(binary.BigEndian.Uint16(patches)), int(binary.BigEndian.Uint16(patches[2:])), int(patches[4])
		patches = patches[5:]
		length = min(length, len(patches))
		at := page%(len(content)/4096)*4096 + offset%4096
		copy(damaged[at:], patches[:length])
		patches = patches[length:]
	}
	return damaged
}

// branchInACircle is a patch that makes the first child of a branch page the page
// itself. bbolt would follow it for ever.
func branchInACircle(f *testing.F, content []byte) []byte {
	f.Helper()
	const flagBranch = 1
	for page := 2; page < len(content)/pageSize; page++ {
		at := content[page*pageSize:]
		if binary.NativeEndian.Uint64(at) == uint64(page) && binary.NativeEndian.Uint16(at[8:]) == flagBranch {
			return binary.NativeEndian.AppendUint64([]byte{byte(page >> 8), byte(page), 0, 24, 8}, uint64(page))
		}
	}
	f.Fatal("there is no branch page")
	return nil
}

// FuzzDamage opens files with damage all over them. Whatever it is: an error or a
// store that gives out nothing but what was once put in, takes commits or says
// that it does not, and can be closed and opened again; nothing panics.
func FuzzDamage(f *testing.F) {
	small, err := os.ReadFile(golden)
	if err != nil {
		f.Fatal(err)
	}
	live, records := grown(f)
	for _, op := range goldenOps() {
		records[op.Slot] = string(op.Payload)
	}
	f.Add(false, []byte{})
	f.Add(true, []byte{})
	patches := [][]byte{
		{8, 2, 1, 0}, {8, 2, 2, 0}, {10, 2, 0xff, 0xff}, {12, 4, 1, 0, 0, 0}, // of the header of a page
		{20, 4, 0xff, 0xff, 0xff, 0x7f}, {24, 8, 5, 0, 0, 0, 0, 0, 0, 0}, {200, 1, 0x80}, // of elements, keys and values
	}
	for page := range byte(len(live) / 4096) {
		for _, patch := range patches {
			f.Add(true, append([]byte{0, page, 0}, patch...))
			f.Add(false, append([]byte{0, page, 0}, patch...))
		}
	}
	f.Add(true, branchInACircle(f, live))
	f.Fuzz(func(t *testing.T, large bool, patches []byte) {
		content := small
		if large {
			content = live
		}
		file := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(file, damage(content, patches), 0o600); err != nil {
			t.Fatal(err)
		}
		u := damagedUse{records: records}
		for range 2 {
			if s, err := bolt.Open(file, bolt.Options{}); err == nil {
				u.use(t, s)
				_ = s.Close() // may fail, must return
			} else if s != nil {
				t.Fatalf("a store and an error: %v", err)
			}
		}
	})
}

// damagedUse is what is known of a damaged store that is opened again and again.
type damagedUse struct {
	records   map[keystore.Slot]string // what was once in it
	committed bool                     // added is in it, too
}

var added = keystore.Slot{Collection: "nsx/csrs", ID: "added"}

// check fails the test for a record that nobody wrote.
func (u *damagedUse) check(t *testing.T, r keystore.Record) {
	t.Helper()
	want, known := u.records[r.Slot]
	if r.Slot == added {
		want, known = "new", true
	}
	if !known || want != string(r.Payload) {
		t.Errorf("%s: a record that nobody wrote: %q", r.Slot, r.Payload)
	}
}

func (u *damagedUse) use(t *testing.T, s *bolt.Store) {
	t.Helper()
	for slot := range u.records {
		if r, err := s.Get(t.Context(), slot); err == nil {
			u.check(t, r)
		}
	}
	for _, index := range []string{"", "name"} {
		items, _ := s.List(t.Context(), keystore.Query{Collection: "nsx/csrs", Index: index, Limit: 999})
		for _, item := range items {
			u.check(t, item.Record)
		}
	}
	_, _ = s.Inspect(t.Context(), func(keystore.Record, error) error { return nil })
	_, _ = s.Count(t.Context(), "nsx/csrs")
	_, err := s.Get(t.Context(), added)
	if u.committed && errors.Is(err, keystore.ErrNotFound) {
		t.Error("a commit is lost")
	}
	_, err = s.Commit(t.Context(), nil, keystore.Op{Slot: added, Ref: keystore.Ref("r"), Payload: []byte("new")})
	switch {
	case err == nil:
		u.committed = true
	case !errors.Is(err, keystore.ErrNotCommitted) && !errors.Is(err, keystore.ErrOutcomeUnknown) && !errors.Is(err, keystore.ErrUnavailable):
		t.Errorf("commit: %v", err)
	}
	if r, err := s.Get(t.Context(), added); err == nil {
		u.check(t, r)
	}
}

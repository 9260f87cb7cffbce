package bolt_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// The golden stores hold goldenOps, and notes. The first has three notes and no
// anchor, the second was trimmed after that.
const (
	golden        = "testdata/store-v4.db"
	goldenTrimmed = "testdata/store-v4-trimmed.db"
)

// goldenGuard makes the codes of the notes in the golden stores.
type goldenGuard struct{}

func (goldenGuard) Admit(keystore.Op) error { return nil }

func (goldenGuard) Seal(previous []byte, revision uint64, note []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%d", len(previous)+int(revision)+len(note)), nil
}

func goldenOps() []keystore.Op {
	return []keystore.Op{
		{Slot: keystore.Slot{Collection: "esx/attestation", ID: "csr"}, Ref: keystore.Ref("sealed key 1"), Payload: []byte("payload 1"), Code: []byte("code")},
		{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "a/b"}, Ref: keystore.Ref("sealed key 2"), Payload: []byte("payload 2"), Code: []byte("code"),
			Index: []keystore.IndexEntry{{Name: "name", Value: []byte("zebra")}, {Name: "created", Value: []byte{0, 0, 1}}}},
		{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "c"}, Ref: keystore.Ref("sealed key 3"), Payload: []byte("payload 3"), Code: []byte("code"),
			Index: []keystore.IndexEntry{{Name: "name", Value: []byte("aardvark")}, {Name: "created", Value: []byte{0, 0, 2}}}},
	}
}

// A store that was written once must open for ever: the files are never changed, a
// new format gets new ones.
func TestGolden(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		file   string
		notes  int
		anchor string
	}{{golden, 3, ""}, {goldenTrimmed, 1, "an anchor"}} {
		t.Run(filepath.Base(test.file), func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(test.file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "store.db")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			closing(t, s)
			wantGoldenRecords(t, s)
			anchor, err := s.Anchor(t.Context(), "changes")
			if err != nil || string(anchor) != test.anchor {
				t.Errorf("anchor %q, %v", anchor, err)
			}
			if notes, err := s.Notes(); err != nil || len(notes) != test.notes || notes[3] != "7|8|note" {
				t.Errorf("notes: %v, %v", notes, err)
			}
			s.Protect(goldenGuard{})
			if r := mustCommit(t, s, put(a, "x")); r != 4 {
				t.Errorf("revision %d, want 4", r)
			}
		})
	}
}

func wantGoldenRecords(t *testing.T, s *bolt.Store) {
	t.Helper()
	for i, op := range goldenOps() {
		r, err := s.Get(t.Context(), op.Slot)
		if err != nil || r.Revision != uint64(i+1) || !bytes.Equal(r.Ref, op.Ref) || !bytes.Equal(r.Payload, op.Payload) {
			t.Errorf("%s: %+v, %v", op.Slot, r, err)
		}
	}
	for index, want := range map[string][]string{"": {"a/b", "c"}, "name": {"c", "a/b"}, "created": {"a/b", "c"}} {
		items, err := s.List(t.Context(), keystore.Query{Collection: "nsx/csrs", Index: index, Limit: 9})
		if err != nil || !slices.EqualFunc(items, want, func(i keystore.Item, id string) bool { return i.Slot.ID == id }) {
			t.Errorf("by %q: %+v, %v, want %v", index, items, err, want)
		}
	}
	if n, err := s.Count(t.Context(), "nsx/csrs"); err != nil || n != 2 {
		t.Errorf("Count: %d, %v", n, err)
	}
}

// goldenRecord is goldenOps()[1] at revision 2.
const goldenRecord = "03" + "0000000000000002" +
	"0000000c" + "7365616c6564206b65792032" +
	"00000009" + "7061796c6f61642032" +
	"02" + "07" + "63726561746564" + "0003" + "000001" + "04" + "6e616d65" + "0005" + "7a65627261" +
	"04" + "636f6465" +
	"5dc928e5"

func TestGoldenRecord(t *testing.T) {
	t.Parallel()
	op := goldenOps()[1]
	if got := hex.EncodeToString(bolt.EncodeRecord(2, op)); got != goldenRecord {
		t.Errorf("encoded as\n%s, want\n%s", got, goldenRecord)
	}
	b, err := hex.DecodeString(goldenRecord)
	if err != nil {
		t.Fatal(err)
	}
	r, _, again, err := bolt.RecodeRecord(op.Slot, b)
	if err != nil || r.Revision != 2 || !bytes.Equal(r.Payload, op.Payload) || !bytes.Equal(again, b) {
		t.Errorf("%+v, %v", r, err)
	}
	// In another slot it is damage.
	for _, slot := range []keystore.Slot{{Collection: op.Slot.Collection, ID: "a/c"}, {Collection: "nsx/csr", ID: op.Slot.ID}} {
		if _, _, _, err := bolt.RecodeRecord(slot, b); err == nil {
			t.Errorf("it is read in %s", slot)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for i, op := range goldenOps() {
		op.Slot = a
		b := bolt.EncodeRecord(uint64(i+1), op)
		f.Add(b)
		f.Add(b[:len(b)-1])
		f.Add(append(bytes.Clone(b), 0))
	}
	f.Add([]byte{})
	f.Add([]byte{2})
	f.Add([]byte{3})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, index, again, err := bolt.RecodeRecord(a, b)
		if err != nil {
			if r.Revision != 0 || r.Payload != nil || index != nil {
				t.Fatal("a record and an error")
			}
			// The checksum stands in the way of most inputs: give the parser one.
			if len(b) > 4 && !bytes.Equal(b, bolt.Checksummed(a, b)) {
				r, index, again, err = bolt.RecodeRecord(a, bolt.Checksummed(a, b))
				b = bolt.Checksummed(a, b)
			}
			if err != nil {
				return
			}
		}
		if !bytes.Equal(b, again) {
			t.Fatalf("accepted %x, which is encoded as %x", b, again)
		}
		op := keystore.Op{Slot: a, Ref: r.Ref, Payload: r.Payload, Index: index}
		if op.Validate() != nil || r.Revision == 0 {
			t.Fatalf("accepted a record that no commit writes: %x", b)
		}
	})
}

// The order of index keys is the order of values, then of ids.
func FuzzIndexKey(f *testing.F) {
	f.Add([]byte("a"), "b", []byte("a\x00b"), "a")
	f.Add([]byte{}, "\xff", []byte{0}, "a")
	f.Fuzz(func(t *testing.T, v1 []byte, id1 string, v2 []byte, id2 string) {
		if strings.Contains(id1+id2, "\x00") || id1 == "" || id2 == "" {
			return
		}
		want := bytes.Compare(v1, v2)
		if want == 0 {
			want = strings.Compare(id1, id2)
		}
		if got := bytes.Compare(bolt.IndexKey(v1, id1), bolt.IndexKey(v2, id2)); got != want {
			t.Fatalf("%q %q against %q %q: %d, want %d", v1, id1, v2, id2, got, want)
		}
	})
}

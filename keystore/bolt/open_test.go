package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

var update = flag.Bool("update", false, "write the golden files that are missing")

func TestLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closing(t, open(t, dir))
	file := filepath.Join(dir, "store.db")
	_, err := bolt.Open(file, bolt.Options{})
	wantError(t, "a second process", err, bolt.ErrLocked)
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closing(t, open(t, dir))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left in the folder: %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := bolt.Open(filepath.Join(dir, "no", "such", "folder"), bolt.Options{}); err == nil {
		t.Error("a store in a folder that does not exist")
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode            os.FileMode
		refused, warned bool
	}{{0o600, false, false}, {0o640, false, true}, {0o660, false, true}, {0o604, true, false}, {0o602, true, false}} {
		dir := t.TempDir()
		if err := open(t, dir).Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "store.db")
		if err := os.Chmod(file, test.mode); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s, err := bolt.Open(file, bolt.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if (err != nil) != test.refused {
			t.Errorf("%#o: %v", test.mode, err)
		}
		if warned := strings.Contains(log.String(), "level=WARN"); warned != test.warned {
			t.Errorf("%#o: log %q", test.mode, log.String())
		}
		if s != nil {
			closing(t, s)
		}
	}
}

// A file that is not a store, or not one for this version, is refused with what
// to do about it, and is left as it was.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	raw := func(change func(*bbolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(change), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	format := func(n uint32) func(*testing.T, string) {
		return raw(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("format"), binary.BigEndian.AppendUint32(nil, n))
		})
	}
	content := func(b []byte) func(*testing.T, string) {
		return func(t *testing.T, file string) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		change func(*testing.T, string)
		want   string
	}{
		{"text", content([]byte(strings.Repeat("not a store\n", 2000))), "is not a key store"},
		{"short", content([]byte("x")), "is not a key store"},
		{"zeros", content(make([]byte, 1<<16)), "is not a key store"},
		{"empty", content(nil), "is empty"},
		{"another bbolt file", func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			raw(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })(t, file)
		}, "is not a key store"},
		{"no slots", raw(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("slots")) }), "is not a key store"},
		{"no revision", raw(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("revision")) }), "is not a key store"},
		{"newer", format(4), "was written by a newer attestcsr (format 4, this one reads 3): upgrade"},
		{"older", format(2), "is not a key store"},
		{"folder", func(t *testing.T, file string) {
			if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := open(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "store.db")
			test.change(t, file)
			before, _ := os.ReadFile(file)
			s, err := bolt.Open(file, bolt.Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) || s != nil {
				t.Fatalf("Open: %v, want %q", err, test.want)
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// crashed copies a store as a crash leaves it: without the free list that a clean
// Close writes.
func crashed(t *testing.T, s *bolt.Store, from, to string) {
	t.Helper()
	release := s.Hold()
	defer release()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Damage is an error, whichever page it hits: not a panic, not the end of the
// process, and never a record with other bytes than were written.
func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	payload := func(id int) string { return strings.Repeat(fmt.Sprintf("payload of %d.", id), 100) }
	const records = 60
	slot := func(id int) keystore.Slot { return keystore.Slot{Collection: "c", ID: fmt.Sprint(id)} }
	for i := range records {
		op := put(slot(i), payload(i))
		op.Index = []keystore.IndexEntry{{Name: "n", Value: []byte(op.Slot.ID)}}
		mustCommit(t, s, op)
	}
	unclean := filepath.Join(dir, "crashed.db")
	crashed(t, s, filepath.Join(dir, "store.db"), unclean)
	pages := s.DB().Info().PageSize
	used := 0
	if err := s.DB().View(func(tx *bbolt.Tx) error { used = int(tx.Size()) / pages; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, file := range []string{unclean, filepath.Join(dir, "store.db")} {
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole = whole[:min(len(whole), (used+8)*pages)]
		for page := range used {
			// Page header and element table, then the middle of the page.
			for _, damage := range []func([]byte){
				func(p []byte) { clear(p[:64]) },
				func(p []byte) { copy(p, bytes.Repeat([]byte{0xA5}, 24)) },
				func(p []byte) { p[len(p)/2] ^= 0xFF },
			} {
				content := bytes.Clone(whole)
				damage(content[page*pages : (page+1)*pages])
				if !probe(t, content, slot, payload, records) {
					refused++
				}
			}
		}
		for _, size := range []int{pages, 2 * pages, 4*pages + 1, (used - 1) * pages} {
			if probe(t, whole[:size], slot, payload, records) {
				t.Errorf("a store cut to %d bytes opens", size)
			}
		}
	}
	if refused == 0 {
		t.Error("no damage was found: the test damages nothing")
	}
}

// probe opens a damaged store and uses it; it returns whether it opened.
func probe(t *testing.T, content []byte, slot func(int) keystore.Slot, payload func(int) string, records int) bool {
	t.Helper()
	file := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		return false
	}
	defer func() { _ = s.Close() }() // may fail, must not panic
	for i := range records {
		r, err := s.Get(t.Context(), slot(i))
		if err == nil && string(r.Payload) != payload(i) {
			t.Fatalf("record %d has other bytes than were written", i)
		}
	}
	_, _ = s.List(t.Context(), keystore.Query{Collection: "c", Index: "n", Limit: 1000})
	_ = s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { return nil })
	_, _ = s.Commit(t.Context(), nil, put(slot(3), "new"))
	return true
}

// After a crash, and after a clean stop, the store opens with all it had.
func TestOpenAfterCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 50 {
		mustCommit(t, s, put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i % 20)}, fmt.Sprint(i)))
	}
	file := filepath.Join(dir, "crashed.db")
	crashed(t, s, filepath.Join(dir, "store.db"), file)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := bolt.Open(file, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := 30; i < 50; i++ {
			wantPayload(t, c, keystore.Slot{Collection: "c", ID: fmt.Sprint(i % 20)}, fmt.Sprint(i))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A clean stop writes the free list, and pages are used again after the next open.
func TestFileDoesNotGrow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var sizes []int64
	for range 6 {
		s := open(t, dir)
		for i := range 40 {
			mustCommit(t, s, put(a, strings.Repeat("x", 3000+i)))
		}
		if err := s.DB().View(func(tx *bbolt.Tx) error { sizes = append(sizes, tx.Size()); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last := sizes[len(sizes)-1]; last > sizes[1]+4*4096 {
		t.Errorf("the store grows although it holds one record: %v", sizes)
	}
}

// The golden stores hold goldenOps and notes. The first has three notes and no
// anchor, the second was trimmed after that.
const (
	golden        = "testdata/store-v3.db"
	goldenTrimmed = "testdata/store-v3-trimmed.db"
)

func goldenOps() []keystore.Op {
	return []keystore.Op{
		{Slot: keystore.Slot{Collection: "esx/attestation", ID: "csr"}, Ref: keystore.Ref("sealed key 1"), Payload: []byte("payload 1")},
		{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "a/b"}, Ref: keystore.Ref("sealed key 2"), Payload: []byte("payload 2"),
			Index: []keystore.IndexEntry{{Name: "name", Value: []byte("zebra")}, {Name: "created", Value: []byte{0, 0, 1}}}},
		{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "c"}, Ref: keystore.Ref("sealed key 3"), Payload: []byte("payload 3"),
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
			if *update {
				writeGolden(t, test.file, test.anchor)
			}
			content, err := os.ReadFile(test.file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "store.db")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := bolt.Peek(t.Context(), file)
			if err != nil || found.Pending != test.notes || string(found.Anchors["changes"]) != test.anchor {
				t.Errorf("Peek: %+v, %v", found, err)
			}
			s := open(t, dir)
			closing(t, s)
			wantGoldenRecords(t, s)
			anchor, err := s.Anchor(t.Context(), "changes")
			if err != nil || string(anchor) != test.anchor {
				t.Errorf("anchor %q, %v", anchor, err)
			}
			if notes, err := s.Notes(); err != nil || len(notes) != test.notes || notes[3] != "note" {
				t.Errorf("notes: %v, %v", notes, err)
			}
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

// writeGolden writes a golden store, unless it is there.
func writeGolden(t *testing.T, golden, anchor string) {
	t.Helper()
	if _, err := os.Stat(golden); err == nil {
		return
	}
	dir := t.TempDir()
	s := open(t, dir)
	for _, op := range goldenOps() {
		if _, err := s.Commit(t.Context(), []byte("note"), op); err != nil {
			t.Fatal(err)
		}
	}
	if anchor != "" {
		if err := s.Trim(t.Context(), 2, "changes", []byte(anchor)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Without the room that a store keeps at the end of its file.
	db, err := bbolt.Open(filepath.Join(dir, "store.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	err = db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(&content); return err })
	if err := errors.Join(err, db.Close(), os.WriteFile(golden, content.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// goldenRecord is goldenOps()[1] at revision 2.
const goldenRecord = "02" + "0000000000000002" +
	"0000000c" + "7365616c6564206b65792032" +
	"00000009" + "7061796c6f61642032" +
	"02" + "07" + "63726561746564" + "0003" + "000001" + "04" + "6e616d65" + "0005" + "7a65627261" +
	"3f39634a"

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

// FuzzOpen opens arbitrary files: an error or a store that can be read and closed.
func FuzzOpen(f *testing.F) {
	content, err := os.ReadFile(golden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint(0), []byte{0})
	f.Add(uint(4096+20), []byte{1, 2, 3})
	f.Add(uint(3*4096), []byte{0xff, 0xff})
	f.Add(uint(5*4096+10), []byte{2, 0, 9, 9, 9, 9})
	f.Fuzz(func(t *testing.T, at uint, patch []byte) {
		patched := bytes.Clone(content)
		copy(patched[at%uint(len(patched)):], patch)
		file := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(file, patched, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(file, bolt.Options{})
		if (err == nil) != (s != nil) {
			t.Fatalf("store %t, error %v", s != nil, err)
		}
		if err != nil {
			return
		}
		for _, op := range goldenOps() {
			_, _ = s.Get(context.Background(), op.Slot)
			_, _ = s.List(context.Background(), keystore.Query{Collection: op.Slot.Collection, Index: "name", Limit: 9})
		}
		_ = s.Close()
	})
}

// A page that goes bad under an open store fails those who touch it, with an
// error: nobody is left waiting and nothing panics.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "store.db")
	s := open(t, dir)
	mustCommit(t, s, put(a, "old"))
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const metaPages = 2 * 4096
	_, err = f.WriteAt(bytes.Repeat([]byte{0xA5}, len(content[metaPages:])), metaPages)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), a); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Get: %v", err)
	}
	for range 3 {
		_, err := s.Commit(t.Context(), nil, put(a, "new"))
		wantError(t, "Commit", err, keystore.ErrNotCommitted)
		wantError(t, "Check", s.Check(t.Context()), keystore.ErrNotCommitted)
	}
	if err := s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { return nil }); err == nil {
		t.Error("Refs reads a damaged store")
	}
	_ = s.Close() // may fail, must return
	if _, err := bolt.Open(file, bolt.Options{}); err == nil || errors.Is(err, bolt.ErrLocked) {
		t.Errorf("Open: %v", err)
	}
}

package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

// damagePagesWith overwrites the start of every page that holds the text, under a
// store that may be open, and returns how many there were.
func damagePagesWith(t *testing.T, file, text string) (n int) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for off := 2 * page; off+page <= len(content); off += page {
		if bytes.Contains(content[off:off+page], []byte(text)) {
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xA5}, 64), int64(off)); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// After a write that fails, bbolt searches the file for free pages, in a goroutine
// of its own where damage would end the process. It must not get that far, and who
// reads what is whole goes on reading.
func TestFailedWriteOnDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "store.db")
	s := open(t, dir)
	for i := range 200 {
		mustCommit(t, s, put(keystore.Slot{Collection: "other", ID: fmt.Sprint(i)}, strings.Repeat("elsewhere ", 100)))
	}
	for i := range 40 { // so that a page with others of its collection holds a
		mustCommit(t, s, put(keystore.Slot{Collection: a.Collection, ID: fmt.Sprint([]string{"A", "z"}[i%2], i)}, strings.Repeat("beside ", 100)))
	}
	mustCommit(t, s, put(a, "old"))
	if damagePagesWith(t, file, "elsewhere") == 0 {
		t.Fatal("nothing was damaged")
	}
	mend := s.BreakWrites(t, file)
	for range 3 {
		_, err := s.Commit(t.Context(), nil, put(a, "new"))
		if err == nil {
			t.Fatal("a commit without writes")
		}
		wantPayload(t, s, a, "old")
	}
	mend()
	s.RecoverNow()
	_, err := s.Commit(t.Context(), nil, put(a, "new"))
	wantError(t, "Commit", err, keystore.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "restore a backup") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	wantPayload(t, s, a, "old")
	_ = s.Close() // may fail, must return
}

// A write that fails on a whole file is not committed, and the next one works.
func TestFailedWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	closing(t, s)
	mustCommit(t, s, put(a, "old"))
	mend := s.BreakWrites(t, filepath.Join(dir, "store.db"))
	_, err := s.Commit(t.Context(), nil, put(a, "new"))
	wantError(t, "Commit", err, keystore.ErrNotCommitted)
	wantPayload(t, s, a, "old")
	mend()
	mustCommit(t, s, put(a, "new"))
	wantPayload(t, s, a, "new")
}

// A file that is cut short under an open store makes memory faults of reads.
func TestCutShortWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "store.db")
	s := open(t, dir)
	op := put(a, "old")
	op.Index = []keystore.IndexEntry{{Name: "n", Value: []byte("v")}}
	mustCommit(t, s, op)
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func() error{
		"Get":    func() error { _, err := s.Get(t.Context(), a); return err },
		"Refs":   func() error { return s.Refs(t.Context(), func(keystore.Slot, keystore.Ref) error { return nil }) },
		"Count":  func() error { _, err := s.Count(t.Context(), "c"); return err },
		"Commit": func() error { _, err := s.Commit(t.Context(), nil, put(a, "new")); return err },
		"Check":  func() error { return s.Check(t.Context()) },
	}
	for name, call := range calls {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	_ = s.Close() // may fail, must return
}

// A store whose file is taken away takes no changes: they would be gone with it.
// When the file is back, and is the same, all goes on.
func TestTakenAway(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir, away := filepath.Join(parent, "data"), filepath.Join(parent, "away")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	closing(t, s)
	mustCommit(t, s, put(a, "old"))
	refused := func(what string) {
		t.Helper()
		_, err := s.Commit(t.Context(), nil, put(a, "new"))
		wantError(t, what, err, keystore.ErrUnavailable)
		wantError(t, what, s.Check(t.Context()), keystore.ErrUnavailable)
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "store.db")) {
			t.Errorf("%s: the error does not name the file: %v", what, err)
		}
		wantPayload(t, s, a, "old")
	}
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	refused("moved away")
	if err := errors.Join(os.Mkdir(dir, 0o700), open(t, dir).Close()); err != nil {
		t.Fatal(err)
	}
	refused("another store at its path")
	if err := errors.Join(os.RemoveAll(dir), os.Rename(away, dir)); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, put(a, "new"))
	wantPayload(t, s, a, "new")
}

// The file is taken away while a commit is written: it is not acknowledged.
func TestTakenAwayDuringCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "store.db")
	s := open(t, dir)
	closing(t, s)
	mustCommit(t, s, put(a, "old"))
	s.OnFinish(func() {
		if err := os.Rename(file, file+".away"); err != nil {
			t.Error(err)
		}
	})
	_, err := s.Commit(t.Context(), nil, put(a, "new"))
	wantError(t, "Commit", err, keystore.ErrOutcomeUnknown)
	wantPayload(t, s, a, "old")
	s.Finish(nil)
	wantError(t, "Check", s.Check(t.Context()), keystore.ErrUnavailable)
	wantPayload(t, s, a, "old")
	// Another store in its place is not taken for it.
	other := t.TempDir()
	if err := errors.Join(open(t, other).Close(), os.Rename(filepath.Join(other, "store.db"), file)); err != nil {
		t.Fatal(err)
	}
	s.RecoverNow()
	wantError(t, "Check with another store", s.Check(t.Context()), keystore.ErrUnavailable)
	wantPayload(t, s, a, "old")
	if err := os.Rename(file+".away", file); err != nil {
		t.Fatal(err)
	}
	s.RecoverNow()
	if err := s.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
	wantPayload(t, s, a, "new")
	keystoretest.Count(t, "data directories taken away", 3)
}

// A record whose name was damaged is not taken for one that was never there: whoever
// made another would do it over the first.
func TestDamagedName(t *testing.T) {
	t.Parallel()
	const collection = "esx-collection"
	slot := func(n int) keystore.Slot {
		return keystore.Slot{Collection: collection, ID: fmt.Sprintf("id-%03d-name", n)}
	}
	for _, records := range []int{2, 300} { // 300 are in several pages
		dir := t.TempDir()
		file := filepath.Join(dir, "store.db")
		s := open(t, dir)
		var ops []keystore.Op
		for n := range records {
			ops = append(ops, put(slot(n), fmt.Sprint("payload ", n)))
		}
		for some := range slices.Chunk(ops, keystore.MaxOpsPerCommit) {
			mustCommit(t, s, some...)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < records; n += 1 + records/3 {
			key := append([]byte("r"+collection+"\x00"), slot(n).ID...)
			if !bytes.Contains(whole, key) {
				t.Fatal("there is nothing to damage")
			}
			tried, refused := 0, 0
			for i := n % 3; i < len(key); i += keystoretest.Effort(3, 1) {
				tried++
				damaged := bytes.Clone(key)
				damaged[i] ^= 1 << ((n + i) % 8)
				content := bytes.ReplaceAll(whole, key, damaged) // pages that are free have it, too
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := bolt.Open(file, bolt.Options{})
				if err != nil {
					refused++
					continue
				}
				if _, err := s.Get(t.Context(), slot(n)); err == nil || errors.Is(err, keystore.ErrNotFound) {
					t.Errorf("%q instead of %q: Get: %v", damaged, key, err)
				}
				op := put(slot(n), "new")
				op.Expect = keystore.Absent
				if _, err := s.Commit(t.Context(), nil, op); err == nil {
					t.Errorf("%q instead of %q: a new record over the old one", damaged, key)
				}
				_ = s.Close() // may fail, must return
			}
			if refused == 0 || refused == tried {
				t.Errorf("%d of %d damages of %s were found by Open", refused, tried, slot(n))
			}
		}
	}
}

// Names whose checksums are the same are no damage.
func TestNamesOfOneChecksum(t *testing.T) {
	t.Parallel()
	ids := map[uint32]string{}
	var first, second string
	for n := 0; first == ""; n++ {
		id := fmt.Sprintf("%08x", n*0x9E3779B1&0xFFFFFFFF)
		sum := crc32.Checksum([]byte(id), crc32.MakeTable(crc32.Castagnoli))
		if other, is := ids[sum]; is {
			first, second = other, id
		}
		ids[sum] = id
	}
	s := open(t, t.TempDir())
	mustCommit(t, s, put(keystore.Slot{Collection: "c", ID: first}, "payload"))
	other := keystore.Slot{Collection: "c", ID: second}
	if _, err := s.Get(t.Context(), other); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("%s beside %s: %v", second, first, err)
	}
	mustCommit(t, s, put(other, "another"))
	wantPayload(t, s, other, "another")
}

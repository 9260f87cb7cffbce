package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// What a start finds that is not what the service left is left as it is.
func TestStartOnDamage(t *testing.T) {
	t.Parallel()
	lastLine := func(content []byte) int { return bytes.LastIndexByte(content[:len(content)-1], '\n') + 1 }
	for name, test := range map[string]struct {
		damage func([]byte) []byte
		broken bool
	}{
		"nothing":             {func(c []byte) []byte { return c }, false},
		"torn line behind":    {func(c []byte) []byte { return append(c, `{"v":1,"stream":"cha`...) }, false},
		"zeros behind":        {func(c []byte) []byte { return append(c, make([]byte, 5000)...) }, false},
		"line behind":         {func(c []byte) []byte { return append(c, "{}\n"...) }, true},
		"last line again":     {func(c []byte) []byte { return append(c, c[lastLine(c):]...) }, true},
		"last line cut":       {func(c []byte) []byte { return c[:len(c)-10] }, true},
		"last line removed":   {func(c []byte) []byte { return c[:lastLine(c)] }, true},
		"last line edited":    {func(c []byte) []byte { c[len(c)-20] ^= 1; return c }, true},
		"emptied":             {func([]byte) []byte { return nil }, true},
		"line without an end": {func(c []byte) []byte { return append(c, bytes.Repeat([]byte("x"), audit.MaxLine+10)...) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.close()
			file := tr.files(audit.Changes)[0]
			damaged := test.damage(read(t, file))
			write(t, file, damaged)
			tr.open()
			tr.changes(2)
			tr.close()
			if !test.broken {
				tr.wantChanges()
				tr.wantWhole()
				return
			}
			if !bytes.Equal(read(t, file), damaged) {
				t.Error("evidence was overwritten")
			}
			lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
			if len(lines) != 3 || lines[0].Event != "broken" || lines[0].Seq != 5 || lines[2].RequestID != "r5" {
				t.Errorf("%+v", lines)
			}
			if found := tr.verify(); len(found) == 0 {
				t.Error("verify finds nothing")
			}
			// Damage is told once, and what comes after it is a chain again.
			tr.open()
			tr.close()
			if n := strings.Count(tr.said.String(), "is damaged"); n != 1 {
				t.Errorf("told %d times", n)
			}
			content := read(t, tr.files(audit.Changes)[1])
			write(t, tr.files(audit.Changes)[1], bytes.Replace(content, []byte(`"r5"`), []byte(`"r6"`), 1))
			if found := tr.verify(); !strings.Contains(strings.Join(found, "\n"), "changes-000002.jsonl:3: line 7, or what stood before it, was changed") {
				t.Errorf("found %q", found)
			}
		})
	}
}

// Another store beside the old files: nothing is overwritten, and verify says whose
// they are. Moved away, the trail is whole.
func TestDiscardedStore(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(3)
	tr.close()
	before := read(t, tr.files(audit.Changes)[0])
	if err := os.Remove(tr.storePath()); err != nil {
		t.Fatal(err)
	}
	tr.open()
	tr.changes(2)
	tr.close()
	if !bytes.Equal(read(t, tr.files(audit.Changes)[0]), before) {
		t.Error("a file of the other store was overwritten")
	}
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 3 || lines[0].Event != "begin" || lines[0].Seq != 1 || lines[0].Reason == "" {
		t.Errorf("%+v", lines)
	}
	tr.wantProblem("changes-000001.jsonl", "an earlier chain")
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		if err := os.Rename(tr.files(stream)[0], filepath.Join(tr.dir, stream)); err != nil {
			t.Fatal(err)
		}
	}
	tr.wantWhole()
}

// An older store under newer files gives revisions out again: its changes must not
// be taken for those that have lines already.
func TestRestoredStore(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	backup := read(t, tr.storePath())
	tr.open()
	tr.changes(5)
	tr.close()
	write(t, tr.storePath(), backup)
	tr.wantProblem("changes-000001.jsonl:8", "the store is an older one")
	tr.open()
	tr.changes(3)
	tr.close()
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 4 || lines[0].Event != "broken" || lines[0].Seq != 4 || lines[1].RequestID != "r8" || lines[3].RequestID != "r10" {
		t.Errorf("%+v", lines)
	}
	tr.wantProblem("changes-000002.jsonl:1", "the service found the trail damaged")
}

// Also where a change that waits has the revision of one that has a line.
func TestRestoredStoreWithNotes(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	backup := read(t, tr.storePath())
	tr.open()
	tr.change()
	tr.close()
	write(t, tr.storePath(), backup)
	store, err := bolt.Open(tr.storePath(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	note, err := event(100).Note(time.Now())
	if err == nil {
		_, err = store.Commit(t.Context(), note, keystore.Op{Slot: keystore.Slot{Collection: "c", ID: "a"}})
	}
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	tr.open()
	tr.close()
	if n := len(tr.files(audit.Changes)); n != 2 {
		t.Fatalf("%d files", n)
	}
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 2 || lines[0].Event != "broken" || lines[1].RequestID != "r100" {
		t.Errorf("%+v", lines)
	}
}

// The keys of the old lines stay when the primary key is another.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	both := keyring{"00000002", map[string][]byte{"0badcafe": keys.keys["0badcafe"], "00000002": []byte("another")}}
	tr.o.MAC = both
	tr.open()
	tr.changes(2)
	tr.close()
	tr.wantChanges()
	if found := problems(t, tr.dir, both, tr.o.Dir); len(found) > 0 {
		t.Errorf("%q", found)
	}
	only := keyring{"00000002", map[string][]byte{"00000002": []byte("another")}}
	if found := problems(t, tr.dir, only, tr.o.Dir); len(found) == 0 || !strings.Contains(found[0], `changes-000001.jsonl:1: the line was made with key "0badcafe"`) {
		t.Errorf("%q", found)
	}
}

func TestRefusedFolders(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(string) error{
		"a file":               func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"accessible to others": func(dir string) error { return os.Mkdir(dir, 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if err := prepare(filepath.Join(dir, "audit")); err != nil {
				t.Fatal(err)
			}
			_ = os.Chmod(filepath.Join(dir, "audit"), 0o777)
			if l, err := audit.Open(t.Context(), audit.Options{Outbox: store, MAC: keys, Dir: filepath.Join(dir, "audit")}); err == nil {
				t.Errorf("opened %v", l)
			}
		})
	}
}

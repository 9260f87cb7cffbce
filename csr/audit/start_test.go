package audit_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/test/kit"
)

// What a start finds that is not what the service left is left as it is, and the
// chain goes on in a new file. What an unfinished write left is cut off.
func TestStartOnDamage(t *testing.T) {
	t.Parallel()
	lastLine := func(content []byte) int { return bytes.LastIndexByte(content[:len(content)-1], '\n') + 1 }
	for name, test := range map[string]struct {
		damage  func([]byte) []byte
		waiting int // notes that have no line yet
		broken  bool
	}{
		"nothing":              {func(c []byte) []byte { return c }, 0, false},
		"torn line at the end": {func(c []byte) []byte { return append(c, `{"v":1,"stream":"cha`...) }, 0, false},
		"zeros at the end":     {func(c []byte) []byte { return append(c, make([]byte, 5000)...) }, 0, false},
		"line added":           {func(c []byte) []byte { return append(c, "{}\n"...) }, 0, true},
		"line added, one due":  {func(c []byte) []byte { return append(c, "{}\n"...) }, 1, true},
		"last line again":      {func(c []byte) []byte { return append(c, c[lastLine(c):]...) }, 0, true},
		"last line cut":        {func(c []byte) []byte { return c[:len(c)-10] }, 0, true},
		"last line removed":    {func(c []byte) []byte { return c[:lastLine(c)] }, 0, true},
		"last line edited":     {func(c []byte) []byte { c[len(c)-20] ^= 1; return c }, 0, true},
		"emptied":              {func([]byte) []byte { return nil }, 0, true},
		"line without an end":  {func(c []byte) []byte { return append(c, bytes.Repeat([]byte("x"), audit.MaxLine+10)...) }, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.close()
			tr.changesAlone(test.waiting)
			file := tr.files(audit.Changes)[0]
			damaged := test.damage(kit.Read(t, "", file))
			write(t, file, damaged)
			tr.open()
			tr.changes(2 - test.waiting)
			tr.close()
			if !test.broken {
				tr.wantChanges()
				tr.wantWhole()
				return
			}
			if !bytes.Equal(kit.Read(t, "", file), damaged) {
				t.Error("evidence was overwritten")
			}
			tr.wantContinued(5, 4, 5)
			if found := tr.verify(); len(found) == 0 {
				t.Error("verify finds nothing")
			}
			// Damage is reported once, and what comes after it is a chain again.
			tr.restart()
			tr.close()
			if n := strings.Count(tr.said.String(), "is damaged"); n != 1 {
				t.Errorf("reported %d times", n)
			}
			next := tr.files(audit.Changes)[1]
			write(t, next, bytes.Replace(kit.Read(t, "", next), []byte(`"r5"`), []byte(`"r6"`), 1))
			if found := tr.verify(); !strings.Contains(strings.Join(found, "\n"), "changes-000002.jsonl:3: line 7, or a line before it, was changed") {
				t.Errorf("found %q", found)
			}
		})
	}
}

// When power goes while lines are written, a later part of them may be on the disk
// and an earlier one not. That is nobody's doing: no alarm, and the lines are
// written again.
func TestHole(t *testing.T) {
	t.Parallel()
	for name, hole := range map[string]func([]byte){
		"at the beginning": func(lines []byte) { clear(lines[:100]) },
		"in the middle":    func(lines []byte) { clear(lines[len(lines)/2-50 : len(lines)/2+50]) },
		"of a line's end":  func(lines []byte) { end := bytes.IndexByte(lines, '\n'); clear(lines[end-10 : end+10]) },
		"of nearly all":    func(lines []byte) { clear(lines[:len(lines)-20]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.close()
			file := tr.files(audit.Changes)[0]
			size := len(kit.Read(t, "", file))
			tr.changesAlone(60) // their lines are longer than one may be
			store := kit.Read(t, "", tr.storePath())
			tr.open()
			tr.close()
			whole := kit.Read(t, "", file)

			torn := bytes.Clone(whole)
			hole(torn[size:])
			write(t, file, torn)
			write(t, tr.storePath(), store)
			tr.wantWhole()
			tr.open()
			tr.close()
			if !bytes.Equal(kit.Read(t, "", file), whole) {
				t.Error("the lines are not what they were without the power cut")
			}
			tr.wantWhole()
			tr.wantChanges()
			if n := len(tr.files(audit.Changes)); n != 1 {
				t.Errorf("%d files", n)
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
	before := kit.Read(t, "", tr.files(audit.Changes)[0])
	kit.Remove(t, "", tr.storePath())
	tr.open()
	tr.changes(2)
	tr.close()
	if !bytes.Equal(kit.Read(t, "", tr.files(audit.Changes)[0]), before) {
		t.Error("a file of the other store was overwritten")
	}
	lines := parse(t, kit.Read(t, "", tr.files(audit.Changes)[1]))
	if len(lines) != 3 || lines[0].Event != "begin" || lines[0].Seq != 1 || lines[0].Reason == "" {
		t.Errorf("%+v", lines)
	}
	tr.wantProblem("changes-000001.jsonl", "an earlier chain")
	for _, stream := range audit.Streams() {
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
	for _, waiting := range []int{0, 1} { // notes, of which the first has the revision of a line
		t.Run(fmt.Sprint(waiting, " waiting"), func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(2)
			tr.close()
			backup := kit.Read(t, "", tr.storePath())
			tr.open()
			tr.changes(5)
			tr.close()
			write(t, tr.storePath(), backup)
			tr.wantProblem("changes-000001.jsonl:8", "the store is an older one")
			tr.changesAlone(waiting)
			tr.open()
			tr.changes(3 - waiting)
			tr.close()
			tr.wantContinued(4, 8, 9, 10)
			if said := tr.said.String(); strings.Count(said, "operation=store.restore") != 1 {
				t.Errorf("the log says %s", said)
			}
			tr.wantProblem("changes-000002.jsonl:1", "the service found the trail damaged")
		})
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
	if found := tr.problems(both, tr.o.Dir); len(found) > 0 {
		t.Errorf("%q", found)
	}
	only := keyring{"00000002", map[string][]byte{"00000002": []byte("another")}}
	if found := tr.problems(only, tr.o.Dir); len(found) == 0 || !strings.Contains(found[0], `changes-000001.jsonl:1: the line was made with key "0badcafe"`) {
		t.Errorf("%q", found)
	}
}

func TestRefusedFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := openStore(t, filepath.Join(dir, "store.db"), keystoretest.NewVault(), keys)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	file, open := filepath.Join(dir, "file"), filepath.Join(dir, "open to others")
	write(t, file, nil)
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o707); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{file, open} {
		if l, err := audit.Open(t.Context(), audit.Options{Outbox: store, MAC: keys, Dir: folder, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: opened %v", folder, l)
		}
	}
}

// A service of today goes on where the golden one ended, with a store that is where the
// golden one was.
func TestGoldenTrailGoesOn(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.close()
	anchor := kit.Read(t, "", "testdata/trail-v2/changes-anchor.json")
	var last struct {
		Last struct {
			Revision uint64 `json:"revision"`
			Code     string `json:"note_code"`
		} `json:"last"`
	}
	if err := json.Unmarshal(anchor, &last); err != nil {
		t.Fatal(err)
	}
	head, err := hex.DecodeString(last.Last.Code)
	if err != nil || len(head) == 0 {
		t.Fatalf("%q, %v", last.Last.Code, err)
	}
	raw, err := bolt.Open(tr.storePath(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw.Protect(sealer(head))
	_, err = raw.Commit(t.Context(), []byte("the last note"))
	err = errors.Join(err, raw.Advance(t.Context(), last.Last.Revision))
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		for _, name := range goldenFiles(t, stream) {
			write(t, filepath.Join(tr.o.Dir, filepath.Base(name)), kit.Read(t, "", name))
		}
		err = errors.Join(err, raw.Trim(t.Context(), last.Last.Revision, map[string][]byte{stream: kit.Read(t, "", "testdata/trail-v2/"+stream+"-anchor.json")}))
	}
	if err := errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
	tr.wantWhole()
	tr.open()
	tr.close()
	tr.wantWhole()
	if n := len(tr.files(audit.Changes)); n != 3 || tr.said.String() != "" {
		t.Errorf("%d files, the log says %s", n, tr.said)
	}
}

// sealer is a guard that gives every note the same code.
type sealer []byte

func (sealer) Admit(keystore.Op) error                       { return nil }
func (s sealer) Seal([]byte, uint64, []byte) ([]byte, error) { return s, nil }

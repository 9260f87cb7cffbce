package audit_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// tampered is a trail of 20 changes in several files, closed.
func tampered(t *testing.T) *trail {
	t.Helper()
	tr := newTrail(t, smallFiles)
	tr.changes(20)
	tr.close()
	tr.wantWhole()
	if n := len(tr.files(audit.Changes)); n < 4 {
		t.Fatalf("%d files", n)
	}
	return tr
}

func linesOf(content []byte) [][]byte {
	lines := bytes.SplitAfter(content, []byte("\n"))
	return lines[:len(lines)-1]
}

// tampering changes a trail, and says what is found and where. An empty place is
// after the last line that is left.
type tampering struct {
	do          func(*testing.T, *trail)
	place, what string
}

// editLines changes the lines of a file, counted from 0.
func editLines(file int, change func([][]byte) [][]byte) func(*testing.T, *trail) {
	return func(t *testing.T, tr *trail) {
		name := tr.files(audit.Changes)[file]
		write(t, name, bytes.Join(change(linesOf(kit.Read(t, "", name))), nil))
	}
}

// replace changes the text of a line, counted from 0.
func replace(file, line int, from, to string) func(*testing.T, *trail) {
	return editLines(file, func(l [][]byte) [][]byte {
		l[line] = bytes.Replace(l[line], []byte(from), []byte(to), 1)
		return l
	})
}

func changedLines() map[string]tampering {
	return map[string]tampering{
		"edited user":     {replace(1, 2, `"admin"`, `"nobody"`), "changes-000002.jsonl:3", "was changed"},
		"edited sequence": {replace(0, 2, `"seq":3,`, `"seq":7,`), "changes-000001.jsonl:3", "sequence 7 follows 2"},
		"added member":    {replace(0, 2, `"seq":3,`, `"seq":3,"x":1,`), "changes-000001.jsonl:3", "is not a line of an audit stream"},
		"added space":     {replace(0, 2, `"seq":3,`, `"seq": 3,`), "changes-000001.jsonl:3", "is not a line of an audit stream"},
		"edited code": {editLines(1, func(l [][]byte) [][]byte {
			at := len(l[0]) - 10
			l[0][at] = map[bool]byte{true: '1', false: '0'}[l[0][at] == '0']
			return l
		}), "changes-000002.jsonl:1", "was changed"},
		"deleted line": {editLines(1, func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) }),
			"changes-000002.jsonl:2", "lines are missing"},
		"reordered": {editLines(1, func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l }),
			"changes-000002.jsonl:2", "in another order"},
		"duplicated": {editLines(1, func(l [][]byte) [][]byte { return slices.Insert(l, 1, l[0]) }),
			"changes-000002.jsonl:2", "repeated"},
		"inserted text": {editLines(1, func(l [][]byte) [][]byte { return slices.Insert(l, 1, []byte("hello\n")) }),
			"changes-000002.jsonl:2", "is not a line"},
		"an endless line": {editLines(1, func(l [][]byte) [][]byte {
			return slices.Insert(l, 1, bytes.Repeat([]byte("x"), 2*audit.MaxLine))
		}), "changes-000002.jsonl:2", "is not a line"},
		"forged without the key": {editLines(1, func(l [][]byte) [][]byte {
			guess := keyring{"", map[string][]byte{"0badcafe": []byte("a guess")}}
			forged, _, err := audit.RewriteLine(guess, strings.Repeat("00", 32), bytes.TrimSuffix(l[1], []byte("\n")))
			if err != nil {
				panic(err)
			}
			l[1] = forged
			return l
		}), "changes-000002.jsonl:2", "was changed"},
	}
}

func changedFiles() map[string]tampering {
	last := func(tr *trail) string { files := tr.files(audit.Changes); return files[len(files)-1] }
	removed := func(file int) func(*testing.T, *trail) {
		return func(t *testing.T, tr *trail) { kit.Remove(t, "", tr.files(audit.Changes)[file]) }
	}
	return map[string]tampering{
		"text at the end of an older file": {func(t *testing.T, tr *trail) {
			name := tr.files(audit.Changes)[0]
			write(t, name, append(kit.Read(t, "", name), "x"...))
		}, "changes-000001.jsonl:5", "is not a line"},
		"cut off at the end": {func(t *testing.T, tr *trail) {
			lines := linesOf(kit.Read(t, "", last(tr)))
			write(t, last(tr), bytes.Join(lines[:len(lines)-1], nil))
		}, "", "lines were cut off"},
		"cut off within the last line": {func(t *testing.T, tr *trail) {
			content := kit.Read(t, "", last(tr))
			write(t, last(tr), content[:len(content)-5])
		}, "", "lines were cut off"},
		"last file deleted":   {func(t *testing.T, tr *trail) { kit.Remove(t, "", last(tr)) }, "", "lines were cut off, or a file is missing"},
		"middle file deleted": {removed(1), "changes-000003.jsonl:1", "lines are missing"},
		"first file deleted":  {removed(0), "changes-000002.jsonl:1", "lines are missing"},
		"all files deleted": {func(t *testing.T, tr *trail) {
			for _, name := range tr.files(audit.Changes) {
				kit.Remove(t, "", name)
			}
		}, "changes-000001.jsonl:1", "the lines end at sequence 0"},
		"files swapped": {func(t *testing.T, tr *trail) {
			a, b := tr.files(audit.Changes)[0], tr.files(audit.Changes)[1]
			x, y := kit.Read(t, "", a), kit.Read(t, "", b)
			write(t, a, y)
			write(t, b, x)
		}, "changes-000001.jsonl:1", "lines are missing, or in another order"},
		"lines of the other stream": {func(t *testing.T, tr *trail) {
			write(t, tr.files(audit.Refusals)[0], linesOf(kit.Read(t, "", tr.files(audit.Changes)[0]))[0])
		}, "refusals-000001.jsonl:1", "another stream"},
		"anchor newer":           {func(_ *testing.T, tr *trail) { forgeAnchor(tr, 1, true) }, "", "the store has 22 on record: lines were cut off"},
		"anchor older":           {func(_ *testing.T, tr *trail) { forgeAnchor(tr, -3, true) }, "", "is not the one that the store has on record"},
		"anchor without the key": {func(_ *testing.T, tr *trail) { forgeAnchor(tr, 0, false) }, "the store", "the anchor was changed"},
	}
}

// Whatever somebody without the keyset does to the files is found, in its place.
func TestTampering(t *testing.T) {
	t.Parallel()
	all := changedLines()
	maps.Copy(all, changedFiles())
	for name, test := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := tampered(t)
			test.do(t, tr)
			place := test.place
			if place == "" {
				files := tr.files(audit.Changes)
				last := files[len(files)-1]
				place = fmt.Sprintf("%s:%d", filepath.Base(last), len(linesOf(kit.Read(t, "", last)))+1)
			}
			tr.wantProblem(place, test.what)
		})
	}
}

// forgeAnchor moves the last sequence of the anchor. Without the key it is a guess.
func forgeAnchor(tr *trail, by int64, key bool) {
	tr.t.Helper()
	tr.withStore(func(store *store) error {
		text, err := store.Anchor(tr.t.Context(), audit.Changes)
		if err != nil {
			return err
		}
		forged, err := audit.ForgeAnchor(keys, audit.Changes, text, by)
		if err != nil {
			return err
		}
		if !key {
			forged = append(forged[:len(forged)-66:len(forged)-66], strings.Repeat("ab", 32)+`"}`...)
		}
		return store.Trim(tr.t.Context(), 0, map[string][]byte{audit.Changes: forged})
	})
}

// Files that were moved to an archive are named, and the trail is whole with them.
func TestArchive(t *testing.T) {
	t.Parallel()
	tr := tampered(t)
	archive := t.TempDir()
	for _, name := range tr.files(audit.Changes)[:2] {
		if err := os.Rename(name, filepath.Join(archive, filepath.Base(name))); err != nil {
			t.Fatal(err)
		}
	}
	tr.wantProblem("changes-000003.jsonl:1", "lines are missing")
	tr.wantWhole(archive)
}

// The files of refusals that the service removed are no alarm; that others removed
// one is.
func TestRemovedRefusals(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, func(o *audit.Options) { o.MaxRefusalsSize = 8000 })
	for i := range 60 {
		tr.log.Refuse(refusal("", fmt.Sprint(i), "unauthenticated"))
	}
	tr.close()
	files := tr.files(audit.Refusals)
	if len(files) < 2 || strings.HasSuffix(files[0], "refusals-000001.jsonl") {
		t.Fatalf("files %q", files)
	}
	tr.wantWhole()
	tr.open() // and the next start finds nothing wrong
	tr.close()
	tr.wantWhole()
	if tr.said.String() != "" {
		t.Errorf("the log says %s", tr.said)
	}
	kit.Remove(t, "", files[0])
	tr.wantProblem(filepath.Base(files[1])+":1", "lines are missing")
}

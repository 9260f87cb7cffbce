package audit_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore/bolt"
)

// changesAlone commits changes to the store while no log is open: their notes wait.
func (tr *trail) changesAlone(n int) {
	tr.t.Helper()
	s, err := bolt.Open(tr.storePath(), bolt.Options{})
	if err != nil {
		tr.t.Fatal(err)
	}
	for range n {
		tr.commit(s, func(e audit.Event) ([]byte, error) { return e.Note(time.Now()) })
	}
	if err := s.Close(); err != nil {
		tr.t.Fatal(err)
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
			size := len(read(t, file))
			tr.changesAlone(60) // their lines are longer than one may be
			store := read(t, tr.storePath())
			tr.open()
			tr.close()
			whole := read(t, file)

			torn := bytes.Clone(whole)
			hole(torn[size:])
			write(t, file, torn)
			write(t, tr.storePath(), store)
			tr.wantWhole()
			tr.open()
			tr.close()
			if !bytes.Equal(read(t, file), whole) {
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

// A hole is an excuse only where something was to be written, and nothing else is
// one.
func TestHoleIsNoExcuse(t *testing.T) {
	t.Parallel()
	hole := append(make([]byte, 100), "and the rest of a line\n"...)
	for name, test := range map[string]struct {
		waiting int
		behind  []byte
	}{
		"a hole where nothing was due": {0, hole},
		"no hole where a line was due": {1, []byte("{}\n")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.close()
			tr.changesAlone(test.waiting)
			file := tr.files(audit.Changes)[0]
			damaged := append(read(t, file), test.behind...)
			write(t, file, damaged)
			tr.wantProblem(filepath.Base(file)+":5", "")
			tr.open()
			tr.close()
			if !bytes.Equal(read(t, file), damaged) || len(tr.files(audit.Changes)) != 2 {
				t.Error("evidence was overwritten")
			}
		})
	}
}

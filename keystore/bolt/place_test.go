package bolt_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/test/kit"
)

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
	kit.Count(t, "data directories taken away", 3)
}

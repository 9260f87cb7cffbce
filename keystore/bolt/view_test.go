package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"attestcsr/keystore"
)

// A copy holds what the store held when the view began, whatever is committed meanwhile,
// and nothing of what was removed before.
func TestCopyOfView(t *testing.T) {
	t.Parallel()
	dir, at := t.TempDir(), t.TempDir()
	used(t, dir, 800)
	want := contentOf(t, dir)
	s := open(t, dir)
	s.Protect(sealing{})
	view, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(at, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), []byte("later"), put(keystore.Slot{Collection: "c", ID: "later"}, strings.Repeat("later", 100))); err != nil {
		t.Fatal(err)
	}
	records, err := view.CopyTo(t.Context(), f)
	evidence, evidenceErr := view.Evidence()
	if err := errors.Join(err, evidenceErr, view.Close(), f.Chmod(0o600), f.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.Name())
	if err != nil || bytes.Contains(text, []byte(removed)) {
		t.Errorf("the copy holds what was removed: %v", err)
	}
	if got := contentOf(t, at); !reflect.DeepEqual(got, want) || records != len(want.Records) || !reflect.DeepEqual(evidence, want.Evidence) {
		t.Errorf("%d records: %+v, want %+v", records, got, want)
	}
}

// A copy that is given up ends, and the store goes on.
func TestCopyGivenUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	used(t, dir, 80)
	s := open(t, dir)
	view, err := s.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := view.CopyTo(ctx, f); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := errors.Join(view.Close(), f.Close(), s.Check(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("of a store that is closed: %v", err)
	}
}

package bolt_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

// TestPeek reads a store that another has open, whose lock it does not take.
func TestPeek(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, dir)
	closing(t, s)
	want := func(pending int, anchors ...string) {
		t.Helper()
		found, err := bolt.Peek(t.Context(), path)
		if err != nil || found.Pending != pending || len(found.Anchors) != len(anchors)/2 {
			t.Errorf("%+v, %v, want %d notes, anchors %q", found, err, pending, anchors)
			return
		}
		for i := 0; i < len(anchors); i += 2 {
			if string(found.Anchors[anchors[i]]) != anchors[i+1] {
				t.Errorf("%+v, want %q", found, anchors)
			}
		}
	}
	want(0)
	// Enough for pages below the root, and for buckets that are not in place.
	noted(t, s, 120, strings.Repeat("n", 700))
	want(120)
	long := strings.Repeat("long", 4000)
	for _, trim := range []struct{ name, anchor string }{{"a", "one"}, {"b", long}} {
		if err := s.Trim(t.Context(), 100, trim.name, []byte(trim.anchor)); err != nil {
			t.Fatal(err)
		}
	}
	want(20, "a", "one", "b", long)
	if err := s.Trim(t.Context(), 1<<40, "a", []byte("two")); err != nil {
		t.Fatal(err)
	}
	want(0, "a", "two", "b", long)
}

// noted commits that many changes, each with a note.
func noted(t *testing.T, s *bolt.Store, n int, note string) {
	t.Helper()
	for i := range n {
		if _, err := s.Commit(t.Context(), []byte(note), put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x")); err != nil {
			t.Fatal(err)
		}
	}
}

// While others commit as fast as they can, what is found is of one state: each trim
// leaves nothing but the notes of the commits after it.
func TestPeekUnderChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	closing(t, s)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			noted(t, s, 7, "note")
			if err := s.Trim(t.Context(), 1<<40, "filler", bytes.Repeat([]byte("y"), 1+rand.IntN(9000))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	peeks := 0
	for end := time.Now().Add(time.Duration(kit.Effort(1, 60)) * time.Second); time.Now().Before(end); peeks++ {
		found, err := bolt.Peek(t.Context(), filepath.Join(dir, "store.db"))
		if err != nil || found.Pending > 7 || len(bytes.Trim(found.Anchors["filler"], "y")) != 0 {
			t.Fatalf("%d notes, an anchor of %d bytes, %v", found.Pending, len(found.Anchors["filler"]), err)
		}
	}
	close(stop)
	writer.Wait()
	kit.Count(t, "peeks beside commits", peeks)
}

// A commit while a state is read may have gone over its pages. What was found is then
// not believed.
func TestPeekIsOvertaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	closing(t, s)
	for commits := range 12 {
		noted(t, s, 20, "note")
		found, same, err := bolt.PeekBetween(filepath.Join(dir, "store.db"), func() {
			for range commits {
				if err := s.Trim(t.Context(), 1<<40, "a", bytes.Repeat([]byte("x"), 5000)); err != nil {
					t.Fatal(err)
				}
			}
		})
		if same != (commits == 0) {
			t.Errorf("after %d commits: believed %t", commits, same)
		}
		if same && (err != nil || found.Pending != 20) {
			t.Errorf("%+v, %v, want 20 notes", found, err)
		}
	}
}

// A file that is not a store, or not a whole one, is an error.
func TestPeekAtDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, dir)
	noted(t, s, 100, strings.Repeat("n", 200))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content := usedPart(t, path)
	for name, damaged := range map[string][]byte{
		"empty": nil, "short": content[:100], "one page": content[:4096], "three pages": content[:3*4096], "text": bytes.Repeat([]byte("text"), 10_000),
	} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := bolt.Peek(t.Context(), path); err == nil {
			t.Errorf("%s: %+v", name, found)
		}
	}
	if _, err := bolt.Peek(t.Context(), filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzPeek(f *testing.F) {
	content, err := os.ReadFile(golden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = bolt.Peek(t.Context(), path) // ends, and does not panic
	})
}

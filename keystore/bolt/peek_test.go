package bolt_test

import (
	"attestcsr/test/kit"

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
	for i := range 120 {
		_, err := s.Commit(t.Context(), bytes.Repeat([]byte("n"), 700), put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x"))
		if err != nil {
			t.Fatal(err)
		}
	}
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

// TestPeekUnderChange peeks while others commit as fast as they can: what is found
// is always of one state. The anchor says how many notes are to be there.
func TestPeekUnderChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, dir)
	closing(t, s)
	var anchored sync.Mutex // notes come and go in pairs with their anchor
	commits, stop := 0, make(chan struct{})
	var writers sync.WaitGroup
	writers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			anchored.Lock()
			// A trim of nothing, as large as it is true: the number of notes.
			c, err := s.Commit(t.Context(), []byte("note"), put(keystore.Slot{Collection: "c", ID: "a"}, strings.Repeat("x", rand.IntN(9000))))
			if err == nil && c.Revision%7 == 0 {
				err = s.Trim(t.Context(), c.Revision-rand.Uint64N(3), "count", bytes.Repeat([]byte("y"), 1+rand.IntN(9000)))
			}
			commits++
			anchored.Unlock()
			if err != nil {
				t.Errorf("commit: %v", err)
				return
			}
		}
	})
	peeks := 0
	for end := time.Now().Add(time.Duration(kit.Effort(1, 60)) * time.Second); time.Now().Before(end); peeks++ {
		found, err := bolt.Peek(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if anchor := found.Anchors["count"]; found.Pending > 9 || len(bytes.Trim(anchor, "y")) != 0 {
			t.Fatalf("%d notes, an anchor of %d bytes", found.Pending, len(anchor))
		}
		// Between commits it is exactly what the store says.
		if peeks%10 == 0 {
			anchored.Lock()
			found, err := bolt.Peek(t.Context(), path)
			n, pendingErr := s.Pending(t.Context())
			anchor, anchorErr := s.Anchor(t.Context(), "count")
			anchored.Unlock()
			if err != nil || pendingErr != nil || anchorErr != nil || n != found.Pending || !bytes.Equal(anchor, found.Anchors["count"]) {
				t.Fatalf("%d notes, the store has %d; %v %v %v", found.Pending, n, err, pendingErr, anchorErr)
			}
		}
	}
	close(stop)
	writers.Wait()
	if commits < 20 {
		t.Errorf("%d commits", commits)
	}
	kit.Count(t, "peeks beside commits", peeks)
}

// What is committed while a state is read may have gone over its pages: it is not
// believed, whatever was found.
func TestPeekIsOvertaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, dir)
	closing(t, s)
	mixed := 0
	for commits := range 12 {
		for i := range 20 {
			if _, err := s.Commit(t.Context(), []byte("note"), put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x")); err != nil {
				t.Fatal(err)
			}
		}
		before, err := s.Pending(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found, same, err := bolt.PeekBetween(path, func() {
			for range commits {
				if err := s.Trim(t.Context(), 1<<40, "a", bytes.Repeat([]byte("x"), 5000)); err != nil {
					t.Fatal(err)
				}
			}
		})
		if same != (commits == 0) {
			t.Errorf("after %d commits: believed %t", commits, same)
		}
		if same && (err != nil || found.Pending != before) {
			t.Errorf("%+v, %v, want %d notes", found, err, before)
		}
		if err != nil || found.Pending != before {
			mixed++
		}
	}
	kit.Count(t, "overtaken peeks that read another state", mixed)
}

// A file that is not a store, or damaged, is an error and never a crash.
func TestPeekAtDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, dir)
	for i := range 100 {
		if _, err := s.Commit(t.Context(), bytes.Repeat([]byte("n"), 200), put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Trim(t.Context(), 3, "a", []byte("anchor")); err != nil {
		t.Fatal(err)
	}
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
	refused := 0
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := bolt.Peek(t.Context(), path); err != nil || found.Pending != 97 {
		t.Fatalf("%+v, %v", found, err)
	}
	for range kit.Effort(400, 20_000) {
		damaged := bytes.Clone(content)
		for range 1 + rand.IntN(8) {
			damaged[rand.IntN(len(damaged))] = byte(rand.IntN(256))
		}
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Peek(t.Context(), path); err != nil {
			refused++
		}
	}
	kit.Count(t, "damaged stores refused by peek", refused)
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

package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

const removed = "what was removed from the store"

// used makes a store with records, notes, an anchor and many free pages.
func used(t testing.TB, dir string, records int) (file string) {
	t.Helper()
	s := open(t, dir)
	s.Protect(sealing{})
	for _, payload := range []string{removed, "stays "} {
		for i := 0; i < records; i += 8 {
			var ops []keystore.Op
			for n := range 8 {
				op := put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i + n)}, strings.Repeat(payload, 50))
				op.Index = []keystore.IndexEntry{{Name: "n", Value: fmt.Append(nil, -i)}}
				ops = append(ops, op)
			}
			if _, err := s.Commit(t.Context(), fmt.Append(nil, "note ", i), ops...); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := errors.Join(s.Trim(t.Context(), 2, map[string][]byte{"changes": []byte("anchor")}), s.Advance(t.Context(), 5000), s.Check(t.Context()), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "store.db")
}

// all is everything that a store of a stopped service says.
type all struct {
	Evidence keystore.Evidence
	Records  []keystore.Record
	Order    []string
	Count    int
}

func contentOf(t testing.TB, dir string) (found all) {
	t.Helper()
	s := open(t, dir)
	var err, listErr, countErr error
	found.Evidence, err = s.Inspect(t.Context(), func(r keystore.Record, unreadable error) error {
		found.Records = append(found.Records, r)
		return unreadable
	})
	items, listErr := s.List(t.Context(), keystore.Query{Collection: "c", Index: "n", Limit: 10_000})
	for _, item := range items {
		found.Order = append(found.Order, item.Slot.ID)
	}
	found.Count, countErr = s.Count(t.Context(), "c")
	if err := errors.Join(err, listErr, countErr, s.CheckIndexes(t.Context(), func(where string, err error) { t.Errorf("%s: %v", where, err) }), s.Close()); err != nil {
		t.Fatal(err)
	}
	return found
}

func wantNoTemp(t testing.TB, dir string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(dir, ".*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

// A compaction keeps everything but what was removed.
func TestCompact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := used(t, dir, 200)
	before := contentOf(t, dir)
	old, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(old, []byte(removed)) || len(before.Records) != 200 || len(before.Evidence.Notes) == 0 {
		t.Fatalf("a store that shows nothing: %d records, %v", len(before.Records), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "ended", bolt.Compact(ended, file, nil), context.Canceled)
	wantNoTemp(t, dir)
	if content, err := os.ReadFile(file); err != nil || !bytes.Equal(content, old) {
		t.Errorf("a compaction that was not made changed the file: %v", err)
	}
	if err := bolt.Compact(t.Context(), file, nil); err != nil {
		t.Fatal(err)
	}
	wantNoTemp(t, dir)
	content, err := os.ReadFile(file)
	if err != nil || bytes.Contains(content, []byte(removed)) || len(content) >= len(old) {
		t.Errorf("%d bytes instead of %d, with what was removed: %t, %v", len(content), len(old), bytes.Contains(content, []byte(removed)), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if after := contentOf(t, dir); !reflect.DeepEqual(after, before) {
		t.Error("the store says something else than before")
	}
	s := open(t, dir)
	closing(t, s)
	wantError(t, "in use", bolt.Compact(t.Context(), file, nil), bolt.ErrLocked)
	if r := mustCommit(t, s, put(a, "x")); r != 5001 {
		t.Errorf("revision %d", r)
	}
}

// A compaction that was asked for is made by the next Open that may, once.
func TestCompactAtOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := used(t, dir, 8)
	obstacle := filepath.Join(dir, ".compact-1.tmp")
	s := open(t, dir)
	for _, step := range []struct {
		name      string
		before    func() error
		may       bool
		due       bool
		log       string
		obstacles int
	}{
		{"nobody asked", func() error { return os.WriteFile(obstacle, nil, 0o600) }, true, false, "", 1},
		{"may not", func() error { return s.RequestCompaction(t.Context()) }, false, true, "", 1},
		{"fails", func() error {
			return errors.Join(os.Remove(obstacle), os.MkdirAll(filepath.Join(obstacle, "x"), 0o700))
		}, true, true, "was not compacted", 1},
		{"is made", func() error { return errors.Join(os.RemoveAll(obstacle), os.WriteFile(obstacle, nil, 0o600)) }, true, false, "is compacted", 0},
		{"once", func() error { return nil }, true, false, "", 0},
	} {
		if err := errors.Join(step.before(), s.Close()); err != nil {
			t.Fatal(err)
		}
		log, err := &bytes.Buffer{}, error(nil)
		s, err = bolt.Open(file, bolt.Options{Compact: step.may, Logger: slog.New(slog.NewTextHandler(log, nil))})
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, ".*.tmp"))
		if err != nil || len(left) != step.obstacles || s.CompactionDue() != step.due || !strings.Contains(log.String(), step.log) || (step.log == "") != (log.Len() == 0) {
			t.Errorf("%s: due %t, left %q, log %s", step.name, s.CompactionDue(), left, log)
		}
		mustCommit(t, s, put(a, step.name))
		wantPayload(t, s, a, step.name)
	}
	if err := s.Close(); err != nil || s.CompactionDue() {
		t.Errorf("Close: %v", err)
	}
	wantError(t, "RequestCompaction", s.RequestCompaction(t.Context()), keystore.ErrUnavailable)
}

// Who waits for the lock of the file that a compaction replaces does not write to it.
func TestCompactAgainstOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := used(t, dir, 8)
	done := make(chan error)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Second)
	defer stop()
	compactions, commits := 0, 0
	go func() {
		var err error
		for ctx.Err() == nil && (err == nil || errors.Is(err, bolt.ErrLocked)) {
			if err = bolt.Compact(t.Context(), file, nil); err == nil {
				compactions++
			}
		}
		done <- err
	}()
	for ctx.Err() == nil {
		s, err := bolt.Open(file, bolt.Options{})
		if errors.Is(err, bolt.ErrLocked) || errors.Is(err, keystore.ErrUnavailable) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, put(keystore.Slot{Collection: "d", ID: fmt.Sprint(commits)}, "x"))
		commits++
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil && !errors.Is(err, bolt.ErrLocked) {
		t.Errorf("Compact: %v", err)
	}
	s := open(t, dir)
	closing(t, s)
	if n, err := s.Count(t.Context(), "d"); err != nil || n != commits || compactions == 0 || commits == 0 {
		t.Errorf("%d of %d commits, %v, after %d compactions", n, commits, err, compactions)
	}
}

// compactFile names the file that TestCompactChild compacts, after "once:" or "repeat:".
const compactFile = "ATTESTCSR_TEST_COMPACT"

// TestCompactChild is a process of its own that compacts; alone it has nothing to do.
func TestCompactChild(t *testing.T) {
	how, file, found := strings.Cut(os.Getenv(compactFile), ":")
	if !found {
		return
	}
	for {
		if err := bolt.Compact(t.Context(), file, nil); err != nil {
			t.Fatal(err)
		}
		if how == "once" {
			return
		}
	}
}

func compacting(how, file string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCompactChild$")
	cmd.Env = append(os.Environ(), compactFile+"="+how+":"+file)
	return cmd
}

// A compaction that is killed, at whatever step, leaves a whole store.
func TestKilledCompaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := used(t, dir, 800)
	before := contentOf(t, dir)
	inode := func() os.FileInfo {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	child := func() (kill func()) {
		cmd := compacting("repeat", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return func() {
			err := cmd.Process.Kill()
			if waitErr := cmd.Wait(); err != nil || waitErr == nil {
				t.Fatalf("Kill: %v, %v", err, waitErr)
			}
		}
	}
	start, first := time.Now(), inode()
	kill := child()
	kit.Eventually(t, "a compaction", func() bool { return !os.SameFile(first, inode()) })
	once := time.Since(start)
	kill()
	replaced, left := 0, 0
	const kills = 20
	for i := range kills {
		old := inode()
		kill := child()
		time.Sleep(2 * once * time.Duration(i) / kills)
		kill()
		if temps, err := filepath.Glob(filepath.Join(dir, ".*.tmp")); err != nil || len(temps) > 0 {
			left++
		}
		if !os.SameFile(old, inode()) {
			replaced++
		}
		if after := contentOf(t, dir); !reflect.DeepEqual(after, before) {
			t.Fatalf("after kill %d the store says something else", i)
		}
	}
	t.Logf("%v for one; %d kills left a temporary file, %d came after a rename", once, left, replaced)
	if left == 0 || replaced == 0 {
		t.Error("no kill came within a compaction, or none after one")
	}
	if err := bolt.Compact(t.Context(), file, nil); err != nil {
		t.Error(err)
	}
	wantNoTemp(t, dir)
}

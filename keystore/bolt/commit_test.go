package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	a = keystore.Slot{Collection: "c", ID: "a"}
	b = keystore.Slot{Collection: "c", ID: "b"}
)

func put(at keystore.Slot, payload string) keystore.Op {
	return keystore.Op{Slot: at, Ref: keystore.Ref("ref"), Payload: []byte(payload)}
}

func mustCommit(t testing.TB, s *bolt.Store, ops ...keystore.Op) uint64 {
	t.Helper()
	c, err := s.Commit(t.Context(), nil, ops...)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return c.Revision
}

func wantPayload(t testing.TB, s *bolt.Store, at keystore.Slot, want string) {
	t.Helper()
	if r, err := s.Get(t.Context(), at); err != nil || string(r.Payload) != want {
		t.Errorf("%s: %q, %v, want %q", at, r.Payload, err, want)
	}
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func closing(t testing.TB, s *bolt.Store) {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
}

var errDisk = errors.New("input/output error")

// The commit fails before the meta page is written: the old state stays, nobody
// is refused.
func TestFailBefore(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	closing(t, s)
	mustCommit(t, s, put(a, "old"))
	for name, fail := range map[string]func(*bbolt.Tx) error{
		"error":    func(*bbolt.Tx) error { return errDisk },
		"rollback": func(tx *bbolt.Tx) error { return errors.Join(errDisk, tx.Rollback()) },
	} {
		s.Finish(fail)
		_, err := s.Commit(t.Context(), []byte("note"), put(a, "new"))
		wantError(t, name, err, keystore.ErrNotCommitted)
		wantError(t, name, err, errDisk)
		wantPayload(t, s, a, "old")
		wantError(t, name, s.Check(t.Context()), keystore.ErrNotCommitted)
		s.Finish(nil)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
	mustCommit(t, s, put(a, "new"))
	wantPayload(t, s, a, "new")
	if notes, err := s.Notes(); err != nil || len(notes) != 0 {
		t.Errorf("notes of commits that did not happen: %v, %v", notes, err)
	}
}

// The flush after the meta page fails. Whether the page got to the disk is known
// only to the disk: both cases, from the failure to the recovery.
func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	for _, persisted := range []bool{true, false} {
		t.Run(fmt.Sprintf("persisted %t", persisted), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "store.db")
			s := open(t, dir)
			closing(t, s)
			old := mustCommit(t, s, put(a, "old"))
			var before []byte
			change(t, file, func(_ *os.File, content []byte) error { before = content[:2*pageSize]; return nil }) // the meta pages
			s.Finish(func(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), errDisk) })
			_, err := s.Commit(t.Context(), nil, put(a, "new"))
			wantError(t, "Commit", err, keystore.ErrOutcomeUnknown)
			wantError(t, "Commit", err, errDisk)

			// Readers keep what they had.
			wantPayload(t, s, a, "old")
			s.Finish(func(*bbolt.Tx) error { return errDisk })
			// The next change tries to recover. While the disk still fails there is
			// nothing to be sure of, so readers get nothing; attempts are rationed.
			_, err = s.Commit(t.Context(), nil, put(b, "b"))
			wantError(t, "Commit while the disk fails", err, keystore.ErrUnavailable)
			wantError(t, "Check within the interval", s.Check(t.Context()), keystore.ErrUnavailable)
			_, err = s.Get(t.Context(), a)
			wantError(t, "Get after a failed recovery", err, keystore.ErrUnavailable)
			_, err = s.Inspect(t.Context(), nil)
			wantError(t, "Inspect", err, keystore.ErrUnavailable)

			if !persisted {
				// what the disk has
				change(t, file, func(f *os.File, _ []byte) error { _, err := f.WriteAt(before, 0); return err })
			}
			s.Finish(nil)
			s.RecoverNow()
			if err := s.Check(t.Context()); err != nil {
				t.Fatalf("Check: %v", err)
			}
			want := "old"
			if persisted {
				want = "new"
			}
			wantPayload(t, s, a, want)
			if r := mustCommit(t, s, put(b, "b")); r <= old {
				t.Errorf("revision %d after %d", r, old)
			}
			wantPayload(t, s, b, "b")
		})
	}
}

// The process ends while the outcome is unknown.
func TestCloseWhileBroken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	mustCommit(t, s, put(a, "old"))
	s.Finish(func(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), errDisk) })
	_, err := s.Commit(t.Context(), nil, put(a, "new"))
	wantError(t, "Commit", err, keystore.ErrOutcomeUnknown)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	s = open(t, dir)
	closing(t, s)
	wantPayload(t, s, a, "new")
}

// Commits that arrive while another is written go to disk together.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	closing(t, s)
	release := s.Hold()
	const callers = 32
	ctx, withdraw := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			op := put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x")
			switch i {
			case 0: // gives up before a leader takes it
				_, err := s.Commit(ctx, nil, op)
				wantError(t, "withdrawn", err, context.Canceled)
				wantError(t, "withdrawn", err, keystore.ErrNotCommitted)
			case 1: // fails its condition, and nobody else
				op.Expect = keystore.At(12345)
				_, err := s.Commit(t.Context(), nil, op)
				wantError(t, "condition", err, keystore.ErrConflict)
			default:
				if _, err := s.Commit(t.Context(), fmt.Append(nil, "note ", i), op); err != nil {
					t.Errorf("Commit: %v", err)
				}
			}
		})
	}
	kit.Eventually(t, "queued commits", func() bool { return s.Queued() == callers })
	withdraw()
	kit.Eventually(t, "queued commits", func() bool { return s.Queued() == callers-1 })
	release()
	wg.Wait()
	if n, err := s.Count(t.Context(), "c"); err != nil || n != callers-2 {
		t.Errorf("%d records, %v, want %d", n, err, callers-2)
	}
	notes, err := s.Notes()
	if err != nil || len(notes) != callers-2 {
		t.Errorf("%d notes, %v, want %d", len(notes), err, callers-2)
	}
	// Every note is under the revision of its own commit.
	for revision, note := range notes {
		id := strings.TrimPrefix(note, "note ")
		if r, err := s.Get(t.Context(), keystore.Slot{Collection: "c", ID: id}); err != nil || r.Revision != revision {
			t.Errorf("%q at revision %d, its record: %+v, %v", note, revision, r, err)
		}
	}
}

// Jobs of one batch see what those before them did. When the batch fails, a conflict
// with what did not happen is none.
func TestFailedBatch(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	closing(t, s)
	s.Finish(func(*bbolt.Tx) error { return errDisk })
	release := s.Hold()
	const callers = 8
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			op := put(a, fmt.Sprint(i))
			op.Expect = keystore.Absent
			_, err := s.Commit(t.Context(), nil, op)
			wantError(t, "in a failed batch", err, keystore.ErrNotCommitted)
		})
	}
	kit.Eventually(t, "queued commits", func() bool { return s.Queued() == callers })
	release()
	wg.Wait()
	s.Finish(nil)
}

// sealing is a guard whose codes say what they follow.
type sealing struct{}

func (sealing) Admit(keystore.Op) error { return nil }

func (sealing) Seal(previous []byte, _ uint64, note []byte) ([]byte, error) {
	return fmt.Appendf(nil, "%s<%x", note, crc32.ChecksumIEEE(previous)), nil
}

// The notes of a batch are a chain in the order of their revisions. A batch that failed
// is no part of it.
func TestChainOfBatches(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	closing(t, s)
	s.Protect(sealing{})
	for _, failing := range []bool{false, true, false} {
		if failing {
			s.Finish(func(*bbolt.Tx) error { return errDisk })
		}
		release := s.Hold()
		const callers = 8
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				op := put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, "x")
				if i == 3 {
					op.Expect = keystore.At(12345)
				}
				if _, err := s.Commit(t.Context(), fmt.Append(nil, i), op); (err == nil) != (i != 3 && !failing) {
					t.Errorf("Commit %d: %v", i, err)
				}
			})
		}
		kit.Eventually(t, "queued commits", func() bool { return s.Queued() == callers })
		release()
		wg.Wait()
		s.Finish(nil)
	}
	found, err := s.Inspect(t.Context(), nil)
	if err != nil || len(found.Notes) != 14 || found.Notes[13].Revision != found.Revision {
		t.Fatalf("%d notes, %v", len(found.Notes), err)
	}
	var head []byte
	for _, n := range found.Notes {
		if want := fmt.Sprintf("%s<%x", n.Text, crc32.ChecksumIEEE(head)); !bytes.Equal(n.Previous, head) || string(n.Code) != want {
			t.Errorf("note %d: %q after %q, want %q", n.Revision, n.Code, n.Previous, want)
		}
		head = n.Code
	}
	if !bytes.Equal(found.Head, head) {
		t.Errorf("head %q, want %q", found.Head, head)
	}
}

// Close lets the commit under way end and refuses the queue.
func TestCloseDuringCommits(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				_, err := s.Commit(t.Context(), nil, put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}, fmt.Sprint(n)))
				if err != nil {
					wantError(t, "Commit", err, keystore.ErrUnavailable)
					return
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	wg.Wait()
}

// Readers never wait for a disk: they read while a commit is being flushed, and
// see the state before it.
func TestReadDuringFlush(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	closing(t, s)
	mustCommit(t, s, put(a, "old"))
	flushing, flushed := make(chan struct{}), make(chan struct{})
	s.Finish(func(tx *bbolt.Tx) error {
		err := tx.Commit() // in the page cache, visible to bbolt
		close(flushing)
		<-flushed
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() { mustCommit(t, s, put(a, "new")) })
	<-flushing
	wantPayload(t, s, a, "old")
	close(flushed)
	wg.Wait()
	wantPayload(t, s, a, "new")
	s.Finish(nil)
}

// A full store refuses records, keeps what it has and still deletes, which makes
// room again.
func TestFull(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "store.db")
	const maxSize = 128 << 20
	s, err := bolt.OpenSmall(file, maxSize)
	if err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	payload := strings.Repeat("x", keystore.MaxPayloadLen)
	slot := func(i int) keystore.Slot { return keystore.Slot{Collection: "c", ID: fmt.Sprint(i)} }
	stored := 0
	for ; stored <= maxSize>>20; stored += 8 {
		var ops []keystore.Op
		for i := range 8 {
			ops = append(ops, put(slot(stored+i), payload))
		}
		if _, err = s.Commit(t.Context(), nil, ops...); err != nil {
			break
		}
	}
	wantError(t, "Commit", err, keystore.ErrNotCommitted)
	if err == nil || !strings.Contains(err.Error(), "full") || stored < 24 {
		t.Fatalf("%d records stored, then %v", stored, err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() > maxSize {
		t.Errorf("the file has grown to %d bytes, %v", info.Size(), err)
	}
	if n, err := s.Count(t.Context(), "c"); err != nil || n != stored {
		t.Errorf("%d records, %v, want %d", n, err, stored)
	}
	if err := s.Check(t.Context()); err != nil { // a create is smaller
		t.Errorf("Check: %v", err)
	}
	// Smaller ones find room for a while. Pages that a commit gave up are free after the next.
	for i, refused := 0, 0; i <= maxSize>>19 && refused < 3; i++ {
		refused++
		if _, err = s.Commit(t.Context(), nil, put(slot(1000+i), payload[:1<<19])); err == nil {
			refused = 0
		}
	}
	for what, err := range map[string]error{"Check": s.Check(t.Context()), "a note alone": commitNote(t, s)} {
		if !errors.Is(err, keystore.ErrNotCommitted) || !strings.Contains(err.Error(), "full") {
			t.Errorf("%s in a full store: %v", what, err)
		}
	}
	if err := s.Trim(t.Context(), 1, map[string][]byte{"changes": []byte("anchor")}); err != nil {
		t.Errorf("Trim: %v", err)
	}
	for i := range stored / 2 {
		if _, err := s.Commit(t.Context(), []byte("note"), keystore.Op{Slot: slot(i), Delete: true}); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if err := errors.Join(s.Check(t.Context()), commitNote(t, s)); err != nil {
		t.Errorf("after deletions: %v", err)
	}
	mustCommit(t, s, put(a, payload))
	wantPayload(t, s, a, payload)
}

func commitNote(t *testing.T, s *bolt.Store) error {
	_, err := s.Commit(t.Context(), []byte("alone"))
	return err
}

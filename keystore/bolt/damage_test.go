package bolt_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

const pageSize = 4096

// usedPart returns a file up to eight pages after the last one that holds something:
// bbolt makes files larger than they need to be.
func usedPart(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	used := (len(bytes.TrimRight(content, "\x00"))-1)/pageSize + 1
	return content[:min(len(content), (used+8)*pageSize)]
}

// A record of which any bit is wrong, in its key or its value, is found by Open: it
// is not taken for one that was never there.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	slot := func(n int) keystore.Slot {
		return keystore.Slot{Collection: "esx-collection", ID: fmt.Sprintf("id-%03d-name", n)}
	}
	for _, records := range []int{2, 300} { // 300 are in several pages
		dir := t.TempDir()
		file := filepath.Join(dir, "store.db")
		s := open(t, dir)
		var ops []keystore.Op
		for n := range records {
			ops = append(ops, put(slot(n), fmt.Sprintf("payload %03d", n)))
		}
		for some := range slices.Chunk(ops, keystore.MaxOpsPerCommit) {
			mustCommit(t, s, some...)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		whole := usedPart(t, file)
		tried := 0
		for n := 0; n < records; n += 1 + records/3 {
			for _, text := range []string{"resx-collection\x00" + slot(n).ID, fmt.Sprintf("payload %03d", n)} {
				if !bytes.Contains(whole, []byte(text)) {
					t.Fatal("there is nothing to damage")
				}
				for i := n % 3; i < len(text); i += kit.Effort(3, 1) {
					tried++
					damaged := []byte(text)
					damaged[i] ^= 1 << ((n + i) % 8)
					// Pages that are free hold the text, too.
					if err := os.WriteFile(file, bytes.ReplaceAll(whole, []byte(text), damaged), 0o600); err != nil {
						t.Fatal(err)
					}
					if s, err := bolt.Open(file, bolt.Options{}); err == nil {
						t.Errorf("%q instead of %q: the store opens", damaged, text)
						_ = s.Close()
					} else if !strings.Contains(err.Error(), file+" is damaged: restore a backup") {
						t.Errorf("%q instead of %q: %v", damaged, text, err)
					}
				}
			}
		}
		kit.Count(t, "damaged records tried", tried)
	}
}

// inUse are damages to a file that is open, whose record a has this payload.
func inUse(payload string) map[string]func(f *os.File, content []byte) error {
	return map[string]func(f *os.File, content []byte) error{
		"a bit of a record": func(f *os.File, content []byte) error {
			for at := 0; ; at++ { // also where the record was before the last commit
				next := bytes.Index(content[at:], []byte(payload))
				if next < 0 {
					return nil
				}
				at += next
				if _, err := f.WriteAt([]byte{payload[0] ^ 1}, int64(at)); err != nil {
					return err
				}
			}
		},
		"all pages but the meta pages": func(f *os.File, content []byte) error {
			_, err := f.WriteAt(bytes.Repeat([]byte{0xA5}, len(content)-2*pageSize), 2*pageSize)
			return err
		},
		"both meta pages": func(f *os.File, _ []byte) error {
			_, err := f.WriteAt(make([]byte, 2*pageSize), 0)
			return err
		},
		"cut short": func(f *os.File, _ []byte) error { return f.Truncate(0) }, // a memory fault
	}
}

// A store that finds damage while it is in use ends readiness, takes no more commits
// and says what to do. What is whole can still be read. The next start refuses the
// file.
func TestDamageInUse(t *testing.T) {
	t.Parallel()
	const payload = "to be damaged"
	for name, damage := range inUse(payload) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "store.db")
			log := &kit.Buffer{}
			s, err := bolt.Open(file, bolt.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			mustCommit(t, s, put(a, payload))
			mustCommit(t, s, put(b, "whole"))
			change(t, file, damage)

			_, getErr := s.Get(t.Context(), a)
			_, commitErr := s.Commit(t.Context(), nil, put(a, "new"))
			if getErr == nil && commitErr == nil || errors.Is(getErr, keystore.ErrNotFound) {
				t.Errorf("Get: %v, Commit: %v", getErr, commitErr)
			}
			for range 2 {
				_, err := s.Commit(t.Context(), nil, put(b, "new"))
				wantError(t, "Commit", err, keystore.ErrUnavailable)
				_, err = s.Inspect(t.Context(), nil)
				wantError(t, "Inspect", err, keystore.ErrUnavailable)
				err = s.Check(t.Context())
				wantError(t, "Check", err, keystore.ErrUnavailable)
				if err == nil || !strings.Contains(err.Error(), "restart the service") {
					t.Errorf("Check: %v", err)
				}
			}
			if n := strings.Count(log.String(), "restart the service"); n != 1 {
				t.Errorf("the log says %d times what to do:\n%s", n, log)
			}
			if name == "a bit of a record" {
				wantPayload(t, s, b, "whole")
			}
			_ = s.Close() // may fail, must return
			_, err = s.Get(t.Context(), b)
			wantError(t, "Get after Close", err, keystore.ErrUnavailable)
			if _, err := bolt.Open(file, bolt.Options{}); err == nil || errors.Is(err, bolt.ErrLocked) {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

// Where the page that shows the newest commit is damaged, bbolt goes on from the
// commit before. A store in use refuses to undo what was acknowledged.
func TestNewestCommitGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	mustCommit(t, s, put(a, "old"))
	mustCommit(t, s, put(a, "new"))
	id := 0
	if err := s.DB().View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	change(t, filepath.Join(dir, "store.db"), func(f *os.File, _ []byte) error {
		_, err := f.WriteAt(make([]byte, 512), int64(id%2*pageSize))
		return err
	})
	_, err := s.Commit(t.Context(), nil, put(b, "x"))
	wantError(t, "Commit", err, keystore.ErrNotCommitted)
	wantError(t, "Check", s.Check(t.Context()), keystore.ErrUnavailable)
	wantPayload(t, s, a, "new")
	_ = s.Close() // may fail, must return
}

// change changes a file that may be open elsewhere.
func change(t *testing.T, file string, fn func(f *os.File, content []byte) error) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fn(f, content), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// bbolt panics in the middle of a commit: whether it happened is unknown, and its
// memory is not to be trusted until the service is restarted.
func TestPanicInCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	mustCommit(t, s, put(a, "old"))
	s.Finish(func(*bbolt.Tx) error { panic("page 7: not what it should be") })
	_, err := s.Commit(t.Context(), nil, put(a, "new"))
	wantError(t, "Commit", err, keystore.ErrOutcomeUnknown)
	s.Finish(nil)
	wantPayload(t, s, a, "old")
	s.RecoverNow()
	_, err = s.Commit(t.Context(), nil, put(a, "newer"))
	wantError(t, "Commit", err, keystore.ErrUnavailable)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	s = open(t, dir)
	closing(t, s)
	wantPayload(t, s, a, "old")
	mustCommit(t, s, put(a, "newer"))
}

package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

func TestLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closing(t, open(t, dir))
	file := filepath.Join(dir, "store.db")
	_, err := bolt.Open(file, bolt.Options{})
	wantError(t, "a second process", err, bolt.ErrLocked)
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error does not name the file: %v", err)
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closing(t, open(t, dir))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left in the folder: %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := bolt.Open(filepath.Join(dir, "no", "such", "folder"), bolt.Options{}); err == nil {
		t.Error("a store in a folder that does not exist")
	}
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode            os.FileMode
		refused, warned bool
	}{{0o600, false, false}, {0o640, false, true}, {0o660, false, true}, {0o604, true, false}, {0o602, true, false}} {
		dir := t.TempDir()
		if err := open(t, dir).Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "store.db")
		if err := os.Chmod(file, test.mode); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s, err := bolt.Open(file, bolt.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if (err != nil) != test.refused {
			t.Errorf("%#o: %v", test.mode, err)
		}
		if warned := strings.Contains(log.String(), "level=WARN"); warned != test.warned {
			t.Errorf("%#o: log %q", test.mode, log.String())
		}
		if s != nil {
			closing(t, s)
		}
	}
}

// inBolt changes a file through bbolt.
func inBolt(change func(*bbolt.Tx) error) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		db, err := bbolt.Open(file, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(db.Update(change), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func format(n uint32) func(*testing.T, string) {
	return inBolt(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), binary.BigEndian.AppendUint32(nil, n))
	})
}

func content(b []byte) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A file that is not a store, or not one for this version, is refused with what
// to do about it, and is left as it was.
func TestRefusedFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*testing.T, string)
		want   string
	}{
		{"text", content([]byte(strings.Repeat("not a store\n", 2000))), "is not a key store"},
		{"short", content([]byte("x")), "is not a key store"},
		{"zeros", content(make([]byte, 1<<16)), "is not a key store"},
		{"empty", content(nil), "is empty"},
		{"another bbolt file", func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			inBolt(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err })(t, file)
		}, "is not a key store"},
		{"no slots", inBolt(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("slots")) }), "is not a key store"},
		{"no revision", inBolt(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("revision")) }), "is not a key store"},
		{"newer", format(4), "was written by a newer attestcsr (format 4, this one reads 3): upgrade"},
		{"older", format(2), "is not a key store"},
		{"folder", func(t *testing.T, file string) {
			if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := open(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "store.db")
			test.change(t, file)
			before, _ := os.ReadFile(file)
			s, err := bolt.Open(file, bolt.Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) || s != nil {
				t.Fatalf("Open: %v, want %q", err, test.want)
			}
			if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// crashed copies a store as a crash leaves it: without the free list that a clean
// Close writes.
func crashed(t *testing.T, s *bolt.Store, from, to string) {
	t.Helper()
	release := s.Hold()
	defer release()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// After a crash, and after a clean stop, the store opens with all it had.
func TestOpenAfterCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 50 {
		mustCommit(t, s, put(keystore.Slot{Collection: "c", ID: fmt.Sprint(i % 20)}, fmt.Sprint(i)))
	}
	file := filepath.Join(dir, "crashed.db")
	crashed(t, s, filepath.Join(dir, "store.db"), file)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := bolt.Open(file, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i := 30; i < 50; i++ {
			wantPayload(t, c, keystore.Slot{Collection: "c", ID: fmt.Sprint(i % 20)}, fmt.Sprint(i))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A clean stop writes the free list, and pages are used again after the next open.
func TestFileDoesNotGrow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var sizes []int64
	for range 6 {
		s := open(t, dir)
		for i := range 40 {
			mustCommit(t, s, put(a, strings.Repeat("x", 3000+i)))
		}
		if err := s.DB().View(func(tx *bbolt.Tx) error { sizes = append(sizes, tx.Size()); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if last := sizes[len(sizes)-1]; last > sizes[1]+4*4096 {
		t.Errorf("the store grows although it holds one record: %v", sizes)
	}
}

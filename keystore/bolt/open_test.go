package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

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
		{"newer", format(5), "was written by a newer attestcsr (format 5, this one reads 4): upgrade"},
		{"older", format(2), "is not a key store"},
		{"cut short", func(t *testing.T, file string) {
			if err := os.Truncate(file, 3*pageSize); err != nil {
				t.Fatal(err)
			}
		}, "is damaged: restore a backup"},
		{"readable by others", func(t *testing.T, file string) {
			if err := os.Chmod(file, 0o604); err != nil {
				t.Fatal(err)
			}
		}, "is accessible to others"},
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

//go:build tools

package keystore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

// smallDisk is a file system of its own, of a few megabytes.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("attestcsr-test", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that a file system has, in a file that it names.
func fill(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return filler
}

// A file system that is full ends readiness with the first change or check that it
// refuses. The service is ready again when there is room.
func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fixture) error{
		"create": func(f *fixture) error {
			var err error
			for n := 0; n < 200 && err == nil; n++ { // the first ones find free pages
				_, err = f.Replace(t.Context(), keystore.Target{Slot: numbered(n)}, spec, publicKey)
			}
			return err
		},
		"line":  func(f *fixture) error { return f.Note(t.Context(), make([]byte, 4096)) },
		"check": nil,
	} {
		t.Run(name, func(t *testing.T) { fullFileSystem(t, change) })
	}
}

// fullFileSystem makes a change on a full file system; nil: readiness is asked alone.
func fullFileSystem(t *testing.T, change func(*fixture) error) {
	t.Helper()
	dir := smallDisk(t)
	f := openFixture(t, func(o *keystore.Options) {
		if err := o.Store.Close(); err != nil {
			t.Fatal(err)
		}
		store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Store = store
	})
	f.mustReplace(t, a)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	filler := fill(t, dir)
	if change == nil {
		time.Sleep(1100 * time.Millisecond) // the check before is too old then
	} else {
		wantError(t, "a change on a full file system", change(f), unix.ENOSPC)
	}
	wantError(t, "Ready at once", f.Ready(t.Context()), unix.ENOSPC)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "ready again", func() bool { time.Sleep(100 * time.Millisecond); return f.Ready(t.Context()) == nil })
	f.mustReplace(t, b)
	if lost, found := strings.Count(f.log.String(), "no space left:"), strings.Count(f.log.String(), "space again"); lost != 1 || found != 1 {
		t.Errorf("log: %s", f.log)
	}
}

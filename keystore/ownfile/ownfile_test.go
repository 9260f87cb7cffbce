package ownfile_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/keystore/ownfile"
)

func TestModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode            os.FileMode
		refused, warned bool
	}{
		{0o600, false, false}, {0o400, false, false},
		{0o640, false, true}, {0o660, false, true}, {0o610, false, true},
		{0o604, true, false}, {0o644, true, false}, {0o602, true, false}, {0o601, true, false},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		content, err := ownfile.Read(path, 7, slog.New(slog.NewTextHandler(&log, nil)))
		if c.refused != (err != nil) || c.refused && (content != nil || !strings.Contains(err.Error(), path)) {
			t.Errorf("%#o: %q %v", c.mode, content, err)
		}
		if warned := strings.Contains(log.String(), path); warned != c.warned {
			t.Errorf("%#o: warned %v: %s", c.mode, warned, &log)
		}
	}
}

func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := ownfile.Replace(path, []byte("12345678")); err != nil {
		t.Fatal(err)
	}
	if content, err := ownfile.Read(path, 7, slog.New(slog.DiscardHandler)); err == nil || content != nil {
		t.Errorf("%q %v", content, err)
	}
	if _, err := ownfile.Read(filepath.Dir(path), 7, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a directory was read")
	}
}

func TestReplaceAndCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	want := func(content string) {
		t.Helper()
		got, err := ownfile.Read(path, 100, slog.New(slog.DiscardHandler))
		if err != nil || string(got) != content {
			t.Errorf("%q %v, want %q", got, err, content)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("left behind: %v %v", entries, err)
		}
	}
	for _, step := range []struct {
		write         func(string, []byte) error
		content, want string
	}{
		{ownfile.Create, "one", "one"}, {ownfile.Create, "two", "one"}, {ownfile.Replace, "three", "three"},
	} {
		if err := step.write(path, []byte(step.content)); err != nil {
			t.Fatal(err)
		}
		want(step.want)
	}
}

// What root writes belongs to whom the store beside it belongs to, or the file before.
func TestRootAdopts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const service, another = 54321, 54322
	dir := t.TempDir()
	path, store := filepath.Join(dir, "file"), filepath.Join(dir, "attestcsr.db")
	give := func(path string, uid int, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, uid, uid), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(uid uint32, mode os.FileMode) {
		t.Helper()
		if err := ownfile.Replace(path, []byte("content")); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if stat, is := info.Sys().(*syscall.Stat_t); !is || stat.Uid != uid || stat.Gid != uid || info.Mode().Perm() != mode {
			t.Errorf("%v %+v, want %d %v", info.Mode(), stat, uid, mode)
		}
	}
	want(0, 0o600)
	give(path, another, 0o640)
	want(another, 0o640)
	give(store, service, 0o666)
	want(service, 0o660) // never for others
}

// Only temporary files that nobody writes any more are swept.
func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hoursAgo := time.Now().Add(-2 * time.Hour)
	for name, old := range map[string]bool{
		".store-1.tmp": true, ".tls-key.pem-22.tmp": true, // these two go
		".store-2.tmp": false, "store-1.tmp": true, ".store-1.tmp.bak": true, "attestcsr.db": true,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old {
			if err := os.Chtimes(path, hoursAgo, hoursAgo); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := ownfile.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{".store-1.tmp.bak", ".store-2.tmp", "attestcsr.db", "store-1.tmp"}
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q, %v", left, want, err)
	}
	if err := ownfile.Sweep(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a directory that is not there was swept")
	}
}

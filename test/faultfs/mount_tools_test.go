//go:build tools

package faultfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"attestcsr/test/faultfs"
)

// childVariable makes TestChild do what it names on the folder that follows it.
const childVariable = "ATTESTCSR_FAULTFS_CHILD"

// run lets a process of its own work on the disk: this one serves it.
func run(t *testing.T, d *faultfs.Disk, what string) string {
	t.Helper()
	point := t.TempDir()
	m, err := d.Mount(point)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childVariable+"="+what+":"+point)
	out, err := cmd.CombinedOutput()
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, out)
	}
	return string(out)
}

// TestChild is the process; on its own it has nothing to do.
func TestChild(t *testing.T) {
	what, dir, found := strings.Cut(os.Getenv(childVariable), ":")
	if !found {
		return
	}
	if err := map[string]func(string) error{"everything": everything, "stale": stale}[what](dir); err != nil {
		t.Fatal(err)
	}
}

// everything is what processes do with files.
func everything(dir string) (err error) {
	in := func(name string) string { return filepath.Join(dir, name) }
	f, err := os.OpenFile(in("a"), os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	other, err := os.OpenFile(in("a"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	err = errors.Join(syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB), f.Truncate(3*4096))
	if locked := syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(locked, syscall.EWOULDBLOCK) {
		err = errors.Join(err, fmt.Errorf("a second lock: %w", locked))
	}
	mapped, mapErr := unix.Mmap(fd, 0, 3*4096, unix.PROT_READ, unix.MAP_SHARED)
	if err := errors.Join(err, mapErr); err != nil {
		return err
	}
	for i := range 3 { // a mapping sees writes, before and after it was looked at
		text := fmt.Sprint("page ", i)
		if _, err := f.WriteAt([]byte(text), int64(i)*4096); err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte("again "), 4096); err != nil {
			return err
		}
		if !bytes.HasPrefix(mapped[i*4096:], []byte(map[bool]string{true: "again ", false: text}[i == 1])) {
			return fmt.Errorf("the mapping shows %q", mapped[i*4096:][:10])
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(fd, 0, 0, 4*4096), unix.Munmap(mapped),
		f.Sync(), syscall.Fdatasync(fd), os.Mkdir(in("sub"), 0o700), os.Link(in("a"), in("sub/b")), d.Sync(),
		os.WriteFile(in("c"), []byte("c"), 0o600), os.Rename(in("c"), in("sub/c")), os.Chmod(in("sub/c"), 0o400),
		os.Remove(in("a")), f.Close(), other.Close(), d.Close(), os.Mkdir(in("gone"), 0o700), os.Remove(in("gone")))
}

func TestMount(t *testing.T) {
	t.Parallel()
	d := faultfs.NewDisk()
	run(t, d, "everything")
	for _, kind := range faultfs.Changes() {
		if len(d.Operations(kind)) == 0 {
			t.Errorf("no %s was seen", kind)
		}
	}
	if n := len(d.Operations(faultfs.Flush)); n != 2 {
		t.Errorf("%d flushes were seen, want 2", n)
	}
	to := t.TempDir()
	if err := d.Save(to); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(to, "sub", "b"))
	if err != nil || len(b) != 4*4096 || !bytes.HasPrefix(b[4096:], []byte("again ")) {
		t.Errorf("b: %d bytes, %v", len(b), err)
	}
	if info, err := os.Stat(filepath.Join(to, "sub", "c")); err != nil || info.Mode() != 0o400 {
		t.Errorf("c: %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(to)
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// stale reads after a flush that failed: through the page cache, and past it.
func stale(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	first, again := make([]byte, 3), make([]byte, 3)
	if _, err := f.ReadAt(first, 0); err != nil || string(first) != "old" {
		return fmt.Errorf("at first %q, %w", first, err)
	}
	if _, err := f.WriteAt([]byte("new"), 0); err != nil {
		return err
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("flush: %w", err)
	}
	err = f.Sync()
	if _, readErr := f.ReadAt(first, 0); readErr != nil || string(first) != "new" {
		return fmt.Errorf("through the page cache %q, %w", first, readErr)
	}
	err = errors.Join(err, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if _, readErr := f.ReadAt(again, 0); readErr != nil || string(again) != "old" {
		return fmt.Errorf("past the page cache %q, %w", again, readErr)
	}
	return errors.Join(err, f.Close())
}

// A flush that failed is as bad as on Linux: the page cache shows what the disk
// has not got, and the next flush says that all is well.
func TestStalePageCache(t *testing.T) {
	t.Parallel()
	from := t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "a"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := faultfs.Load(from)
	if err != nil {
		t.Fatal(err)
	}
	d.Arm(faultfs.IOError, 2, faultfs.Nothing(), nil) // after the write
	run(t, d, "stale")
	if _, fired := d.Fired(); !fired {
		t.Error("the fault did not fire")
	}
}

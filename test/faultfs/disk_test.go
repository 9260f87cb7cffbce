package faultfs_test

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
)

const pageSize = 4096

func must(t *testing.T, errs ...syscall.Errno) {
	t.Helper()
	for _, err := range errs {
		if err != 0 {
			t.Fatal(err)
		}
	}
}

func mustWrite(t *testing.T, d *faultfs.Disk, name, text string, off int64) {
	t.Helper()
	if n, err := d.WriteAt(name, text, off); n != len(text) || err != 0 {
		t.Fatalf("%d written, %v", n, err)
	}
}

func wantFiles(t *testing.T, what string, d *faultfs.Disk, want map[string]string) {
	t.Helper()
	if got := d.Files(); !maps.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// A name is kept when its directory was flushed, bytes when their file was, and
// neither does the other's work.
func TestCut(t *testing.T) {
	t.Parallel()
	d := faultfs.NewDisk()
	must(t, d.CreateFile("a"))
	mustWrite(t, d, "a", "old", 0)
	wantFiles(t, "nothing flushed", d.Cut(faultfs.Nothing()), map[string]string{})
	must(t, d.SyncRoot())
	wantFiles(t, "the name flushed", d.Cut(faultfs.Nothing()), map[string]string{"a": ""})
	must(t, d.Sync("a"))
	wantFiles(t, "both flushed", d.Cut(faultfs.Nothing()), map[string]string{"a": "old"})

	mustWrite(t, d, "a", "NEW", 0)
	mustWrite(t, d, "a", "er", 3)
	must(t, d.CreateFile("b"))
	mustWrite(t, d, "b", "b", 0)
	must(t, d.Sync("b"), d.RenameFile("b", "c"))
	wantFiles(t, "writes and a rename", d.Cut(faultfs.Nothing()), map[string]string{"a": "old"})
	wantFiles(t, "all of it got there", d.Cut(faultfs.Everything()), map[string]string{"a": "NEWer", "c": "b"})
	must(t, d.SyncRoot(), d.Remove("c"))
	wantFiles(t, "an unlink", d.Cut(faultfs.Nothing()), map[string]string{"a": "old", "c": "b"})
	wantFiles(t, "what processes see", d, map[string]string{"a": "NEWer"})
	if got := d.Unflushed(); len(got) != 2 {
		t.Errorf("unflushed: %q", got)
	}

	// Every subset of two writes and an unlink can be what is left.
	found := map[string]bool{}
	for seed := range uint64(300) {
		after := d.Cut(faultfs.Some(seed)).Files()
		found[after["a"]+"/"+after["c"]] = true
	}
	want := []string{"NEW/", "NEW/b", "NEWer/", "NEWer/b", "old/", "old/b", "older/", "older/b"}
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
		t.Errorf("cuts leave %q, want %q", got, want)
	}
	wantFiles(t, "a seed, twice", d.Cut(faultfs.Some(7)), d.Cut(faultfs.Some(7)).Files())
}

// A write over several sectors can be torn between them and nowhere else.
func TestTornWrite(t *testing.T) {
	t.Parallel()
	d := faultfs.NewDisk()
	must(t, d.CreateFile("a"))
	mustWrite(t, d, "a", strings.Repeat("o", 3*pageSize), 0)
	must(t, d.Sync("a"), d.SyncRoot())
	mustWrite(t, d, "a", strings.Repeat("n", 2*pageSize), 700)
	torn := map[int]int{}
	for seed := range uint64(200) {
		text := d.Cut(faultfs.Some(seed)).Files()["a"]
		for i := 1; i < len(text); i++ {
			switch {
			case text[i] == text[i-1] || i == 700 || i == 700+2*pageSize:
			case i%pageSize == 0:
				torn[pageSize]++
			case i%512 == 0:
				torn[512]++
			default:
				t.Fatalf("torn at %d", i)
			}
		}
	}
	if torn[512] == 0 || torn[pageSize] == 0 {
		t.Errorf("torn: %v", torn)
	}
}

// After a flush that failed, the disk shows what it got, and a later flush that
// succeeds does not bring the rest.
func TestFailedFlush(t *testing.T) {
	t.Parallel()
	d := faultfs.NewDisk()
	must(t, d.CreateFile("a"))
	mustWrite(t, d, "a", "old", 0)
	must(t, d.Sync("a"), d.SyncRoot())
	mustWrite(t, d, "a", "newer", 0)
	d.Arm(faultfs.IOError, 1, faultfs.Nothing(), nil)
	if err := d.Sync("a"); err != syscall.EIO {
		t.Fatalf("flush: %v", err)
	}
	if o, fired := d.Fired(); !fired || o != (faultfs.Operation{Kind: faultfs.Flush, Path: "a"}) {
		t.Errorf("fired %t: %s", fired, o)
	}
	must(t, d.Sync("a"))
	wantFiles(t, "after the next flush", d.Cut(faultfs.Nothing()), map[string]string{"a": "old\x00\x00"})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	work := func(d *faultfs.Disk) (errs []syscall.Errno) {
		if err := d.CreateFile("a"); err != 0 {
			return []syscall.Errno{err}
		}
		for _, text := range []string{"12", "34"} {
			n, err := d.Append("a", text)
			if err == 0 && n < len(text) {
				_, err = d.Append("a", text[n:])
			}
			errs = append(errs, err)
		}
		return append(errs, d.Sync("a"), d.SyncRoot())
	}
	const eio, full = syscall.EIO, syscall.ENOSPC
	for _, test := range []struct {
		fault faultfs.Fault
		n     int
		met   faultfs.Kind
		want  []syscall.Errno
		left  string
	}{
		{faultfs.IOError, 1, faultfs.Create, []syscall.Errno{eio}, ""},
		{faultfs.NoSpace, 3, faultfs.Write, []syscall.Errno{0, full, 0, 0}, "12"},
		{faultfs.ShortWrite, 2, faultfs.Write, []syscall.Errno{0, full, 0, 0}, "123"},
		{faultfs.IOError, 5, faultfs.FlushDir, []syscall.Errno{0, 0, 0, eio}, "1234"},
		{faultfs.Kill, 3, faultfs.Write, []syscall.Errno{0, eio, eio, eio}, "12"},
	} {
		d := faultfs.NewDisk()
		killed := 0
		d.Arm(test.fault, test.n, faultfs.Nothing(), func() { killed++ })
		if got := work(d); !slices.Equal(got, test.want) {
			t.Errorf("%s at %d: %v, want %v", test.fault, test.n, got, test.want)
		}
		if o, fired := d.Fired(); !fired || o.Kind != test.met {
			t.Errorf("%s at %d: fired %t at %s", test.fault, test.n, fired, o)
		}
		if got := d.Files()["a"]; got != test.left {
			t.Errorf("%s at %d leaves %q, want %q", test.fault, test.n, got, test.left)
		}
		if (killed == 1) != (test.fault == faultfs.Kill) {
			t.Errorf("%s: killed %d times", test.fault, killed)
		}
	}
	d := faultfs.NewDisk()
	d.Arm(faultfs.IOError, 6, faultfs.Nothing(), nil)
	work(d)
	if _, fired := d.Fired(); fired {
		t.Error("a fault fired at an operation that did not come")
	}
	d.Refuse(syscall.EROFS, faultfs.Changes()...)
	if got := work(d); !slices.Equal(got, []syscall.Errno{syscall.EROFS}) || d.Refusals() != 1 {
		t.Errorf("read-only: %v, %d refusals", got, d.Refusals())
	}
}

// Contents are those of an array of bytes, whatever is done to them.
func TestContent(t *testing.T) {
	t.Parallel()
	const limit = 5 * pageSize
	changes := kit.Effort(3000, 300_000)
	random := rand.New(rand.NewPCG(1, 2))
	var c faultfs.Content
	var want []byte
	for i := range changes {
		before, was := c.Copy(), want
		off := random.IntN(limit)
		if random.IntN(4) == 0 {
			c.Truncate(int64(off))
			want = slices.Concat(want[:min(len(want), off)], make([]byte, max(0, off-len(want))))
		} else {
			p := bytes.Repeat([]byte{byte(i)}, 1+random.IntN(2*pageSize))
			c.WriteAt(p, int64(off))
			want = slices.Concat(want, make([]byte, max(0, off+len(p)-len(want))))
			copy(want[off:], p)
		}
		if got := c.Bytes(); !bytes.Equal(got, want) {
			t.Fatalf("after %d changes: %d bytes, want %d", i, len(got), len(want))
		}
		if !bytes.Equal(before.Bytes(), was) {
			t.Fatalf("change %d changed a copy", i)
		}
	}
	kit.Count(t, "changes of file contents", changes)
}

func TestLoadAndSave(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	sparse := make([]byte, 3*pageSize+7)
	copy(sparse[pageSize:], "middle")
	for name, text := range map[string]string{"a": "text", "dir/b": string(sparse), "dir/empty": ""} {
		name = filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	d, err := faultfs.Load(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Cut(faultfs.Nothing()).Save(to); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a": "text", "dir/b": string(sparse), "dir/empty": ""} {
		got, err := os.ReadFile(filepath.Join(to, name))
		if err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if info, err := os.Stat(filepath.Join(to, name)); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

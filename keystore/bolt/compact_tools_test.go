//go:build tools

package bolt_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
)

// compactOn compacts the store of a folder on a disk of its own, whose n-th operation
// meets a fault, and reports whether it came to that.
func compactOn(t *testing.T, dir string, fault faultfs.Fault, n int) (disk *faultfs.Disk, met bool) {
	t.Helper()
	disk, err := faultfs.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	point := t.TempDir()
	mount, err := disk.Mount(point)
	if err != nil {
		t.Fatal(err)
	}
	cmd, out := compacting("once", filepath.Join(point, "store.db")), &bytes.Buffer{}
	cmd.Stdout = out
	started := make(chan *os.Process, 1)
	disk.Arm(fault, n, faultfs.Some(uint64(n)), func() { _ = (<-started).Signal(syscall.SIGKILL) })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	started <- cmd.Process
	runErr := cmd.Wait()
	if err := mount.Close(); err != nil {
		t.Fatal(err)
	}
	_, met = disk.Fired()
	if met == (runErr == nil) {
		t.Errorf("%s at operation %d: met %t, %v\n%s", fault, n, met, runErr, out)
	}
	return disk, met
}

// A compaction that ends at any operation on its disk, or meets a fault there, leaves
// the whole store, also after a power cut in the same moment.
func TestCompactionFaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	used(t, dir, 40)
	before := contentOf(t, dir)
	for _, fault := range []faultfs.Fault{faultfs.Kill, faultfs.IOError, faultfs.NoSpace, faultfs.ShortWrite, faultfs.FlushError} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			met := 0
			for n := 1; ; n += kit.Effort(3, 1) {
				disk, is := compactOn(t, dir, fault, n)
				if !is {
					break
				}
				met++
				for what, left := range map[string]*faultfs.Disk{
					"as it is": disk, "flushed": disk.Cut(faultfs.Nothing()), "all": disk.Cut(faultfs.Everything()), "some": disk.Cut(faultfs.Some(uint64(n))),
				} {
					at, o := t.TempDir(), fmt.Sprint(fault, " at operation ", n, ", ", what)
					if err := left.Save(at); err != nil {
						t.Fatal(o, err)
					}
					if after := contentOf(t, at); !reflect.DeepEqual(after, before) {
						t.Errorf("%s: the store says something else", o)
					}
					if fault != faultfs.Kill && left == disk {
						wantNoTemp(t, at)
					}
				}
			}
			if met < 2 {
				t.Errorf("only %d operations met the fault", met)
			}
			kit.Count(t, "operations of a compaction that met "+string(fault), met)
		})
	}
}

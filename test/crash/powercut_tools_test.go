//go:build tools

package crash_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
)

// TestPowerCuts takes the power away while eight writers work in both dialects,
// again and again on what the cut before has left.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	cuts := kit.Effort(20, 200)
	const renew = 25 // a fresh disk after so many
	st := newFaultSetup(t, scenario{name: "eight writers"})
	var (
		all  []*writer
		disk *faultfs.Disk
		lost int
	)
	for n := range cuts {
		if n%renew == 0 {
			disk, all = st.disk.Cut(faultfs.Everything()), writers(t, st.stored)
		}
		r := st.newRunOn(t, disk, fmt.Sprint("power cut ", n))
		if err := r.start(); err != nil {
			t.Fatalf("%s: %v", r.what, err)
		}
		workUntil(t, r.s, all, n%4*8, time.Duration(n*7%60)*time.Millisecond, func() {
			r.disk.Stop(r.kill)
			r.s.Kill() // and wait for its end
		})
		quiet(t, r.what, r.s)
		if err := r.mount.Close(); err != nil {
			t.Fatal(err)
		}
		lost += len(disk.Unflushed())
		luck := faultfs.Some(uint64(n))
		if n%4 == 0 {
			luck = faultfs.Nothing()
		}
		disk = disk.Cut(luck)
		dir := st.folder(t)
		if err := disk.Save(dir); err != nil {
			t.Fatal(err)
		}
		found, err := inspect(t.Context(), dir)
		if err != nil {
			t.Fatalf("%s: %v", r.what, err)
		}
		for _, w := range all {
			w.settle(t, found)
		}
		if t.Failed() {
			t.Fatal(r.what)
		}
	}
	kit.Count(t, "power cuts", cuts)
	kit.Count(t, "files caught by a power cut before they were flushed", lost)
}

// digits are what differs between the names of temporary files.
var digits = regexp.MustCompile(`[0-9]+`)

// TestEveryOperationIsSeen holds what strace saw of a run against what the file
// system numbered: as many of each kind on each file.
func TestEveryOperationIsSeen(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is needed: apt-get install strace")
	}
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			st := newFaultSetup(t, sc)
			r := st.newRun(t, "under strace")
			trace := filepath.Join(st.runs, "trace")
			st.options.Edit = func(cmd *exec.Cmd) {
				cmd.Args = append([]string{strace, "-D", "-f", "-qq", "-y", "-s", "0", "-o", trace, "-e", "trace=%file,%desc"}, cmd.Args...)
				cmd.Path = strace
			}
			if err := r.start(); err != nil {
				t.Fatal(err)
			}
			if a, err := r.makeChanges(); err != nil || a.Status != 0 {
				t.Fatalf("%d %s %v", a.Status, a.Body, err)
			}
			if err := r.s.Stop(); err != nil {
				t.Fatal(err)
			}
			r.end()
			numbered := map[string]int{}
			for _, o := range r.disk.Operations(faultfs.Changes()...) {
				numbered[digits.ReplaceAllString(o.String(), "N")]++
			}
			total := 0
			traced := systemCalls(t, trace, r.dir, st.disk.Names(), r.disk.Names())
			for what, n := range traced {
				total += n
				if numbered[what] != n {
					t.Errorf("%s: strace saw %d, the file system %d", what, n, numbered[what])
				}
			}
			for what, n := range numbered {
				if traced[what] == 0 {
					t.Errorf("%s: strace saw none, the file system %d", what, n)
				}
			}
			kit.Count(t, "system calls compared", total)
		})
	}
}

// call is a line of strace: its name, its arguments and what it returned. A call
// that was interrupted by another thread is put together first.
var call = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (-?\d+)`)

// systemCalls returns the successful calls that changed or flushed something below
// dir, named like operations of the file system, given what was there before and
// after.
func systemCalls(t *testing.T, trace, dir string, before, after map[string]bool) map[string]int {
	t.Helper()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]faultfs.Kind{
		"write": faultfs.Write, "pwrite64": faultfs.Write, "writev": faultfs.Write, "ftruncate": faultfs.Resize, "fallocate": faultfs.Allocate,
		"fsync": faultfs.Flush, "fdatasync": faultfs.Flush, "mkdir": faultfs.Mkdir, "mkdirat": faultfs.Mkdir,
		"link": faultfs.Link, "linkat": faultfs.Link, "rename": faultfs.Rename, "renameat": faultfs.Rename, "renameat2": faultfs.Rename,
		"unlink": faultfs.Unlink, "unlinkat": faultfs.Unlink, "fchmod": faultfs.Mode, "fchmodat": faultfs.Mode, "chmod": faultfs.Mode,
		"fchown": faultfs.Mode, "fchownat": faultfs.Mode, "truncate": faultfs.Resize, "rmdir": faultfs.Rmdir,
	}
	path := regexp.MustCompile(regexp.QuoteMeta(dir) + `(?:/([^>"]*))?[>"]`)
	found := map[string]int{}
	halves := map[string]string{} // by thread: a call that has not ended
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		thread, rest, _ := strings.Cut(line, " ")
		if begun, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			halves[thread] = begun
			continue
		}
		if _, end, ok := strings.Cut(rest, " resumed>"); ok {
			line = halves[thread] + end
		}
		c := call.FindStringSubmatch(line)
		if len(c) == 0 || strings.HasPrefix(c[3], "-") {
			continue
		}
		kind, known := kinds[c[1]]
		if c[1] == "openat" && strings.Contains(c[2], "O_CREAT") {
			kind, known = faultfs.Create, true
		}
		all := path.FindAllStringSubmatch(c[2], -1)
		if !known || len(all) == 0 {
			continue
		}
		name := all[len(all)-1][1] // of a link or a rename the new one
		if _, there := before[name]; kind == faultfs.Create && there {
			continue // it was opened
		}
		before[name] = false
		if kind == faultfs.Flush && (name == "" || after[name]) {
			kind = faultfs.FlushDir
		}
		found[digits.ReplaceAllString(faultfs.Operation{Kind: kind, Path: name}.String(), "N")]++
	}
	if len(found) == 0 {
		t.Fatalf("strace saw nothing:\n%.2000s", text)
	}
	return found
}

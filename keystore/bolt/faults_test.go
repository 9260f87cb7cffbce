//go:build tools

package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
)

// These tests put faults under one commit with strace: a child process, all on one
// thread since strace counts per thread, opens a store that was closed cleanly,
// replaces one record, and goes on after a failure.

const faultFileVariable = "ATTESTCSR_FAULT_TEST_FILE"

// TestFaultChild is the child; on its own it has nothing to do.
func TestFaultChild(t *testing.T) {
	file := os.Getenv(faultFileVariable)
	if file == "" {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	say := func(what string, err error) {
		payload := "unreadable"
		if r, err := s.Get(t.Context(), a); err == nil {
			payload = string(r.Payload)
		}
		class := "ok"
		for _, known := range []error{keystore.ErrNotCommitted, keystore.ErrOutcomeUnknown, keystore.ErrUnavailable} {
			if errors.Is(err, known) {
				class = known.Error()
			}
		}
		if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ENOSPC) {
			class += ", injected"
		}
		fmt.Fprintf(os.Stderr, "%s: %s: %s\n", what, class, payload) // one write: a kill loses none
	}
	_, err = s.Commit(t.Context(), nil, put(a, "new"))
	say("commit", err)
	say("check", s.Check(t.Context()))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// underFault runs the child with a fault on a fresh store and returns what it
// said, and the store's file.
func underFault(t *testing.T, inject string) (lines []string, file string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("strace is needed: apt-get install strace")
	}
	dir := t.TempDir()
	s := open(t, dir)
	mustCommit(t, s, put(a, "old"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "store.db")
	child := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", filepath.Join(dir, "trace"), "-e", "inject="+inject,
		os.Args[0], "-test.run=^TestFaultChild$")
	child.Env = append(os.Environ(), faultFileVariable+"="+file)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "commit: ") || strings.HasPrefix(line, "check: ") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines, file
}

func TestFailingSystemCalls(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, inject, commit, check, after string }{
		{"flush of the pages", "fdatasync:error=EIO:when=1",
			"commit: not committed, injected: old", "check: ok: old", "old"},
		{"flush of the meta page", "fdatasync:error=EIO:when=2",
			"commit: commit outcome unknown, injected: old", "check: ok: new", "new"},
		{"disk full", "pwrite64:error=ENOSPC:when=1",
			"commit: not committed, injected: old", "check: ok: old", "old"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			lines, file := underFault(t, test.inject)
			if len(lines) != 2 || lines[0] != test.commit || lines[1] != test.check {
				t.Errorf("the child says %q, want %q and %q", lines, test.commit, test.check)
			}
			s := open(t, filepath.Dir(file))
			closing(t, s)
			wantPayload(t, s, a, test.after)
		})
	}
}

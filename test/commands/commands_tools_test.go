//go:build tools

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestManPages: mandoc finds nothing to warn of in any man page.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := run([]string{"man", dir, "2026-11-29"}); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(dir + "/*.1")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), "mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// And it does find something.
	bad := filepath.Join(dir, "bad.1")
	if err := os.WriteFile(bad, []byte(".SH WITHOUT A TITLE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning", bad).Run() == nil {
		t.Error("mandoc took a page without a title")
	}
}

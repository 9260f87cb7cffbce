package design_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// TestCurrent: docs/commands.md says what the commands say.
func TestCurrent(t *testing.T) {
	t.Parallel()
	made := filepath.Join(t.TempDir(), "commands.md")
	if out, err := exec.CommandContext(t.Context(), "go", "run", "attestcsr/test/commands", "markdown", made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := strings.Split(string(kit.Read(t, filepath.Dir(made), filepath.Base(made))), "\n")
	got := strings.Split(string(kit.Read(t, root, "docs/commands.md")), "\n")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("docs/commands.md is not current from line %d on: make docs/commands.md", i+1)
		}
	}
}

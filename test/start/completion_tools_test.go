//go:build tools

package start_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// bashCompletes calls the function of the script as bash does, with stand-ins for the two
// functions that are there only while a person types.
const bashCompletes = `
compopt() { :; }
_init_completion() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
COMP_WORDS=(attestcsr keyset r); COMP_CWORD=2; COMP_LINE="attestcsr keyset r"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMPREPLY=()
__start_attestcsr
printf '%s\n' "${COMPREPLY[@]}"
`

// TestCompletion: bash and fish complete with the scripts, and zsh can read its own. There
// is no PowerShell in Debian: nobody runs that script here.
func TestCompletion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := dir + ":" + os.Getenv("PATH")
	if err := os.Symlink(start.Binary(t), filepath.Join(dir, "attestcsr")); err != nil {
		t.Fatal(err)
	}
	script := func(shell string) string {
		out, err := exec.CommandContext(t.Context(), start.Binary(t), "completion", shell).Output()
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		return kit.Overwrite(t, dir, shell, string(out))
	}
	for shell, args := range map[string][]string{
		"bash": {"--norc", "--noprofile", "-c", `source "$0"; ` + bashCompletes, script("bash")},
		"fish": {"--no-config", "-c", `source ` + script("fish") + `; complete -C "attestcsr keyset r"`},
	} {
		cmd := exec.CommandContext(t.Context(), shell, args...)
		cmd.Env = append(os.Environ(), "PATH="+path, "HOME="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		var words []string
		for line := range strings.Lines(string(out)) {
			words = append(words, strings.Fields(line)[0])
		}
		if got := strings.Join(words, " "); err != nil || got != "retire rotate" {
			t.Errorf("%s: %v, %q\n%s", shell, err, got, &stderr)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "zsh", "-f", "-n", script("zsh")).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("zsh: %v\n%s", err, out)
	}
}

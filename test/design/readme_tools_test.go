//go:build tools

package design_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// docsTime bounds one run of the examples, or of the service; a cold build cache
// takes most of it.
const docsTime = 5 * time.Minute

// examplesPrint is what a reader sees among other things.
var examplesPrint = []string{
	`{"csr":"-----BEGIN CERTIFICATE REQUEST-----`, "-----BEGIN CERTIFICATE-----", `"user":"admin"`, `"display_name":`,
	"attestcsr_csrs_created_total", "the settings are good", `"operation":"csr.create","slot":"esx/attestation/csr"}`, "refusals: ", "Verified OK", `{"valid":true}`,
}

// shellSetup ends the shell at the first command that fails, and the service with it.
const shellSetup = `set -eu -o pipefail; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT` + "\n"

// serviceEnded fails while the shell still has the service in the background.
const serviceEnded = `[ -z "$(jobs -p)" ]` + "\n"

// TestReadmeScript runs the examples of all pages in a script.
func TestReadmeScript(t *testing.T) {
	t.Parallel()
	dir, port := clone(t), start.FreePort(t)
	script := kit.Overwrite(t, t.TempDir(), "examples.sh", shellSetup+"set -x\n"+strings.Join(examples(t, port), "")+serviceEnded)
	ctx, cancel := context.WithTimeout(t.Context(), docsTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", script)
	cmd.Dir, cmd.Env = dir, docsEnv(port)
	// The service is in the process group of the shell: a run that takes too long ends
	// both.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	checkExamples(t, dir, string(out), err)
}

// TestReadmeTerminal pastes the examples of all pages into a shell on a terminal,
// block after block.
func TestReadmeTerminal(t *testing.T) {
	t.Parallel()
	dir, port := clone(t), start.FreePort(t)
	shell := onTerminal(t, dir, port, "bash --norc --noprofile -i")
	shell.paste(t, shellSetup)
	for i, block := range examples(t, port) {
		done := filepath.Join(t.TempDir(), "done")
		shell.paste(t, block+"touch "+done+"\n")
		shell.await(t, fmt.Sprintf("the end of example %d", i+1), func() bool {
			_, err := os.Stat(done)
			return err == nil
		})
	}
	shell.paste(t, serviceEnded+"exit\n")
	err := shell.wait()
	// Programs use colours on a terminal.
	out := regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`).ReplaceAllString(shell.output(t), "")
	checkExamples(t, dir, out, err)
}

// TestReadmeRun runs the service with the one command of README.md on a terminal, and
// ends it with Ctrl-C.
func TestReadmeRun(t *testing.T) {
	t.Parallel()
	const run = "go run . serve"
	if !strings.Contains(string(kit.Read(t, root, "README.md")), "\n```console\n"+run+"\n```\n") {
		t.Fatalf("README.md has no block with the command %q", run)
	}
	service := onTerminal(t, clone(t), start.FreePort(t), run)
	service.await(t, "the address and the password", func() bool {
		out := service.output(t)
		return strings.Contains(out, "is serving") && strings.Contains(out, "(shown once)")
	})
	service.paste(t, "\x03")
	_ = service.wait() // go run fails where Ctrl-C ended the program
	if out := service.output(t); !strings.Contains(out, "shutting down") {
		t.Errorf("Ctrl-C did not stop the service:\n%s", out)
	}
}

// examples returns the sh blocks of README.md and of docs, in the order in which they
// are run. The last block of README.md stops the service.
func examples(t *testing.T, port string) []string {
	t.Helper()
	readme := shBlocks(t, "README.md", port)
	last := len(readme) - 1
	if last < 3 {
		t.Fatalf("README.md has %d sh blocks", len(readme))
	}
	blocks := readme[:last:last]
	for _, page := range docPages(t) {
		blocks = append(blocks, shBlocks(t, page, port)...)
	}
	return append(blocks, readme[last])
}

func shBlocks(t *testing.T, page, port string) []string {
	t.Helper()
	var blocks []string
	for _, block := range regexp.MustCompile("(?s)\n```sh\n(.*?\n)```\n").FindAllSubmatch(kit.Read(t, root, page), -1) {
		blocks = append(blocks, strings.ReplaceAll(string(block[1]), "8443", port))
	}
	return blocks
}

func checkExamples(t *testing.T, dir, out string, err error) {
	t.Helper()
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "attestcsr.log")) // it may not be there
		t.Fatalf("%v\n%s\nattestcsr.log:\n%s", err, out, said)
	}
	for _, want := range examplesPrint {
		if !strings.Contains(out, want) {
			t.Errorf("the examples never print %q:\n%s", want, out)
		}
	}
}

// terminal is a command in a pseudo terminal.
type terminal struct {
	cmd    *exec.Cmd
	keys   io.WriteCloser
	screen string        // name of the file with all output
	ended  chan struct{} // closed when err is set
	err    error
}

// onTerminal starts a command with script(1), which every Debian system has.
func onTerminal(t *testing.T, dir, port, command string) *terminal {
	t.Helper()
	s := &terminal{screen: filepath.Join(t.TempDir(), "screen"), ended: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), docsTime)
	s.cmd = exec.CommandContext(ctx, "script", "--quiet", "--return", "--flush", "--command", command, s.screen)
	s.cmd.Dir, s.cmd.Env = dir, docsEnv(port)
	// script hangs up the terminal when it is told to end, which ends what runs there.
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	var err error
	if s.keys, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-s.ended
	})
	return s
}

func (s *terminal) paste(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.keys, text); err != nil {
		t.Fatalf("%v\n%s", err, s.output(t))
	}
}

// await waits until there is what the test waits for, or the command has ended.
func (s *terminal) await(t *testing.T, what string, there func() bool) {
	t.Helper()
	for !there() {
		select {
		case <-s.ended:
			t.Fatalf("the command ended before %s: %v\n%s", what, s.err, s.output(t))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *terminal) wait() error {
	<-s.ended
	return s.err
}

func (s *terminal) output(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(s.screen)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

func docsEnv(port string) []string {
	return append(os.Environ(), "ATTESTCSR_LISTEN=127.0.0.1:"+port, "GOFLAGS=-buildvcs=false -trimpath", "HISTFILE=", "TERM=xterm")
}

// clone returns a directory with the files of a fresh clone.
func clone(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	err := fs.WalkDir(repository(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "data"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		data, err := fs.ReadFile(repository(), name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

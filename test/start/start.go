// Package start runs the real service, in a process of its own, for tests.
package start

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestcsr/command"
	"attestcsr/server"
	"attestcsr/test/kit"
)

// Main makes the test binary stand for the real one: tests start it as
// "attestcsr", a process of its own.
func Main(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"attestcsr": func() { os.Exit(command.Main()) }})
}

// suite removes what tests share when all are done.
type suite struct{ *testing.M }

func (s suite) Run() int {
	status := s.M.Run()
	if err := os.RemoveAll(productDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// product is the real binary: not the test binary, which the race detector makes
// slow and whose flags are others. It is built for the first test that asks.
var (
	productDir string
	product    = sync.OnceValues(func() (string, error) {
		var err error
		if productDir, err = os.MkdirTemp("", "attestcsr-product"); err != nil {
			return "", err
		}
		binary := filepath.Join(productDir, "attestcsr")
		if out, err := exec.Command("go", "build", "-o", binary, "attestcsr").CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return binary, os.Chmod(productDir, 0o755) // some tests run it as another user
	})
)

// Binary is the path of the real binary.
func Binary(t *testing.T) string {
	t.Helper()
	binary, err := product()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// Launch starts "attestcsr serve" on a free port, without a key pool unless the
// settings say otherwise: most tests need one key and no processor beside it.
func Launch(t *testing.T, dataDir string, args ...string) *Instance {
	t.Helper()
	if !slices.Contains(args, "--config") {
		dir := t.TempDir()
		kit.Overwrite(t, dir, "config.yaml", NoPool)
		args = append(args, "--config", filepath.Join(dir, "config.yaml"))
	}
	return LaunchBinary(t, "attestcsr", dataDir, args...)
}

// NoPool are settings that make no key before it is asked for.
const NoPool = "key_pool:\n  targets: {}\n"

// LaunchBinary is Launch with another binary, and with the settings that are given.
func LaunchBinary(t *testing.T, binary, dataDir string, args ...string) *Instance {
	t.Helper()
	return LaunchCommand(t, exec.Command(binary, ServeArgs(dataDir, args...)...), dataDir)
}

// ServeArgs are the arguments of a service on a free port.
func ServeArgs(dataDir string, args ...string) []string {
	return append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", dataDir, "--hostname", "esx-01.example.com"}, args...)
}

// LaunchCommand starts a command that becomes "attestcsr serve".
func LaunchCommand(t *testing.T, cmd *exec.Cmd, dataDir string) *Instance {
	t.Helper()
	s := &Instance{T: t, Cmd: cmd, DataDir: dataDir, Stdout: &kit.Buffer{}, Stderr: &kit.Buffer{}, Exited: make(chan struct{})}
	s.Cmd.Stdout, s.Cmd.Stderr = s.Stdout, s.Stderr
	if err := s.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.Err = s.Cmd.Wait()
		close(s.Exited)
	}()
	t.Cleanup(s.Kill)
	return s
}

// Serve launches the service and waits until it serves.
func Serve(t *testing.T, dataDir string, args ...string) *Instance {
	t.Helper()
	s := Launch(t, dataDir, args...)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if password, err := os.ReadFile(filepath.Join(dataDir, server.InitialPasswordFile)); err == nil {
		s.Password = strings.TrimSpace(string(password))
	}
	return s
}

var (
	addressLine = regexp.MustCompile(`(?m)^  address +(https://\S+)(?: \((.*)\))?$`)
	lastLine    = regexp.MustCompile(`(?m)^  (password +.*|certificate +.*)$`)
)

// Refused starts the service and returns its one sentence of refusal.
func Refused(t *testing.T, dataDir string, args ...string) string {
	t.Helper()
	s := Launch(t, dataDir, args...)
	select {
	case <-s.Exited:
	case <-time.After(20 * time.Second):
		t.Fatal("the service started")
	}
	if code := s.Cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d: %s%s", code, s.Stderr, s.Stdout)
	}
	text := s.Stderr.String()
	if !strings.HasPrefix(text, "attestcsr: ") || strings.Contains(text, "goroutine ") {
		t.Errorf("not a sentence: %s", text)
	}
	return text
}

// FreePort returns a port that nobody listens on.
func FreePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		// The kernel gives ports from 32,768 on to outgoing connections. The tests beside
		// this one make thousands of those.
		port := strconv.Itoa(20_000 + rand.IntN(12_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no free port")
	return ""
}

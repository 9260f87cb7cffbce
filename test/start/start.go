// Package start runs the real service, in a process of its own, for tests.
package start

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/bcrypt"

	"attestcsr/command"
	"attestcsr/test/faultfs"
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

// Binary returns the path of the real binary.
func Binary(t testing.TB) string {
	t.Helper()
	binary, err := product()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// The user of the settings that Config writes, who holds every privilege.
const (
	User     = "admin"
	Password = "swordfish"
)

// Options say how a test wants the service. The zero value is the test binary, on a
// new data directory, with the settings of Config.
type Options struct {
	Binary  string // a path; "" is the test binary, which has the race detector
	DataDir string // "" is a new one, which the service makes
	// Config is a file of settings; "" writes one with Settings. BuiltInAdmin leaves
	// the user out: the service makes its own at its first start. Its hash takes a
	// second under the race detector.
	Config, Settings string
	BuiltInAdmin     bool
	Args             []string
	// Stdout and Stderr are pipes, whose reader the test is. nil: the buffers of Instance.
	Stdout, Stderr *os.File
	Edit           func(*exec.Cmd) // changes the command before it starts; nil: not
}

// Config writes a file of settings into a new folder and returns its path. Unless the
// given settings have those sections, there is no key pool, since most tests need one
// key and no processor beside it, and there is one user.
func Config(t testing.TB, settings string) string {
	t.Helper()
	dir := t.TempDir()
	if !strings.Contains(settings, "auth:\n") {
		settings += "auth:\n  users_file: " + kit.Overwrite(t, dir, "users", UserLine(t, User, Password)) +
			"\n  privileges:\n    " + User + ": [SECURITY_MGMT, \"policy_certificate:crud\", \"attestation:sign\", \"policy_certificate:sign\", \"audit:read\"]\n"
	}
	return writeConfig(t, dir, settings)
}

func writeConfig(t testing.TB, dir, settings string) string {
	t.Helper()
	if !strings.Contains(settings, "key_pool:\n") {
		settings += "key_pool:\n  targets: {}\n"
	}
	return kit.Overwrite(t, dir, "config.yaml", settings)
}

// UserLine returns a line of a users file, with a hash that is as cheap as hashes get.
func UserLine(t testing.TB, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

// Launch starts "attestcsr serve" on a free port. It does not wait until the service
// is ready.
func Launch(t *testing.T, o Options) *Instance {
	t.Helper()
	s := &Instance{T: t, DataDir: o.DataDir, Stdout: &kit.Buffer{}, Stderr: &kit.Buffer{}, Exited: make(chan struct{})}
	if s.DataDir == "" {
		s.DataDir = filepath.Join(t.TempDir(), "data")
	}
	if o.Binary == "" {
		o.Binary = "attestcsr"
	}
	switch {
	case o.Config != "":
	case o.BuiltInAdmin:
		o.Config = writeConfig(t, t.TempDir(), o.Settings)
	default:
		o.Config = Config(t, o.Settings)
	}
	if !o.BuiltInAdmin {
		s.Password = Password
	}
	s.options = o
	s.Cmd = exec.Command(o.Binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", s.DataDir,
		"--hostname", "esx-01.example.com", "--config", o.Config}, o.Args...)...)
	if o.Edit != nil {
		o.Edit(s.Cmd)
	}
	s.Cmd.Stdout, s.Cmd.Stderr = s.Stdout, s.Stderr
	if o.Stdout != nil {
		s.Cmd.Stdout = o.Stdout
	}
	if o.Stderr != nil {
		s.Cmd.Stderr = o.Stderr
	}
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

// Serve starts the service and waits until it serves. The password is that of the
// built-in admin where this start has made one.
func Serve(t *testing.T, o Options) *Instance {
	t.Helper()
	s := Launch(t, o)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if o.BuiltInAdmin {
		s.Password = s.InitialPassword()
	}
	return s
}

// Prepare makes a data directory that has seen its first start and a clean stop.
func Prepare(t *testing.T, o Options) (dataDir string) {
	t.Helper()
	s := Serve(t, o)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	return s.DataDir
}

// Refused starts the service and returns its one sentence of refusal.
func Refused(t *testing.T, o Options) string {
	t.Helper()
	s := Launch(t, o)
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
func FreePort(t testing.TB) string {
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

// CopyData copies a data directory, holes and all.
func CopyData(t testing.TB, from, to string) {
	t.Helper()
	disk, err := faultfs.Load(from)
	if err == nil {
		err = disk.Save(to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestcsr/keystore/keystoretest"
)

// TestMain makes the test binary stand for the real one: tests start it as
// "attestcsr", a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"attestcsr": main})
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
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		return binary, os.Chmod(productDir, 0o755) // some tests run it as another user
	})
)

func productBinary(t *testing.T) string {
	t.Helper()
	binary, err := product()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// TestScripts drives the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}

const (
	csrPath         = "/api/esx/attestation/certificate/csr"
	certificatePath = "/api/esx/attestation/certificate"
	sessionPath     = "/api/session"

	validSpec = `{"organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
		`"state_or_province":"California","country":"US","email_address":"pki@example.com"}`
)

// instance is a running service, in a process of its own.
type instance struct {
	t        *testing.T
	cmd      *exec.Cmd
	dataDir  string
	url, ops string
	password string
	stdout   *keystoretest.Buffer
	stderr   *keystoretest.Buffer
	client   *http.Client
	exited   chan struct{}
	err      error // of the exit
}

// launch starts "attestcsr serve" on a free port, without a key pool unless the
// settings say otherwise: most tests need one key and no processor beside it.
func launch(t *testing.T, dataDir string, args ...string) *instance {
	t.Helper()
	if !slices.Contains(args, "--config") {
		dir := t.TempDir()
		overwrite(t, dir, "config.yaml", noPool)
		args = append(args, "--config", filepath.Join(dir, "config.yaml"))
	}
	return launchBinary(t, "attestcsr", dataDir, args...)
}

const noPool = "key_pool:\n  targets: {}\n"

func launchBinary(t *testing.T, binary, dataDir string, args ...string) *instance {
	t.Helper()
	return launchCommand(t, exec.Command(binary, serveArgs(dataDir, args...)...), dataDir)
}

func serveArgs(dataDir string, args ...string) []string {
	return append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", dataDir, "--hostname", "esx-01.example.com"}, args...)
}

// launchCommand starts a command that becomes "attestcsr serve".
func launchCommand(t *testing.T, cmd *exec.Cmd, dataDir string) *instance {
	t.Helper()
	s := &instance{t: t, cmd: cmd, dataDir: dataDir, stdout: &keystoretest.Buffer{}, stderr: &keystoretest.Buffer{}, exited: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(s.kill)
	return s
}

// start launches the service and waits until it serves.
func start(t *testing.T, dataDir string, args ...string) *instance {
	t.Helper()
	s := launch(t, dataDir, args...)
	if err := s.waitReady(); err != nil {
		t.Fatal(err)
	}
	if password, err := os.ReadFile(filepath.Join(dataDir, initialPasswordFile)); err == nil {
		s.password = strings.TrimSpace(string(password))
	}
	return s
}

var (
	addressLine = regexp.MustCompile(`(?m)^  address +(https://\S+)(?: \((.*)\))?$`)
	lastLine    = regexp.MustCompile(`(?m)^  (password +.*|certificate +.*)$`)
)

func (s *instance) waitReady() error {
	deadline := time.After(30 * time.Second)
	for {
		text := s.stderr.String()
		if found := addressLine.FindAllStringSubmatch(text, -1); found != nil && lastLine.MatchString(text) {
			for _, line := range found {
				if line[2] == "health and metrics" {
					s.ops = line[1]
				} else {
					s.url = line[1]
				}
			}
			break
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the service ended: %w\n%s%s", s.err, s.stderr, s.stdout)
		case <-deadline:
			return fmt.Errorf("the service does not get ready:\n%s%s", s.stderr, s.stdout)
		case <-time.After(2 * time.Millisecond):
		}
	}
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: 16,
	}}
	return nil
}

func (s *instance) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.exited
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
}

// stop ends the service as an orchestrator does and returns its exit error.
func (s *instance) stop() error {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.t.Fatal("no end after SIGTERM")
	}
	return s.err
}

// do sends one request with Basic credentials, or with the session where one is
// given.
func (s *instance) do(method, path, body, session string) (int, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if session != "" {
		req.Header.Set("vmware-api-session-id", session)
	} else {
		req.SetBasicAuth("admin", s.password)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// must is do for a request that has to end with the status.
func (s *instance) must(want int, method, path, body string) string {
	s.t.Helper()
	status, answer, err := s.do(method, path, body, "")
	if err != nil || status != want {
		s.t.Fatalf("%s %s: %v %d %s", method, path, err, status, answer)
	}
	return answer
}

func member(t *testing.T, body, name string) string {
	t.Helper()
	var object map[string]string
	if err := json.Unmarshal([]byte(body), &object); err != nil || object[name] == "" {
		t.Fatalf("no member %s: %v: %s", name, err, body)
	}
	return object[name]
}

func TestFirstStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)

	block := s.stderr.String()
	for _, want := range []string{s.url, dir, "self-signed", "user         admin", filepath.Join(dir, initialPasswordFile)} {
		if !strings.Contains(block, want) {
			t.Errorf("the block does not say %q:\n%s", want, block)
		}
	}
	if s.password == "" || strings.Contains(block+s.stdout.String(), s.password) {
		t.Error("without a terminal the password belongs into its file only")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 5 {
		t.Fatalf("%v: %v", err, entries)
	}
	for _, e := range entries {
		want := os.FileMode(0o600)
		if e.Name() == auditDir {
			want = os.ModeDir | 0o700
		}
		if info, err := e.Info(); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data_dir: %v %v", info.Mode(), err)
	}

	// The printed fingerprint is that of the certificate that clients see, and
	// the certificate file is all they need to trust it.
	pool := x509.NewCertPool()
	data, err := os.ReadFile(filepath.Join(dir, ownCertFile))
	if err != nil || !pool.AppendCertsFromPEM(data) {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "esx-01.example.com"} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		if !strings.Contains(block, fingerprint(&tls.Certificate{Leaf: leaf})) {
			t.Error("the block shows another fingerprint")
		}
		if days := time.Until(leaf.NotAfter).Hours() / 24; days < 396 || days > 397 {
			t.Errorf("valid for %v days", days)
		}
		conn.Close()
	}

	csr := member(t, s.must(201, "POST", csrPath, validSpec), "csr")
	certificate := s.must(200, "GET", certificatePath, "")
	if _, err := os.Stat(filepath.Join(dir, initialPasswordFile)); !os.IsNotExist(err) {
		t.Errorf("the initial password is still there after the first login: %v", err)
	}
	if err := s.stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.stderr)
	}

	again := start(t, dir)
	again.password = s.password
	if got := member(t, again.must(200, "GET", csrPath, ""), "csr"); got != csr {
		t.Error("another CSR after a restart")
	}
	if got := again.must(200, "GET", certificatePath, ""); got != certificate {
		t.Error("another certificate after a restart")
	}
	fingerprints := regexp.MustCompile(`SHA-256 +\S+`)
	if fingerprints.FindString(again.stderr.String()) != fingerprints.FindString(block) {
		t.Error("another server certificate after a restart")
	}
}

func TestAdminPasswordFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "password")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, password := range []string{"the first one", "the second one"} { // read at every start
		write(password + "\n")
		s := start(t, filepath.Join(dir, "data"), "--admin-password-file", file)
		if s.password != "" {
			t.Error("an initial password was made beside the operator's")
		}
		s.password = password
		s.must(404, "GET", csrPath, "")
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "two\nlines", strings.Repeat("x", 73)} {
		write(bad)
		s := launch(t, filepath.Join(dir, "data"), "--admin-password-file", file)
		<-s.exited
		if s.cmd.ProcessState.ExitCode() != 1 || s.stderr.String() == "" || bad != "" && strings.Contains(s.stderr.String(), bad) {
			t.Errorf("%q: %v %s", bad, s.err, s.stderr)
		}
	}
}

// refused starts the service and returns its one sentence of refusal.
func refused(t *testing.T, dataDir string, args ...string) string {
	t.Helper()
	s := launch(t, dataDir, args...)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("the service started")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit status %d: %s%s", code, s.stderr, s.stdout)
	}
	text := s.stderr.String()
	if !strings.HasPrefix(text, "attestcsr: ") || strings.Contains(text, "goroutine ") {
		t.Errorf("not a sentence: %s", text)
	}
	return text
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   []string
	}{
		{"lost keyset", func(t *testing.T, dir string) { remove(t, dir, keysetFile) }, []string{keysetFile, "attestcsr store discard-keys"}},
		{"foreign keyset", func(t *testing.T, dir string) {
			other := filepath.Join(t.TempDir(), "data")
			if err := start(t, other).stop(); err != nil {
				t.Fatal(err)
			}
			copyFile(t, filepath.Join(other, keysetFile), filepath.Join(dir, keysetFile))
		}, []string{"attestcsr store discard-keys"}},
		{"damaged keyset", func(t *testing.T, dir string) { overwrite(t, dir, keysetFile, "{") }, []string{keysetFile}},
		{"foreign store", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, strings.Repeat("not ours ", 10000)) }, []string{storeFile}},
		{"store open to all", func(t *testing.T, dir string) { chmod(t, dir, storeFile, 0o644) }, []string{storeFile}},
		{"keyset open to all", func(t *testing.T, dir string) { chmod(t, dir, keysetFile, 0o604) }, []string{keysetFile}},
		{"server key open to all", func(t *testing.T, dir string) { chmod(t, dir, ownKeyFile, 0o644) }, []string{ownKeyFile}},
		{"data_dir is a file", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			overwrite(t, filepath.Dir(dir), filepath.Base(dir), "x")
		}, []string{"data_dir"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			if err := start(t, dir).stop(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			text := refused(t, dir)
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("does not say %q: %s", want, text)
				}
			}
		})
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)
	if text := refused(t, dir); !strings.Contains(text, "in use") {
		t.Errorf("does not say why: %s", text)
	}
	s.must(404, "GET", csrPath, "")

	address := strings.TrimPrefix(s.url, "https://")
	if text := refused(t, filepath.Join(t.TempDir(), "data"), "--listen", address); !strings.Contains(text, address) || !strings.Contains(text, "--listen") {
		t.Errorf("busy port: %s", text)
	}
}

func TestDiscardKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)
	discard := func(input string) (string, error) {
		cmd := exec.Command("attestcsr", "store", "discard-keys", "--data-dir", dir)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := discard("discard\n"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("discarded under a running service: %v %s", err, out)
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	remove(t, dir, keysetFile)
	if out, err := discard("yes\n"); err == nil || !strings.Contains(out, "nothing was discarded") {
		t.Errorf("without the word: %v %s", err, out)
	}
	refused(t, dir)
	if out, err := discard("discard\n"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	again := start(t, dir)
	again.password = s.password
	again.must(201, "POST", csrPath, validSpec)
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, dir, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

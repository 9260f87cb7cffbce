package main

import (
	"bufio"
	"bytes"
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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary stand for the real one: tests start it as
// "attestcsr", a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"attestcsr": main})
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
	stdout   *lockedBuffer
	stderr   *lockedBuffer
	client   *http.Client
	exited   chan struct{}
	err      error // of the exit
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// launch starts "attestcsr serve" on a free port.
func launch(t *testing.T, dataDir string, args ...string) *instance {
	t.Helper()
	return launchBinary(t, "attestcsr", dataDir, args...)
}

func launchBinary(t *testing.T, binary, dataDir string, args ...string) *instance {
	t.Helper()
	s := &instance{t: t, dataDir: dataDir, stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, exited: make(chan struct{})}
	s.cmd = exec.Command(binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", dataDir, "--hostname", "esx-01.example.com"}, args...)...)
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
		ForceAttemptHTTP2:   true,
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
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
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

func TestResetPassword(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)
	old := s.password
	var session string
	if err := json.Unmarshal([]byte(s.must(201, "POST", sessionPath, "")), &session); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("attestcsr", "reset-password", "--data-dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, initialPasswordFile))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old session ends", func() bool {
		status, _, err := s.do("GET", csrPath, "", session)
		return err == nil && status == http.StatusUnauthorized
	})
	if s.password = strings.TrimSpace(string(data)); s.password == old {
		t.Error("the password is the old one")
	}
	s.must(404, "GET", csrPath, "")
	s.password = old
	s.must(401, "GET", csrPath, "")
}

func TestUsersFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hash := func(password string) string {
		cmd := exec.Command("attestcsr", "hash-password")
		cmd.Stdin = strings.NewReader(password + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	admin, other := "admin:"+hash("one")+"\n", "other:"+hash("two")+"\n"
	overwrite(t, dir, "users", admin+other)
	overwrite(t, dir, "config.yaml", "auth:\n  users_file: "+filepath.Join(dir, "users")+"\n  privileges:\n    admin: [SECURITY_MGMT]\n    ghost: [SECURITY_MGMT]\n")
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	if !strings.Contains(s.stdout.String(), "ghost") {
		t.Error("no warning about privileges of an unknown user")
	}
	if strings.Contains(s.stderr.String(), "password") {
		t.Errorf("a built-in admin beside users_file:\n%s", s.stderr)
	}
	s.password = "one"
	s.must(404, "GET", csrPath, "")
	var session string
	if err := json.Unmarshal([]byte(s.must(201, "POST", sessionPath, "")), &session); err != nil {
		t.Fatal(err)
	}
	status := func() int {
		status, _, err := s.do("GET", csrPath, "", session)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}

	overwrite(t, dir, "users", admin+"garbage\n")
	eventually(t, "an error about the garbage", func() bool { return strings.Contains(s.stdout.String(), "users not reloaded") })
	if status() != http.StatusNotFound {
		t.Error("garbage in the users file ended a session")
	}
	overwrite(t, dir, "users", other)
	eventually(t, "the removed user's session ends", func() bool { return status() == http.StatusUnauthorized })
	s.must(401, "GET", csrPath, "")
}

// The built-in admin holds every privilege, unless the settings say otherwise.
func TestAdminPrivileges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", "auth:\n  privileges:\n    admin: [policy_certificate:read]\n    ghost: [SECURITY_MGMT]\n")
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	s.must(403, "POST", csrPath, validSpec)
	if !strings.Contains(s.stdout.String(), "ghost") {
		t.Error("no warning about privileges of an unknown user")
	}
}

func TestServerCertificateReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// Two pairs, each behind the symlink that a Kubernetes secret volume has.
	for _, version := range []string{"v1", "v2"} {
		own := filepath.Join(dir, "other-"+version)
		if err := start(t, own).stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		copyFile(t, filepath.Join(own, ownCertFile), filepath.Join(dir, version, "tls.crt"))
		copyFile(t, filepath.Join(own, ownKeyFile), filepath.Join(dir, version, "tls.key"))
	}
	point := func(version string) {
		if err := os.Symlink(version, filepath.Join(dir, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	point("v1")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, filepath.Join(dir, "data"), "--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key"))
	if strings.Contains(s.stderr.String(), "self-signed") {
		t.Errorf("the operator's certificate is called self-signed:\n%s", s.stderr)
	}
	address := strings.TrimPrefix(s.url, "https://")
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := conn.ConnectionState().PeerCertificates[0]
	point("v2")
	eventually(t, "the new certificate", func() bool {
		fresh, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		return !fresh.ConnectionState().PeerCertificates[0].Equal(before)
	})
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("the connection from before the change: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the connection from before the change: %v", resp.Status)
	}
}

func TestOpsListenAndHealthcheck(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir, "--ops-listen", "127.0.0.1:0")
	for url, want := range map[string]int{s.ops + "/readyz": 200, s.ops + "/metrics": 200, s.url + "/readyz": 404, s.ops + csrPath: 404} {
		resp, err := s.client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", url, resp.StatusCode, want)
		}
	}
	check := func(args ...string) error {
		return exec.Command("attestcsr", append([]string{"healthcheck", "--data-dir", dir}, args...)...).Run()
	}
	ops := strings.TrimPrefix(s.ops, "https://")
	if err := check("--ops-listen", ops); err != nil {
		t.Errorf("healthcheck of a healthy service: %v", err)
	}
	// Somebody else's certificate on the port is not our service.
	stranger := start(t, filepath.Join(t.TempDir(), "data"))
	if err := check("--listen", strings.TrimPrefix(stranger.url, "https://")); err == nil {
		t.Error("healthcheck believed another service")
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if err := check("--ops-listen", ops); err == nil {
		t.Error("healthcheck of a stopped service succeeded")
	}
}

// TestStopDuringCreates: what was accepted is answered, what comes later gets a
// 503 or no connection, and no answer is anything else.
func TestStopDuringCreates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)
	s.must(201, "POST", csrPath, validSpec)
	var (
		mu     sync.Mutex
		last   []string
		counts = map[string]int{}
		wg     sync.WaitGroup
		begun  = make(chan struct{}, 64)
	)
	for range 8 {
		wg.Go(func() {
			for {
				begun <- struct{}{}
				status, body, err := s.do("POST", csrPath, validSpec, "")
				mu.Lock()
				switch {
				case err != nil:
					counts["connection refused or closed"]++
				case status == 201:
					counts["created"]++
					last = append(last, member(t, body, "csr"))
				case status == 503:
					counts["unavailable"]++
				default:
					t.Errorf("%d %s", status, body)
				}
				mu.Unlock()
				if err != nil || status != 201 {
					return
				}
			}
		})
	}
	for range 24 {
		<-begun
	}
	go func() {
		for range begun {
		}
	}()
	if err := s.stop(); err != nil {
		t.Errorf("exit: %v %s", err, s.stderr)
	}
	wg.Wait()
	close(begun)
	t.Logf("%v", counts)
	if counts["created"] < 8 {
		t.Errorf("requests in flight were not answered: %v", counts)
	}
	again := start(t, dir)
	again.password = s.password
	stored := member(t, again.must(200, "GET", csrPath, ""), "csr")
	found := false
	for _, csr := range last {
		found = found || csr == stored
	}
	if !found {
		t.Error("the stored CSR was never answered")
	}
}

// TestKill ends the service with SIGKILL in the middle of creates, again and
// again on the same data. After each: the stored pair matches, and the last
// acknowledged CSR is stored or was replaced by a later one.
func TestKill(t *testing.T) {
	t.Parallel()
	const kills = 50
	dir := t.TempDir()
	// Not the test binary: the race detector would make most of it waiting.
	binary := filepath.Join(dir, "attestcsr")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	overwrite(t, dir, "password", "swordfish")
	order := map[string]int{} // CSR → how many were acknowledged before it
	for n := range kills {
		s := launchBinary(t, binary, filepath.Join(dir, "data"), "--admin-password-file", filepath.Join(dir, "password"))
		if err := s.waitReady(); err != nil {
			t.Fatal(err)
		}
		s.password = "swordfish"
		status, body, err := s.do("GET", csrPath, "", "")
		if err != nil || status != 200 && (status != 404 || len(order) > 0) {
			t.Fatalf("start %d: %v %d %s", n, err, status, body)
		}
		if status == 200 {
			stored := member(t, body, "csr")
			// One that was never acknowledged may have been committed last.
			if i, acknowledged := order[stored]; acknowledged && i != len(order)-1 {
				t.Fatalf("start %d: CSR %d of %d is stored", n, i+1, len(order))
			}
			// The key in the store belongs to the CSR: readiness opens it, and a
			// certificate for the CSR is accepted only over that key.
			if status, _, err := s.do("GET", "/readyz", "", ""); err != nil || status != 200 {
				t.Fatalf("start %d: readiness %d %v", n, status, err)
			}
		}
		// Some lives end before their first create is acknowledged.
		killed, acknowledged := make(chan struct{}), make(chan struct{}, 1000)
		go func() {
			for range n % 4 {
				select {
				case <-acknowledged:
				case <-s.exited:
				}
			}
			time.Sleep(time.Duration(n*7%60) * time.Millisecond)
			s.kill()
			close(killed)
		}()
		for {
			status, body, err := s.do("POST", csrPath, validSpec, "")
			if err != nil {
				break
			}
			if status != 201 {
				t.Fatalf("create: %d %s", status, body)
			}
			order[member(t, body, "csr")] = len(order)
			acknowledged <- struct{}{}
		}
		<-killed
		if s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v", s.cmd.ProcessState)
		}
	}
	if len(order) < kills {
		t.Errorf("only %d creates were acknowledged", len(order))
	}
	t.Logf("%d creates acknowledged over %d kills", len(order), kills)
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 500 {
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

package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

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
	overwrite(t, dir, "config.yaml", noPool+"auth:\n  users_file: "+filepath.Join(dir, "users")+"\n  privileges:\n    admin: [SECURITY_MGMT]\n    ghost: [SECURITY_MGMT]\n")
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

	s.password = "two"
	overwrite(t, dir, "users", strings.Replace(other, "other:", "admin:", 1))
	eventually(t, "the user is there again", func() bool {
		status, _, err := s.do("GET", csrPath, "", "")
		return err == nil && status == http.StatusNotFound
	})
	overwrite(t, dir, "users", "")
	eventually(t, "the last user is gone", func() bool {
		status, _, err := s.do("GET", csrPath, "", "")
		return err == nil && status == http.StatusUnauthorized
	})
}

// The built-in admin holds every privilege, unless the settings say otherwise.
func TestAdminPrivileges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", noPool+"auth:\n  privileges:\n    admin: [policy_certificate:read]\n    ghost: [SECURITY_MGMT]\n")
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

// TestPool: readiness waits for the pool where it is told to, and a create takes
// a key that was ready.
func TestPool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", "key_pool:\n  targets: {2048: 2}\n  ready_when_warm: true\n")
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	metric := func(name string) string {
		text := s.must(200, "GET", "/metrics", "")
		found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no metric %s", name)
		}
		return found[1]
	}
	eventually(t, "readiness", func() bool {
		status, _, err := s.do("GET", "/readyz", "", "")
		return err == nil && status == http.StatusOK
	})
	// The first certificate may have taken a key that was ready.
	eventually(t, "a full pool", func() bool { return metric(`attestcsr_key_pool_keys{size="2048"}`) == "2" })
	const hits, misses = `attestcsr_key_pool_hits_total{size="2048"}`, `attestcsr_key_pool_misses_total{size="2048"}`
	hitsBefore, missesBefore := metric(hits), metric(misses)
	s.must(201, "POST", csrPath, validSpec)
	if got := metric(hits); got == hitsBefore {
		t.Errorf("%s hits, as before", got)
	}
	if got := metric(misses); got != missesBefore {
		t.Errorf("a miss with a key ready: %s, before %s", got, missesBefore)
	}
}

package start_test

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

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

func TestResetPassword(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start.Serve(t, dir)
	old := s.Password
	var session string
	if err := json.Unmarshal([]byte(s.Must(201, "POST", start.SessionPath, "")), &session); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("attestcsr", "reset-password", "--data-dir", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, server.InitialPasswordFile))
	if err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the old session ends", func() bool {
		status, _, err := s.Do("GET", start.CSRPath, "", session)
		return err == nil && status == http.StatusUnauthorized
	})
	if s.Password = strings.TrimSpace(string(data)); s.Password == old {
		t.Error("the password is the old one")
	}
	s.Must(404, "GET", start.CSRPath, "")
	s.Password = old
	s.Must(401, "GET", start.CSRPath, "")
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
	kit.Overwrite(t, dir, "users", admin+other)
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+"auth:\n  users_file: "+filepath.Join(dir, "users")+"\n  privileges:\n    admin: [SECURITY_MGMT]\n    ghost: [SECURITY_MGMT]\n")
	s := start.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	if !strings.Contains(s.Stdout.String(), "ghost") {
		t.Error("no warning about privileges of an unknown user")
	}
	if strings.Contains(s.Stderr.String(), "password") {
		t.Errorf("a built-in admin beside users_file:\n%s", s.Stderr)
	}
	s.Password = "one"
	s.Must(404, "GET", start.CSRPath, "")
	var session string
	if err := json.Unmarshal([]byte(s.Must(201, "POST", start.SessionPath, "")), &session); err != nil {
		t.Fatal(err)
	}
	status := func() int {
		status, _, err := s.Do("GET", start.CSRPath, "", session)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}

	kit.Overwrite(t, dir, "users", admin+"garbage\n")
	kit.Eventually(t, "an error about the garbage", func() bool { return strings.Contains(s.Stdout.String(), "users not reloaded") })
	if status() != http.StatusNotFound {
		t.Error("garbage in the users file ended a session")
	}
	kit.Overwrite(t, dir, "users", other)
	kit.Eventually(t, "the removed user's session ends", func() bool { return status() == http.StatusUnauthorized })
	s.Must(401, "GET", start.CSRPath, "")

	s.Password = "two"
	kit.Overwrite(t, dir, "users", strings.Replace(other, "other:", "admin:", 1))
	kit.Eventually(t, "the user is there again", func() bool {
		status, _, err := s.Do("GET", start.CSRPath, "", "")
		return err == nil && status == http.StatusNotFound
	})
	kit.Overwrite(t, dir, "users", "")
	kit.Eventually(t, "the last user is gone", func() bool {
		status, _, err := s.Do("GET", start.CSRPath, "", "")
		return err == nil && status == http.StatusUnauthorized
	})
}

// The built-in admin holds every privilege, unless the settings say otherwise.
func TestAdminPrivileges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+"auth:\n  privileges:\n    admin: [policy_certificate:read]\n    ghost: [SECURITY_MGMT]\n")
	s := start.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	s.Must(403, "POST", start.CSRPath, start.ValidSpec)
	if !strings.Contains(s.Stdout.String(), "ghost") {
		t.Error("no warning about privileges of an unknown user")
	}
}

func TestServerCertificateReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// Two pairs, each behind the symlink that a Kubernetes secret volume has.
	for _, version := range []string{"v1", "v2"} {
		own := filepath.Join(dir, "other-"+version)
		if err := start.Serve(t, own).Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		kit.CopyFile(t, filepath.Join(own, server.OwnCertFile), filepath.Join(dir, version, "tls.crt"))
		kit.CopyFile(t, filepath.Join(own, server.OwnKeyFile), filepath.Join(dir, version, "tls.key"))
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
	s := start.Serve(t, filepath.Join(dir, "data"), "--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key"))
	if strings.Contains(s.Stderr.String(), "self-signed") {
		t.Errorf("the operator's certificate is called self-signed:\n%s", s.Stderr)
	}
	address := strings.TrimPrefix(s.URL, "https://")
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := conn.ConnectionState().PeerCertificates[0]
	point("v2")
	kit.Eventually(t, "the new certificate", func() bool {
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
	s := start.Serve(t, dir, "--ops-listen", "127.0.0.1:0")
	for url, want := range map[string]int{s.Ops + "/readyz": 200, s.Ops + "/metrics": 200, s.URL + "/readyz": 404, s.Ops + start.CSRPath: 404} {
		resp, err := s.Client.Get(url)
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
	ops := strings.TrimPrefix(s.Ops, "https://")
	if err := check("--ops-listen", ops); err != nil {
		t.Errorf("healthcheck of a healthy service: %v", err)
	}
	// Somebody else's certificate on the port is not our service.
	stranger := start.Serve(t, filepath.Join(t.TempDir(), "data"))
	if err := check("--listen", strings.TrimPrefix(stranger.URL, "https://")); err == nil {
		t.Error("healthcheck believed another service")
	}
	if err := s.Stop(); err != nil {
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
	kit.Overwrite(t, dir, "config.yaml", "key_pool:\n  targets: {2048: 2}\n  ready_when_warm: true\n")
	s := start.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	metric := func(name string) string {
		text := s.Must(200, "GET", "/metrics", "")
		found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no metric %s", name)
		}
		return found[1]
	}
	kit.Eventually(t, "readiness", func() bool {
		status, _, err := s.Do("GET", "/readyz", "", "")
		return err == nil && status == http.StatusOK
	})
	// The first certificate may have taken a key that was ready.
	kit.Eventually(t, "a full pool", func() bool { return metric(`attestcsr_key_pool_keys{size="2048"}`) == "2" })
	const hits, misses = `attestcsr_key_pool_hits_total{size="2048"}`, `attestcsr_key_pool_misses_total{size="2048"}`
	hitsBefore, missesBefore := metric(hits), metric(misses)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if got := metric(hits); got == hitsBefore {
		t.Errorf("%s hits, as before", got)
	}
	if got := metric(misses); got != missesBefore {
		t.Errorf("a miss with a key ready: %s, before %s", got, missesBefore)
	}
}

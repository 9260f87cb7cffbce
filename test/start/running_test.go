package start_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestResetPassword: "reset-password" ends sessions and the old password of a running
// service.
func TestResetPassword(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	old, session := s.Password, s.LogIn()
	if out, err := exec.Command("attestcsr", "reset-password", "--data-dir", s.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	fresh := s.InitialPassword()
	if fresh == old || fresh == "" {
		t.Errorf("the new password is %q, the old one %q", fresh, old)
	}
	kit.Eventually(t, "the old session ends", func() bool { return s.Answers(401, start.CSRPath, session) })
	s.Must(404, "GET", start.CSRPath, "", start.As(start.User, fresh))
	s.Must(401, "GET", start.CSRPath, "")
}

// TestOldPasswordKeepsTheFile: a login with the old password, in the moment in which
// the running service still knows it, leaves the file with the new one.
func TestOldPasswordKeepsTheFile(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	file := filepath.Join(s.DataDir, server.InitialPasswordFile)
	kit.Overwrite(t, s.DataDir, server.InitialPasswordFile, "another\n")
	s.Must(404, "GET", start.CSRPath, "")
	if text, err := os.ReadFile(file); err != nil || string(text) != "another\n" {
		t.Errorf("%q %v", text, err)
	}
}

// TestUsersFile: a running service follows its users file. Garbage in it changes
// nothing, and whoever is taken out of it loses password and sessions.
func TestUsersFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	admin, other := start.UserLine(t, "admin", "one"), start.UserLine(t, "other", "two")
	users := kit.Overwrite(t, dir, "users", admin+other)
	s := start.Serve(t, start.Options{Settings: "auth:\n  users_file: " + users + "\n  privileges:\n    admin: [SECURITY_MGMT]\n    ghost: [SECURITY_MGMT]\n"})
	s.WantLog("ghost") // of whom there is none
	if strings.Contains(s.Stderr.String(), "password") {
		t.Errorf("a built-in admin beside users_file:\n%s", s.Stderr)
	}
	s.Password = "one"
	s.Must(404, "GET", start.CSRPath, "")
	session := s.LogIn()

	kit.Overwrite(t, dir, "users", admin+"garbage\n")
	s.WantLog("users not reloaded")
	s.Must(404, "GET", start.CSRPath, "", session)
	kit.Overwrite(t, dir, "users", other)
	kit.Eventually(t, "the removed user's session ends", func() bool { return s.Answers(401, start.CSRPath, session) })
	s.Must(401, "GET", start.CSRPath, "")

	s.Password = "two"
	kit.Overwrite(t, dir, "users", strings.Replace(other, "other:", "admin:", 1))
	kit.Eventually(t, "the user is there again", func() bool { return s.Answers(404, start.CSRPath) })
	kit.Overwrite(t, dir, "users", "")
	kit.Eventually(t, "the last user is gone", func() bool { return s.Answers(401, start.CSRPath) })
}

// TestTrustAnchors: a running service follows its file of trust anchors. Garbage in it
// changes nothing. It does not start with a file that has none.
func TestTrustAnchors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := kit.NewCA(t, "First CA", time.Now()), kit.NewCA(t, "Second CA", time.Now())
	anchors := kit.Overwrite(t, dir, "anchors.pem", kit.PEM(first.Cert))
	settings := "trust: {anchors_file: " + anchors + "}\n"
	s := start.Serve(t, start.Options{Settings: settings})
	sets := func(want int, ca *kit.CA) string {
		t.Helper()
		_, answer := setNew(t, s, ca, want)
		return answer
	}
	sets(204, first)
	s.WantLog(`"anchor":"CN=First CA"`)
	if said := sets(400, second); !strings.Contains(said, "anchor") {
		t.Errorf("refused with %s", said)
	}
	kit.Overwrite(t, dir, "anchors.pem", "-----BEGIN garbage")
	s.WantLog("trust anchors not reloaded")
	sets(204, first)
	kit.Overwrite(t, dir, "anchors.pem", kit.PEM(second.Cert))
	s.WantLog("trust anchors reloaded")
	sets(204, second)
	wantLine(t, s.DataDir, "anchors.reload", 1)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}

	leaf := first.Issue(t, "x", second.Cert.PublicKey)
	kit.Overwrite(t, dir, "anchors.pem", kit.PEM(leaf))
	out, err := exec.Command("attestcsr", "serve", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--trust-anchors-file", anchors).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "there is no self-signed certificate") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestAdminPrivileges: the built-in admin holds every privilege, unless the settings
// say otherwise.
func TestAdminPrivileges(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true, Settings: "auth:\n  privileges:\n    admin: [policy_certificate:read]\n    ghost: [SECURITY_MGMT]\n"})
	s.Must(403, "POST", start.CSRPath, start.ValidSpec)
	s.WantLog("ghost")
}

// TestServerCertificateReload: the operator's certificate is read again when the link
// to it changes. Connections from before stay.
func TestServerCertificateReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	point := certificateVolume(t, dir)
	point("v1")
	s := start.Serve(t, start.Options{Args: []string{"--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key")}})
	if strings.Contains(s.Stderr.String(), "self-signed") {
		t.Errorf("the operator's certificate is called self-signed:\n%s", s.Stderr)
	}
	conn := s.DialRaw(t)
	before := conn.ConnectionState().PeerCertificates[0]
	point("v2")
	kit.Eventually(t, "the new certificate", func() bool {
		fresh, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true})
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

// certificateVolume makes two versions of a certificate in a folder that is laid out
// like a secret volume of Kubernetes: behind symlinks, the last of which changes. It
// returns a function that changes it.
func certificateVolume(t *testing.T, dir string) (point func(version string)) {
	t.Helper()
	for _, version := range []string{"v1", "v2"} {
		own := start.Prepare(t, start.Options{})
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		kit.CopyFile(t, filepath.Join(own, server.OwnCertFile), filepath.Join(dir, version, "tls.crt"))
		kit.CopyFile(t, filepath.Join(own, server.OwnKeyFile), filepath.Join(dir, version, "tls.key"))
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..data/tls.crt", "tls.crt")
	link("..data/tls.key", "tls.key")
	return func(version string) {
		link(version, "next")
		kit.Rename(t, filepath.Join(dir, "next"), filepath.Join(dir, "..data"))
	}
}

// TestOpsListen: with ops_listen, health and metrics are there and nowhere else.
func TestOpsListen(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Args: []string{"--ops-listen", "127.0.0.1:0"}})
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
}

// TestPool: readiness waits for the pool where it is told to, and a create takes
// a key that was ready.
func TestPool(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "key_pool:\n  targets: {2048: 2}\n  ready_when_warm: true\n"})
	kit.Eventually(t, "readiness", func() bool { return s.Answers(200, "/readyz") })
	// The first certificate may have taken a key that was ready.
	kit.Eventually(t, "a full pool", func() bool { return s.Metric(`attestcsr_key_pool_keys{size="2048"}`) == 2 })
	const hits, misses = `attestcsr_key_pool_hits_total{size="2048"}`, `attestcsr_key_pool_misses_total{size="2048"}`
	hitsBefore, missesBefore := s.Metric(hits), s.Metric(misses)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if got := s.Metric(hits); got <= hitsBefore {
		t.Errorf("%d hits, before %d", got, hitsBefore)
	}
	if got := s.Metric(misses); got != missesBefore {
		t.Errorf("a miss with a key ready: %d, before %d", got, missesBefore)
	}
}

package start_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"attestcsr/server"
	"attestcsr/server/tlscert"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestScripts drives the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true})
}

func TestFirstStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start.Serve(t, dir)

	block := s.Stderr.String()
	for _, want := range []string{s.URL, dir, "self-signed", "user         admin", filepath.Join(dir, server.InitialPasswordFile)} {
		if !strings.Contains(block, want) {
			t.Errorf("the block does not say %q:\n%s", want, block)
		}
	}
	if s.Password == "" || strings.Contains(block+s.Stdout.String(), s.Password) {
		t.Error("without a terminal the password belongs into its file only")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 5 {
		t.Fatalf("%v: %v", err, entries)
	}
	for _, e := range entries {
		want := os.FileMode(0o600)
		if e.Name() == server.AuditDir {
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
	data, err := os.ReadFile(filepath.Join(dir, server.OwnCertFile))
	if err != nil || !pool.AppendCertsFromPEM(data) {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "esx-01.example.com"} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		if !strings.Contains(block, tlscert.Fingerprint(&tls.Certificate{Leaf: leaf})) {
			t.Error("the block shows another fingerprint")
		}
		if days := time.Until(leaf.NotAfter).Hours() / 24; days < 396 || days > 397 {
			t.Errorf("valid for %v days", days)
		}
		conn.Close()
	}

	csr := start.Member(t, s.Must(201, "POST", start.CSRPath, start.ValidSpec), "csr")
	certificate := s.Must(200, "GET", start.CertificatePath, "")
	if _, err := os.Stat(filepath.Join(dir, server.InitialPasswordFile)); !os.IsNotExist(err) {
		t.Errorf("the initial password is still there after the first login: %v", err)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.Stderr)
	}

	again := start.Serve(t, dir)
	again.Password = s.Password
	if got := start.Member(t, again.Must(200, "GET", start.CSRPath, ""), "csr"); got != csr {
		t.Error("another CSR after a restart")
	}
	if got := again.Must(200, "GET", start.CertificatePath, ""); got != certificate {
		t.Error("another certificate after a restart")
	}
	fingerprints := regexp.MustCompile(`SHA-256 +\S+`)
	if fingerprints.FindString(again.Stderr.String()) != fingerprints.FindString(block) {
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
		s := start.Serve(t, filepath.Join(dir, "data"), "--admin-password-file", file)
		if s.Password != "" {
			t.Error("an initial password was made beside the operator's")
		}
		s.Password = password
		s.Must(404, "GET", start.CSRPath, "")
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "two\nlines", strings.Repeat("x", 73)} {
		write(bad)
		s := start.Launch(t, filepath.Join(dir, "data"), "--admin-password-file", file)
		<-s.Exited
		if s.Cmd.ProcessState.ExitCode() != 1 || s.Stderr.String() == "" || bad != "" && strings.Contains(s.Stderr.String(), bad) {
			t.Errorf("%q: %v %s", bad, s.Err, s.Stderr)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   []string
	}{
		{"lost keyset", func(t *testing.T, dir string) { kit.Remove(t, dir, server.KeysetFile) }, []string{server.KeysetFile, "attestcsr store discard-keys"}},
		{"foreign keyset", func(t *testing.T, dir string) {
			other := filepath.Join(t.TempDir(), "data")
			if err := start.Serve(t, other).Stop(); err != nil {
				t.Fatal(err)
			}
			kit.CopyFile(t, filepath.Join(other, server.KeysetFile), filepath.Join(dir, server.KeysetFile))
		}, []string{"attestcsr store discard-keys"}},
		{"damaged keyset", func(t *testing.T, dir string) { kit.Overwrite(t, dir, server.KeysetFile, "{") }, []string{server.KeysetFile}},
		{"foreign store", func(t *testing.T, dir string) {
			kit.Overwrite(t, dir, server.StoreFile, strings.Repeat("not ours ", 10000))
		}, []string{server.StoreFile}},
		{"store open to all", func(t *testing.T, dir string) { kit.Chmod(t, dir, server.StoreFile, 0o644) }, []string{server.StoreFile}},
		{"keyset open to all", func(t *testing.T, dir string) { kit.Chmod(t, dir, server.KeysetFile, 0o604) }, []string{server.KeysetFile}},
		{"server key open to all", func(t *testing.T, dir string) { kit.Chmod(t, dir, server.OwnKeyFile, 0o644) }, []string{server.OwnKeyFile}},
		{"data_dir is a file", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			kit.Overwrite(t, filepath.Dir(dir), filepath.Base(dir), "x")
		}, []string{"data_dir"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			if err := start.Serve(t, dir).Stop(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			text := start.Refused(t, dir)
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
	s := start.Serve(t, dir)
	if text := start.Refused(t, dir); !strings.Contains(text, "in use") {
		t.Errorf("does not say why: %s", text)
	}
	s.Must(404, "GET", start.CSRPath, "")

	address := strings.TrimPrefix(s.URL, "https://")
	if text := start.Refused(t, filepath.Join(t.TempDir(), "data"), "--listen", address); !strings.Contains(text, address) || !strings.Contains(text, "--listen") {
		t.Errorf("busy port: %s", text)
	}
}

func TestDiscardKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start.Serve(t, dir)
	discard := func(input string) (string, error) {
		cmd := exec.Command("attestcsr", "store", "discard-keys", "--data-dir", dir)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := discard("discard\n"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("discarded under a running service: %v %s", err, out)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	kit.Remove(t, dir, server.KeysetFile)
	if out, err := discard("yes\n"); err == nil || !strings.Contains(out, "nothing was discarded") {
		t.Errorf("without the word: %v %s", err, out)
	}
	start.Refused(t, dir)
	if out, err := discard("discard\n"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	again := start.Serve(t, dir)
	again.Password = s.Password
	again.Must(201, "POST", start.CSRPath, start.ValidSpec)
}

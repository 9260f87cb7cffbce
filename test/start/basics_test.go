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
	"attestcsr/server/control"
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

// TestFirstStart: a first start needs nothing, says where everything is, and what it
// makes is there after a restart.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	block := s.Stderr.String()
	for _, want := range []string{s.URL, s.DataDir, "self-signed", "user         admin", filepath.Join(s.DataDir, server.InitialPasswordFile)} {
		if !strings.Contains(block, want) {
			t.Errorf("the block does not say %q:\n%s", want, block)
		}
	}
	if s.Password == "" || strings.Contains(block+s.Stdout.String(), s.Password) {
		t.Error("without a terminal the password belongs into its file only")
	}
	checkModes(t, s.DataDir)
	checkOwnCertificate(t, s, block)

	csr := s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	certificate := s.Must(200, "GET", start.CertificatePath, "")
	if s.InitialPassword() != "" {
		t.Error("the initial password is still there after the first login")
	}
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.Stderr)
	}
	again := s.Again()
	if got := again.Must(200, "GET", start.CSRPath, ""); got != csr {
		t.Error("another CSR after a restart")
	}
	if got := again.Must(200, "GET", start.CertificatePath, ""); got != certificate {
		t.Error("another certificate after a restart")
	}
	fingerprint := regexp.MustCompile(`fingerprint +sha256:\S+`)
	if fingerprint.FindString(again.Stderr.String()) != fingerprint.FindString(block) {
		t.Error("another server certificate after a restart")
	}
}

// checkModes: nobody but the owner gets at a data directory or what is in it.
func checkModes(t *testing.T, dir string) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		want := os.FileMode(0o600)
		switch {
		case d.IsDir():
			want = os.ModeDir | 0o700
		case d.Name() == control.SocketFile:
			want = os.ModeSocket | 0o600
		}
		if info, err := d.Info(); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
		n++
		return nil
	})
	if err != nil || n < 6 {
		t.Errorf("%d files and directories, %v", n, err)
	}
}

// checkOwnCertificate: the printed fingerprint is that of the certificate that clients
// see, and the certificate file is all they need to trust it.
func checkOwnCertificate(t *testing.T, s *start.Instance, block string) {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(kit.Read(t, s.DataDir, server.OwnCertFile)) {
		t.Fatal("no certificate")
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "esx-01.example.com"} {
		conn, err := tls.Dial("tcp", s.Address(), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		if f := tlscert.FingerprintsOf(leaf); !strings.Contains(block, f.PublicKey+" (of the public key)") || !strings.Contains(block, f.Certificate+" (of the certificate)") {
			t.Errorf("the block shows other fingerprints than %+v", f)
		}
		if days := time.Until(leaf.NotAfter).Hours() / 24; days < 396 || days > 397 {
			t.Errorf("valid for %v days", days)
		}
		conn.Close()
	}
}

// TestAdminPasswordFile: the operator's password of the built-in admin is read at each
// start, and what is no password is refused without being shown.
func TestAdminPasswordFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := start.Options{Binary: start.Binary(t), BuiltInAdmin: true, DataDir: filepath.Join(dir, "data"), Args: []string{"--admin-password-file", filepath.Join(dir, "password")}}
	for _, password := range []string{"the first one", "the second one"} {
		kit.Overwrite(t, dir, "password", password+"\n")
		s := start.Serve(t, o)
		if s.Password != "" {
			t.Error("an initial password was made beside the operator's")
		}
		s.Password = password
		s.Must(404, "GET", start.CSRPath, "")
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "two\nlines", strings.Repeat("x", 73), "1234567", "\ufeffsecretpassword12"} {
		kit.Overwrite(t, dir, "password", bad)
		if text := start.Refused(t, o); bad != "" && strings.Contains(text, bad) {
			t.Errorf("%q is shown: %s", bad, text)
		}
	}
}

// TestRefusals: a start on files that are lost, foreign, damaged or open to others ends
// with a sentence that names the file, and the command that helps.
func TestRefusals(t *testing.T) {
	t.Parallel()
	prepared, other := start.Prepare(t, start.Options{}), start.Prepare(t, start.Options{})
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		says   []string
	}{
		{"lost keyset", func(t *testing.T, dir string) { kit.Remove(t, dir, server.KeysetFile) }, []string{server.KeysetFile, "attestcsr store discard-keys"}},
		{"foreign keyset", func(t *testing.T, dir string) {
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
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			start.CopyData(t, prepared, dir)
			test.damage(t, dir)
			text := start.Refused(t, start.Options{DataDir: dir})
			for _, want := range test.says {
				if !strings.Contains(text, want) {
					t.Errorf("does not say %q: %s", want, text)
				}
			}
		})
	}
}

// TestSecondProcess: two services share neither a data directory nor a port.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	if text := start.Refused(t, start.Options{DataDir: s.DataDir}); !strings.Contains(text, "in use") {
		t.Errorf("does not say why: %s", text)
	}
	s.Must(404, "GET", start.CSRPath, "")
	if text := start.Refused(t, start.Options{Args: []string{"--listen", s.Address()}}); !strings.Contains(text, s.Address()) || !strings.Contains(text, "--listen") {
		t.Errorf("busy port: %s", text)
	}
}

// TestDiscardKeys: "store discard-keys" wants the service stopped and a word typed,
// and then a start makes new keys.
func TestDiscardKeys(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	discard := func(input string) (string, error) {
		cmd := exec.Command("attestcsr", "store", "discard-keys", "--data-dir", s.DataDir)
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
	kit.Remove(t, s.DataDir, server.KeysetFile)
	if out, err := discard("yes\n"); err == nil || !strings.Contains(out, "nothing was discarded") {
		t.Errorf("without the word: %v %s", err, out)
	}
	start.Refused(t, start.Options{DataDir: s.DataDir})
	if out, err := discard("discard\n"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.Again().Must(201, "POST", start.CSRPath, start.ValidSpec)
}

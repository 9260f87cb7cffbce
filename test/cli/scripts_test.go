// Package cli_test drives the client commands.
package cli_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/output"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// users are those of the service that scripts use, beside start.User.
const users = "reader stranger"

// service is a service that scripts use.
type service struct{ url, dataDir, fingerprint string }

// settings are those of the service: one user with every privilege, one who may read, and
// one without any.
func settings(t *testing.T, more string) string {
	t.Helper()
	file := ""
	for _, user := range append(strings.Fields(users), start.User) {
		file += start.UserLine(t, user, start.Password)
	}
	return start.Config(t, "listen: 127.0.0.1:0\nhostname: localhost\nauth:\n  users_file: "+kit.Overwrite(t, t.TempDir(), "users", file)+
		"\n  privileges:\n    reader: [SECURITY_READ, \"policy_certificate:read\"]\n    "+
		start.User+": [SECURITY_MGMT, \"policy_certificate:crud\", \"attestation:sign\", \"policy_certificate:sign\"]\n"+more)
}

// inProcess runs a service in the process of the test.
func inProcess(t *testing.T, more string) service {
	t.Helper()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.AddFlags(flags)
	dataDir := filepath.Join(t.TempDir(), "data")
	if err := flags.Parse([]string{"--config", settings(t, more), "--data-dir", dataDir}); err != nil {
		t.Fatal(err)
	}
	load := func() (*config.Config, []string, error) {
		return config.Load(config.Source{Flags: flags, Privileges: server.PrivilegeNames(), SystemHostname: os.Hostname})
	}
	cfg, _, err := load()
	if err != nil {
		t.Fatal(err)
	}
	log := &kit.Buffer{}
	out := output.New(log)
	s, err := server.Open(t.Context(), server.Options{Config: cfg, Load: load, Logger: slog.New(slog.NewTextHandler(log, nil)), Output: out})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	listening, ended := make(chan server.Listening, 1), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(l server.Listening) error { listening <- l; return nil }) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, s.Close()); err != nil {
			t.Error(err)
		}
		out.Close()
		if t.Failed() {
			t.Log(log)
		}
	})
	select {
	case l := <-listening:
		return service{strings.Replace(l.Addresses[0], "127.0.0.1", "localhost", 1), dataDir, l.Fingerprints.PublicKey}
	case err := <-ended:
		ended <- err
		t.Fatal(err)
		return service{}
	}
}

// ofBinary runs the real binary.
func ofBinary(t *testing.T) service {
	t.Helper()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Config: settings(t, "")})
	_, after, _ := strings.Cut(s.Stderr.String(), "fingerprint")
	return service{strings.Replace(s.URL, "127.0.0.1", "localhost", 1), s.DataDir, strings.Fields(after)[0]}
}

// TestScripts: every script does the same with a service in this process and with the
// real binary.
func TestScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txtar")
		t.Run(name+" in process", func(t *testing.T) {
			t.Parallel()
			runScript(t, script, inProcess(t, ""), "")
		})
		t.Run(name+" with the binary", func(t *testing.T) {
			t.Parallel()
			runScript(t, script, ofBinary(t), filepath.Dir(start.Binary(t)))
		})
	}
	kit.Count(t, "scripts of commands", 2*len(scripts))
}

// TestStaged: a certificate that waits to become active.
func TestStaged(t *testing.T) {
	t.Parallel()
	runScript(t, "testdata/staged.txtar", inProcess(t, "certificate:\n  activate_after: 2h\npublish:\n  max_age: 1h\n"), "")
}

func runScript(t *testing.T, script string, s service, binary string) {
	t.Helper()
	closed := httptest.NewTLSServer(nil)
	closed.Close()
	busy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(busy.Close)
	other := vendor(t, s)
	testscript.Run(t, testscript.Params{
		Files: []string{script}, RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": wantStatus,
			"issue":  func(ts *testscript.TestScript, _ bool, args []string) { issue(t, ts, args) },
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("SERVER", s.url)
			e.Setenv("FINGERPRINT", s.fingerprint)
			e.Setenv("DATA", s.dataDir)
			e.Setenv("CA", filepath.Join(s.dataDir, server.OwnCertFile))
			e.Setenv("USER", start.User)
			e.Setenv("PASSWORD", start.Password)
			e.Setenv("CLOSED", closed.URL)
			e.Setenv("BUSY", busy.URL)
			e.Setenv("VENDOR", other.URL)
			if binary != "" {
				e.Setenv("PATH", binary+string(os.PathListSeparator)+e.Getenv("PATH"))
			}
			kit.Overwrite(t, e.WorkDir, "pw", start.Password+"\n")
			kit.Overwrite(t, e.WorkDir, "ca.pem", kit.PEM(busy.Certificate()))
			return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o700)
		},
	})
}

// vendor is a product that has the dialects alone: nothing of the console.
func vendor(t *testing.T, s service) *httptest.Server {
	t.Helper()
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: start.NewClient().Transport}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/console/") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// issue answers a CSR as a CA does: issue host.csr [name] writes host.pem, root.pem and
// root.der. The name takes the place of the names of the CSR.
func issue(t *testing.T, ts *testscript.TestScript, args []string) {
	t.Helper()
	request, err := kit.ParseCSR(ts.ReadFile(args[0]))
	ts.Check(err)
	root := kit.NewCA(t, "Example Root", time.Now())
	ca := root.NewCA(t, "Example CA")
	leaf := ca.Issue(t, request.Subject.CommonName, request.PublicKey, func(c *x509.Certificate) {
		c.RawSubject, c.DNSNames, c.IPAddresses, c.EmailAddresses = request.RawSubject, request.DNSNames, request.IPAddresses, request.EmailAddresses
		if len(args) > 1 {
			c.DNSNames = []string{args[1]}
		}
	})
	dir := ts.MkAbs(".")
	kit.Overwrite(t, dir, "host.pem", kit.PEM(leaf))
	kit.Overwrite(t, dir, "root.pem", kit.PEM(root.Cert))
	kit.Overwrite(t, dir, "ca.der", string(ca.Cert.Raw))
}

// wantStatus runs a program that must end with an exit status: status 3 attestcsr …
func wantStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// TestVariables: no setting is named as a variable of connections: settings that come
// later must not take those names.
func TestVariables(t *testing.T) {
	t.Parallel()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.AddFlags(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		for _, name := range []string{"server", "ca-file", "fingerprint", "user", "password", "context"} {
			if f.Name == name {
				t.Errorf("the setting --%s has the name of a flag of connections", name)
			}
		}
	})
}

package secrets_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// Names of places where one of the secrets belongs.
const (
	inLogins = "answers to logins"
	inEchoes = "answers that quote the client"
)

// TestSecrets: what the service keeps secret is in no log, answer, metric, crash
// dump, process listing or file but the one that is there for it. It is searched
// for as bytes and in the usual encodings.
func TestSecrets(t *testing.T) {
	t.Parallel()
	c := &custody{t: t, data: filepath.Join(t.TempDir(), "data"), binary: start.Binary(t), ders: map[string][]byte{}, places: map[string][]byte{}}
	c.firstLife()
	c.lastLife()
	c.search()
}

// firstLife is that of the built-in admin. /proc shows the environment to the
// tests' own user where core dumps are allowed.
func (c *custody) firstLife() {
	t := c.t
	t.Helper()
	socket := filepath.Join(c.data, "signer.sock")
	settings := fmt.Sprintf("signer:\n  socket: %s\n  allow: {\"uid:%d\": [attestation]}\n", socket, os.Geteuid())
	s := start.Serve(t, start.Options{Binary: c.binary, DataDir: c.data, BuiltInAdmin: true, Settings: settings, Args: []string{"--log-level", "debug", "--allow-core-dumps", "true"}})
	c.readKeyset()
	c.readServerKey()
	v := &visitor{custody: c, s: s, user: server.AdminName, password: c.initialPassword(s)}
	c.collectFiles()
	v.live()
	v.login()
	c.command("", "reset-password", "--data-dir", c.data)
	v.password = c.initialPassword(s)
	c.collectFiles()
	// With the new password ends the session; to try the password would be guessing.
	kit.Eventually(t, "the new password", func() bool {
		return v.send("answers", "GET", start.CSRPath, "", v.esx()).Status == http.StatusUnauthorized
	})
	v.login()
	v.blunder()
	v.sign(socket)
	c.collectProcess(s.Cmd.Process.Pid)
	c.command("", "healthcheck", "--data-dir", c.data, "--listen", s.Address(), "--config", s.Config())
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	c.collectOutput(s)
	c.collectFiles()
	c.openKeys()
}

// lastLife is that of users with a file, logs in the other format, and ends in a
// crash.
func (c *custody) lastLife() {
	t := c.t
	t.Helper()
	alice := c.text("password of alice", `al"ice\ <&> é `+rand.Text(), inEchoes)
	bob := c.text("password of bob", "bob'%s\t"+rand.Text(), inEchoes)
	users := kit.Overwrite(t, t.TempDir(), "users", "alice:"+c.command(alice+"\n", "hash-password")+"\nbob:"+c.command(bob+"\n", "hash-password")+"\n")
	config := start.Config(t, "log: {level: debug, format: text}\nauth:\n  users_file: "+users+"\n  privileges:\n    alice: [SECURITY_MGMT, \"policy_certificate:crud\", \"attestation:sign\"]\n")
	c.command("", "config", "show", "--config", config)
	c.command("", "config", "check", "--config", config)
	s := start.Serve(t, start.Options{Binary: c.binary, DataDir: c.data, Config: config, Edit: func(cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
	}})
	v := &visitor{custody: c, s: s, user: "alice", password: alice}
	v.live()
	other := &visitor{custody: c, s: s, user: "bob", password: bob}
	other.login()
	other.blunder()
	c.changeKeys()
	// It shows its goroutines, and crashes, while it makes keys.
	v.login()
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for err := error(nil); err == nil; {
			_, err = s.Do("POST", start.CSRPath, start.ValidSpec, v.esx())
		}
	}()
	time.Sleep(100 * time.Millisecond)
	if err := s.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the goroutines", func() bool { return strings.Contains(s.Stderr.String(), "goroutine profile") })
	if err := s.Cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	<-s.Exited
	<-busy
	if crash := s.Stderr.String(); !strings.Contains(crash, "SIGABRT") || strings.Count(crash, "goroutine ") < 5 {
		t.Errorf("that is no crash: %s", crash)
	}
	c.collectOutput(s)
	c.collectFiles()
	c.openKeys()
}

// search looks for every secret at every place.
func (c *custody) search() {
	t := c.t
	t.Helper()
	s := newSearcher(t, c.secrets)
	used := map[string]bool{}
	for place, text := range c.places {
		for i, where := range s.find(text) {
			used[place] = true
			if one := c.secrets[i]; !slices.Contains(one.allowed, place) {
				t.Errorf("%s is in %s: %s", one.name, place, where)
			}
		}
	}
	for _, place := range []string{"data_dir/" + server.InitialPasswordFile, "data_dir/" + server.KeysetFile, "data_dir/" + server.OwnKeyFile, inLogins, inEchoes} {
		if !used[place] {
			t.Errorf("nothing was found in %s, where it belongs", place)
		}
	}
	kit.Count(t, "secrets searched for", len(c.secrets))
	kit.Count(t, "places searched", len(c.places))
	kit.Count(t, "bytes searched", s.bytes)
	kit.Count(t, "planted secrets found", s.wantFound(t, c.places["stdout"], c.ders))
}

package cli_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// terminal is a command on a terminal of its own.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File
	output *kit.Buffer
	read   chan struct{}
}

// onTerminal starts a command on a new pseudo-terminal.
func onTerminal(t *testing.T, env []string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &terminal{t: t, cmd: exec.Command("attestcsr", args...), master: master, slave: slave, output: &kit.Buffer{}, read: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "TERM=xterm", "XDG_CACHE_HOME=", "XDG_CONFIG_HOME="), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.read)
		_, _ = io.Copy(p.output, master) // until its end, which is an error on Linux
	}()
	return p
}

// answer waits for a question and answers it.
func (p *terminal) answer(question, text string) {
	p.t.Helper()
	if !kit.Until(func() bool { return strings.HasSuffix(p.output.String(), question) }) {
		_ = p.cmd.Process.Kill()
		p.t.Fatalf("it does not ask %q:\n%s", question, p.output)
	}
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end of the command, and returns what was on the terminal.
func (p *terminal) ends(status int) string {
	p.t.Helper()
	err := p.cmd.Wait()
	echo, ioErr := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	p.slave.Close()
	<-p.read
	p.master.Close()
	if ioErr != nil || echo.Lflag&unix.ECHO == 0 {
		p.t.Errorf("the terminal is left without its echo: %v", ioErr)
	}
	exit := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &exit) || p.cmd.ProcessState.ExitCode() != status {
		p.t.Errorf("%v, want status %d:\n%s", err, status, p.output)
	}
	return p.output.String()
}

// slow is a server in front of the service that takes its time for a key.
func slow(t *testing.T, s service) *httptest.Server {
	t.Helper()
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: start.NewClient().Transport}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/csr") {
			time.Sleep(1500 * time.Millisecond)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// TestTerminal: questions, a password without echo, a spinner while a key is made, colours,
// and a Ctrl-C that leaves the terminal as it was.
func TestTerminal(t *testing.T) {
	t.Parallel()
	s := inProcess(t, "")
	server := slow(t, s)
	ca := kit.Overwrite(t, t.TempDir(), "ca.pem", kit.PEM(server.Certificate()))
	connection := []string{"ATTESTCSR_SERVER=" + server.URL, "ATTESTCSR_CA_FILE=" + ca}
	known := append([]string{"ATTESTCSR_USER=" + start.User, "ATTESTCSR_PASSWORD=" + start.Password}, connection...)

	p := onTerminal(t, connection, "session", "login")
	p.answer("user: ", "admin\n")
	p.answer("password: ", start.Password+"\n")
	if out := p.ends(0); strings.Contains(out, start.Password) || !strings.Contains(out, "admin is logged in") {
		t.Errorf("%s", out)
	}
	p = onTerminal(t, connection, "session", "login", "--user", "admin")
	p.answer("password: ", "wrong\x7f\n")
	if out := p.ends(3); strings.Contains(out, "wrong\x7f") {
		t.Errorf("%s", out)
	}
	for _, args := range [][]string{{"session", "login", "--user", "admin"}, {"session", "login"}, {"hash-password"}} {
		p = onTerminal(t, connection, args...)
		p.answer(": ", "\x03")
		if out := p.ends(1); !strings.Contains(out, "attestcsr: interrupted") {
			t.Errorf("%v: %s", args, out)
		}
	}

	p = onTerminal(t, known, "csr", "create")
	for _, answer := range [][2]string{
		{"common name: ", "esx-01.example.com"}, {"organization: ", "Example Ltd"}, {"organizational unit: ", ""}, {"locality: ", ""},
		{"state or province: ", ""}, {"country (two letters): ", "us"}, {"e-mail address: ", "pki@example.com"},
	} {
		p.answer(answer[0], answer[1]+"\n")
	}
	out := p.ends(0)
	if !strings.Contains(out, "\r\x1b[K| the server makes a key … 0 s") || !strings.Contains(out, "the server makes a key … 1 s\r\x1b[K") || !strings.Contains(out, "-----END CERTIFICATE REQUEST-----") {
		t.Errorf("%q", out)
	}
	p = onTerminal(t, known, "csr", "create", "--cn", "other")
	p.answer("go on? yes or no [no]: ", "\n")
	if out := p.ends(1); !strings.Contains(out, "a CSR is pending") || !strings.Contains(out, "nothing was changed") {
		t.Errorf("%s", out)
	}
	p = onTerminal(t, append([]string{"TERM=dumb"}, known...), "csr", "create", "--cn", "other")
	p.answer("go on? yes or no [no]: ", "yes\n")
	p.ends(0)

	file := filepath.Join("..", "..", "command", "testdata", "show", "damaged-signature.csr")
	const red = "\x1b[31m"
	if out := onTerminal(t, nil, "csr", "show", file).ends(0); !strings.Contains(out, red+"signature") {
		t.Errorf("no colour: %q", out)
	}
	for _, without := range []string{"NO_COLOR=1", "TERM=dumb"} {
		if out := onTerminal(t, []string{without}, "csr", "show", file).ends(0); strings.Contains(out, "\x1b") {
			t.Errorf("colours with %s: %q", without, out)
		}
	}
	out = onTerminal(t, []string{"ATTESTCSR_DATA_DIR=" + s.dataDir}, "certificate", "show", "--data-dir", s.dataDir).ends(0)
	if !strings.Contains(out, "of the installed certificate") || strings.Contains(out, server.URL) {
		t.Errorf("%s", out)
	}
	kit.Count(t, "commands on a terminal", 11)
}

// TestServiceHost: on the service's own host the control socket gives a session, which the
// trail has under the name of the user of this host, and which ends with the command.
func TestServiceHost(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	cmd := exec.Command("attestcsr", "csr", "create", "--cn", "esx", "--data-dir", s.DataDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	name := "uid:" + strconv.Itoa(os.Geteuid())
	trail := func(stream string) (text string) {
		files, err := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, stream+"-*.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text += string(kit.Read(t, "", file))
		}
		return text
	}
	has := func(stream string, parts ...string) func() bool {
		return func() bool {
			for line := range strings.Lines(trail(stream)) {
				found := true
				for _, part := range parts {
					found = found && strings.Contains(line, part)
				}
				if found {
					return true
				}
			}
			return false
		}
	}
	kit.Eventually(t, "the login is in the trail", has("refusals", `"event":"login"`, `"user":"`+name, `"method":"control"`))
	kit.Eventually(t, "the logout is in the trail", has("refusals", `"event":"logout"`, `"user":"`+name))
	kit.Eventually(t, "the change is in the trail", has("changes", `"operation":"csr.create"`, `"user":"`+name, `"method":"session"`))
}

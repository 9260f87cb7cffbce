package start_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

func signal(t *testing.T, s *start.Instance, sig syscall.Signal) {
	t.Helper()
	if err := s.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// TestHangUp: SIGHUP takes other privileges and another level of the log from the
// settings file, names what needs a restart, and is a line of the trail. A file with an
// error changes nothing.
func TestHangUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	users := kit.Overwrite(t, dir, "users", start.UserLine(t, start.User, start.Password))
	write := func(privileges, rest string) string {
		return kit.Overwrite(t, dir, "attestcsr.yaml", "key_pool:\n  targets: {}\nauth:\n  users_file: "+users+"\n  privileges:\n    admin: ["+privileges+"]\n"+rest)
	}
	s := start.Serve(t, start.Options{Config: write(`"policy_certificate:read"`, "")})
	session := s.LogIn()
	s.Must(http.StatusForbidden, "GET", start.CSRPath, "", session)

	write("SECURITY_MGMT", "log:\n  level: debug\nlimits:\n  sessions: 77\n")
	signal(t, s, syscall.SIGHUP)
	kit.Eventually(t, "the privilege", func() bool { return s.Answers(http.StatusNotFound, start.CSRPath, session) })
	s.WantLog(`"settings_taken":["auth.privileges","log.level"],"settings_waiting_for_a_restart":["limits.sessions"]`)
	if l := wantLine(t, s.DataDir, "settings.change", 1); !slices.Equal(l.Settings, []string{"auth.privileges", "log.level"}) || l.User != "system:service" {
		t.Errorf("%+v", l)
	}
	s.Must(http.StatusOK, "GET", "/healthz", "", start.Anonymous)
	s.WantLog(`"level":"DEBUG","msg":"request"`)

	signal(t, s, syscall.SIGHUP)
	s.WantLog(`"settings_taken":[],"settings_waiting_for_a_restart":["limits.sessions"]`)

	write("nonsense", "")
	signal(t, s, syscall.SIGHUP)
	s.WantLog("not reloaded")
	s.Must(http.StatusNotFound, "GET", start.CSRPath, "", session)
	kit.Remove(t, dir, "attestcsr.yaml")
	signal(t, s, syscall.SIGHUP)
	kit.Eventually(t, "another refusal", func() bool { return strings.Count(s.Stdout.String(), "not reloaded") == 2 })
	if err := syscall.Mkfifo(filepath.Join(dir, "attestcsr.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	signal(t, s, syscall.SIGHUP)
	s.WantLog("no file that can be read twice")
	kit.Remove(t, dir, "attestcsr.yaml")

	write(`"policy_certificate:read"`, "log:\n  level: debug\n")
	signal(t, s, syscall.SIGHUP)
	kit.Eventually(t, "the privilege is gone", func() bool { return s.Answers(http.StatusForbidden, start.CSRPath, session) })
	wantLine(t, s.DataDir, "settings.change", 2)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	must(t, s.DataDir, "audit verify")
	s.Again()
	wantLine(t, s.DataDir, "service.start", 2)
	wantLine(t, s.DataDir, "settings.change", 2) // what a reload took is no change of the next start
}

// TestHangUpFiles: SIGHUP reads users and certificate at once.
func TestHangUpFiles(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	kit.Overwrite(t, filepath.Dir(s.Config()), "users", "garbage\n")
	signal(t, s, syscall.SIGHUP)
	s.WantLog("not reloaded: everything stays as it was")
	s.Must(http.StatusNotFound, "GET", start.CSRPath, "")
	kit.Overwrite(t, filepath.Dir(s.Config()), "users", start.UserLine(t, start.User, "another"))
	signal(t, s, syscall.SIGHUP)
	s.WantLog(`"msg":"reloaded`)
	s.Must(http.StatusUnauthorized, "GET", start.CSRPath, "")
	s.Must(http.StatusNotFound, "GET", start.CSRPath, "", start.As(start.User, "another"))
}

// TestHangUpAnyTime: SIGHUP ends the service neither while it starts nor many times in
// a row. One that comes during the start is not forgotten.
func TestHangUpAnyTime(t *testing.T) {
	t.Parallel()
	s := start.Launch(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	kit.Eventually(t, "data_dir", func() bool { _, err := os.Stat(s.DataDir); return err == nil })
	signal(t, s, syscall.SIGHUP)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s.WantLog(`"msg":"reloaded`)
	s.Password = s.InitialPassword()
	const times = 200
	for range times {
		signal(t, s, syscall.SIGHUP)
		s.Must(http.StatusNotFound, "GET", start.CSRPath, "")
	}
	kit.Count(t, "hang-ups survived", times)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// slowRequest sends a create without the end of its body. What it returns sends the
// rest and reads the answer.
func slowRequest(t *testing.T, s *start.Instance) (finish func() []start.Answer) {
	t.Helper()
	conn := s.DialRaw(t)
	body := start.ECSpec("a.example.com")
	write := func(text string) {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	write("POST " + start.NSXCSRs + "/slow?action=create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n" +
		s.Authorization() + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body[:10]))
	kit.Eventually(t, "the request in flight", func() bool { return s.Metric("attestcsr_http_requests_in_flight") > 0 })
	return func() []start.Answer {
		write(body[10:])
		return start.ReadAnswers(t, conn)
	}
}

// TestSignalsWhileDraining: a service that drains ignores SIGHUP, and a second SIGTERM or
// SIGINT ends it at once.
func TestSignalsWhileDraining(t *testing.T) {
	t.Parallel()
	drain := func(t *testing.T) (*start.Instance, func() []start.Answer) {
		t.Helper()
		s := start.Serve(t, start.Options{Binary: start.Binary(t)})
		finish := slowRequest(t, s)
		signal(t, s, syscall.SIGTERM)
		s.WantLog("shutting down")
		return s, finish
	}
	t.Run("SIGHUP", func(t *testing.T) {
		t.Parallel()
		s, finish := drain(t)
		signal(t, s, syscall.SIGHUP)
		signal(t, s, syscall.SIGQUIT)
		if got := finish(); len(got) != 1 || got[0].Status != http.StatusCreated {
			t.Errorf("%v", got)
		}
		<-s.Exited
		if s.Err != nil || strings.Contains(s.Stdout.String(), "reloaded") {
			t.Errorf("%v %s", s.Err, s.Stdout)
		}
	})
	for name, second := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := drain(t)
			began := time.Now()
			signal(t, s, second)
			<-s.Exited
			status, is := s.Cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !is || status.Signal() != second || time.Since(began) > 5*time.Second {
				t.Errorf("%v after %s", s.Err, time.Since(began))
			}
		})
	}
}

// TestQuit: SIGQUIT shows what the goroutines do, and none of the secrets. The service
// goes on.
func TestQuit(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	finish := slowRequest(t, s)
	login := &http.Request{Header: http.Header{}}
	s.LogIn()(login)
	s.Stderr.Reset()
	signal(t, s, syscall.SIGQUIT)
	kit.Eventually(t, "the goroutines", func() bool { return strings.Contains(s.Stderr.String(), "attestcsr/server.(*Server).Run") })
	if got := finish(); got[0].Status != http.StatusCreated {
		t.Errorf("%v", got)
	}
	text := s.Stderr.String()
	for name, pattern := range map[string]string{ // test/secrets looks for all others
		"an argument": `(?m)^\S+\((0x|{)`, "the password": s.Password, "the session": login.Header.Get("vmware-api-session-id"),
	} {
		if found := regexp.MustCompile(pattern).FindString(text); found != "" {
			t.Errorf("%s: %s", name, found)
		}
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// TestSystemd: a unit of Type=notify learns when the service is ready, reloads and stops,
// and that it is alive.
func TestSystemd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	states := make(chan string, 1000)
	go func() {
		for buffer := make([]byte, 4096); ; {
			n, err := conn.Read(buffer)
			if err != nil {
				close(states)
				return
			}
			states <- string(buffer[:n])
		}
	}()
	next := func(pattern string) string {
		t.Helper()
		for {
			select {
			case state := <-states:
				if state == "WATCHDOG=1" && pattern != state {
					continue
				}
				if !regexp.MustCompile("^" + pattern + "$").MatchString(state) {
					t.Fatalf("%q, want %s", state, pattern)
				}
				return state
			case <-time.After(time.Minute):
				t.Fatalf("no %s", pattern)
			}
		}
	}
	s := start.Serve(t, start.Options{Edit: func(cmd *exec.Cmd) {
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	}})
	next("READY=1")
	for range 5 {
		next("WATCHDOG=1")
	}
	for range 2 {
		signal(t, s, syscall.SIGHUP)
		next(`RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+\n?`)
		next("READY=1")
	}
	kit.Overwrite(t, filepath.Dir(s.Config()), "config.yaml", "nonsense: 1\n")
	signal(t, s, syscall.SIGHUP)
	next(`RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]+\n?`)
	next("READY=1")
	signal(t, s, syscall.SIGTERM)
	next("STOPPING=1")
	<-s.Exited
	if s.Err != nil {
		t.Error(s.Err)
	}
}

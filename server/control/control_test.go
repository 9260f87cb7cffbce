package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/csr/audit"
	"attestcsr/server/control"
	"attestcsr/test/kit"
)

// operations answer to what the tests ask for; all else panics.
type operations struct {
	control.Operations
	who   audit.Request
	block chan struct{}
}

func (o operations) ResetPassword(_ context.Context, terminal bool) (control.Password, error) {
	if !terminal {
		return control.Password{}, errors.New("no terminal, " + o.who.Method)
	}
	return control.Password{Shown: o.who.User}, nil
}

func (o operations) CheckStore(ctx context.Context) (control.StoreReport, error) {
	o.block <- struct{}{}
	<-ctx.Done()
	return control.StoreReport{}, ctx.Err()
}

func serve(t *testing.T, dir string) (*control.Server, operations, *kit.Buffer) {
	t.Helper()
	log, o := &kit.Buffer{}, operations{block: make(chan struct{}, 100)}
	s, err := control.Start(dir, slog.New(slog.NewTextHandler(log, nil)), func(who audit.Request) control.Operations {
		o := o
		o.who = who
		return o
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, o, log
}

func stop(t *testing.T, s *control.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// TestSocket: a path of any length, the mode, answers and errors, and nothing is left
// behind. What a killed process left is replaced.
func TestSocket(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if _, err := control.Dial(t.Context(), dir); !errors.Is(err, control.ErrNoService) {
		t.Errorf("without a data_dir: %v", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Dial(t.Context(), dir); !errors.Is(err, control.ErrNoService) {
		t.Errorf("without a socket: %v", err)
	}
	kit.Overwrite(t, dir, control.SocketFile, "of a process that was killed")
	s, _, log := serve(t, dir)
	info, err := os.Stat(filepath.Join(dir, control.SocketFile))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var o control.Operations = client
	if p, err := o.ResetPassword(t.Context(), true); err != nil || p != (control.Password{Shown: control.Self().User}) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := o.ResetPassword(t.Context(), false); err == nil || err.Error() != "no terminal, control" {
		t.Errorf("%v", err)
	}
	if !strings.Contains(log.String(), "operation=reset-password") {
		t.Errorf("not logged: %s", log)
	}
	stop(t, s)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := o.ResetPassword(t.Context(), true); !errors.Is(err, control.ErrNoService) {
		t.Errorf("after Stop: %v", err)
	}
}

// TestNoSocket: where no socket can be, Start says so.
func TestNoSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, control.SocketFile, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Start(dir, slog.New(slog.DiscardHandler), nil); err == nil || !strings.Contains(err.Error(), control.SocketFile) {
		t.Errorf("%v", err)
	}
}

// TestMany: more commands than the bound wait for their turn, and Stop ends those that
// do not end by themselves.
func TestMany(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, o, _ := serve(t, dir)
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const all, atOnce = 20, 8
	var tasks sync.WaitGroup
	for range all {
		tasks.Go(func() {
			if _, err := client.CheckStore(t.Context()); err == nil {
				t.Error("a check that never ends has succeeded")
			}
		})
	}
	for range atOnce {
		<-o.block
	}
	select {
	case <-o.block:
		t.Errorf("more than %d at once", atOnce)
	case <-time.After(100 * time.Millisecond):
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	tasks.Wait()
}

// TestCommandEnds: an operation ends with the command that asked for it.
func TestCommandEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, o, log := serve(t, dir)
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-o.block; cancel() }()
	if _, err := client.CheckStore(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	kit.Eventually(t, "the operation ends", func() bool { return strings.Contains(log.String(), "context canceled") })
	stop(t, s)
}

// TestBadRequests: what no command of ours sends is refused and does nothing.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _, _ := serve(t, dir)
	defer stop(t, s)
	raw := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, control.SocketFile))
	}}}
	for _, test := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/reset-password", "true", 200},
		{"POST", "/reset-password", "", 400},
		{"POST", "/reset-password", "true true", 400},
		{"POST", "/reset-password", `{"terminal":true}`, 400},
		{"POST", "/reset-password", strings.Repeat(" ", 64<<10) + "true", 400},
		{"POST", "/check-store", `{"x":1}`, 400},
		{"GET", "/reset-password", "", 405},
		{"POST", "/", "", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, "http://control"+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := raw.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != test.want || test.want == 400 && !bytes.HasPrefix(answer, []byte(`{"error":"`)) {
			t.Errorf("%s %s %.20q: %s %s, %v", test.method, test.path, test.body, resp.Status, answer, err)
		}
	}
}

// TestForeignUser: a user who is neither root nor the service's is refused, whatever the
// modes of files are.
func TestForeignUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can be two users")
	}
	dir, err := os.MkdirTemp("", "control") //nolint:usetesting // other users have to get there
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	kit.Chmod(t, dir, ".", 0o755)
	s, _, _ := serve(t, dir)
	defer stop(t, s)
	const other = 54322
	if c, err := connectAs(other, dir); err == nil {
		c.Close()
		t.Error("another user can connect in spite of the mode of the socket")
	}
	kit.Chmod(t, dir, control.SocketFile, 0o666)
	for uid, want := range map[int]string{0: `{"shown":"uid:0 (root)"}`, other: `{"error":"uid:54322 may not use the control socket: `} {
		foreigner := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			return connectAs(uid, dir)
		}}}
		resp, err := foreigner.Post("http://control/reset-password", "", strings.NewReader("true"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.HasPrefix(answer, []byte(want)) {
			t.Errorf("uid %d: %s, %v", uid, answer, err)
		}
	}
}

// connectAs connects on a thread that has become another user. The thread ends with its
// goroutine.
func connectAs(uid int, dir string) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			err = errno
			return
		}
		c, err = net.Dial("unix", filepath.Join(dir, control.SocketFile))
	}()
	<-done
	return c, err
}

// TestOtherVersion: a service that answers what this version does not know is named.
func TestOtherVersion(t *testing.T) {
	t.Parallel()
	for status, body := range map[int]string{200: `{"shown":"x","new":1}`, 404: "404 page not found\n", 500: `{}x`} {
		dir := t.TempDir()
		l, err := net.Listen("unix", filepath.Join(dir, control.SocketFile))
		if err != nil {
			t.Fatal(err)
		}
		other := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})}
		go func() { _ = other.Serve(l) }()
		client, err := control.Dial(t.Context(), dir)
		if err == nil {
			_, err = client.ResetPassword(t.Context(), true)
		}
		if err == nil || !strings.Contains(err.Error(), "another version") {
			t.Errorf("%d %s: %v", status, body, err)
		}
		other.Close()
	}
}

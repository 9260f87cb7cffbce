package hostile_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/server/admit"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestLimitsTakeEffect: a running service keeps to every limit of its settings.
func TestLimitsTakeEffect(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Args: []string{"--ops-listen", "127.0.0.1:0"}, Settings: `limits:
  csrs: 2
  certificates: 1
  connections: 40
  connections_per_address: 6
  header_bytes: 4096
  body_bytes: 1024
  read_header_timeout: 1s
  read_timeout: 2s
  write_timeout: 5s
  idle_timeout: 3s
  sessions: 3
  sessions_per_user: 2
  memory: 300MiB
`})
	s.WantLog(`"memory limit of the garbage collector","bytes":314572800`)
	for i, want := range []int{201, 201, 400} {
		s.Must(want, "POST", fmt.Sprintf("%s/%d?action=create", start.NSXCSRs, i), start.ECSpec("x"))
	}
	s.Must(201, "POST", start.NSXCSRs+"/0?action=self_sign", "")
	if full := s.Must(400, "POST", start.NSXCSRs+"/1?action=self_sign", ""); !strings.Contains(full, "certificates is full: it takes 1 objects") {
		t.Error(full)
	}
	for _, want := range []int{201, 201, 503} {
		s.Must(want, "POST", start.SessionPath, "")
	}
	s.Must(413, "POST", start.CSRPath, strings.Repeat(" ", 1025))
	s.Must(400, "POST", start.CSRPath, strings.Repeat(" ", 1024))
	// net/http reads 4096 bytes more than the limit, and another 4096 where the
	// connection was idle before.
	s.Must(431, "GET", start.CSRPath+"?"+strings.Repeat("a", 4096+8192), "")
	v := &victim{Instance: s}
	v.checkTimeouts(t)
	v.checkConnectionBounds(t)
}

// checkTimeouts measures when the server ends connections whose clients stop sending.
func (v *victim) checkTimeouts(t *testing.T) {
	t.Helper()
	var wg sync.WaitGroup
	for name, c := range map[string]struct {
		sent     string
		min, max time.Duration
	}{
		"read_header_timeout": {"GET / HTTP/1.1\r\n", 800 * time.Millisecond, 2 * time.Second},
		"idle_timeout":        {"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 2800 * time.Millisecond, 6 * time.Second},
		"read_timeout": {"POST " + start.CSRPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n" + v.Authorization() + "\r\n",
			1800 * time.Millisecond, 5 * time.Second},
	} {
		wg.Go(func() {
			conn, err := v.dialTLS(t, 1, hostileTLS())
			if err != nil {
				t.Error(err)
				return
			}
			begun := time.Now()
			_, err = io.WriteString(conn, c.sent)
			if err == nil {
				err = conn.SetReadDeadline(begun.Add(20 * time.Second))
			}
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, conn) // however it ends
			if took := time.Since(begun); took < c.min || took > c.max {
				t.Errorf("%s: a connection ended after %v", name, took)
			}
		})
	}
	wg.Wait()
}

// checkConnectionBounds opens more connections than one address may have, and more
// than there may be in all.
func (v *victim) checkConnectionBounds(t *testing.T) {
	t.Helper()
	held := 0
	for range 12 { // of one address
		if _, err := v.dial(t, 2); err != nil {
			t.Fatal(err)
		}
		held++
	}
	for i := range 60 { // and of many
		if _, err := v.dial(t, 3+i); err != nil {
			t.Fatal(err)
		}
		held++
	}
	// ops_listen has room while listen is full.
	ops := v.WithClient(&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}})
	ops.URL = v.Ops
	for _, bound := range []string{admit.BoundOfAddress, admit.BoundInAll} {
		kit.Eventually(t, "connections are closed at the bound "+bound, func() bool {
			return ops.Metric(`attestcsr_connections_shed_total{listener="api",bound="`+bound+`"}`) > 0
		})
	}
	kit.Count(t, "connections held", held)
}

// TestFewFiles: a process that may open fewer files than limits.connections needs says
// so at the start and takes fewer connections.
func TestFewFiles(t *testing.T) {
	t.Parallel()
	few := start.Serve(t, start.Options{Edit: func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 150; exec "$@"`, "sh"}, cmd.Args...)
		cmd.Path = "/bin/sh"
	}})
	few.WantLog(`"limits_connections":2000,"used":86,"open_files_needed":2064`)
	v := &victim{Instance: few}
	for i := range 300 {
		if _, err := v.dial(t, i); err != nil {
			t.Fatal(err)
		}
	}
	few.Must(200, "GET", "/readyz", "")
	if strings.Contains(few.Stdout.String(), "too many open files") {
		t.Error("it ran out of files")
	}
}

package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestStopDuringCreates: what was accepted is answered, what comes later gets a
// 503 or no connection, and no answer is anything else.
func TestStopDuringCreates(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	var (
		mu      sync.Mutex
		created []string
		clients sync.WaitGroup
		begun   = make(chan struct{}, 1<<16)
	)
	for range 8 {
		clients.Go(func() {
			for status := 201; status == 201; {
				begun <- struct{}{}
				a, err := s.Do("POST", start.CSRPath, start.ValidSpec)
				status = a.Status // none where the connection is refused or closed
				switch {
				case err != nil:
				case status == 201:
					mu.Lock()
					created = append(created, a.Body)
					mu.Unlock()
				case status != 503:
					t.Errorf("%d %s", status, a.Body)
				}
			}
		})
	}
	for range 24 {
		<-begun
	}
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v %s", err, s.Stderr)
	}
	clients.Wait()
	if len(created) < 8 {
		t.Errorf("requests in flight were not answered: %d creates", len(created))
	}
	if stored := s.Again().Must(200, "GET", start.CSRPath, ""); !slices.Contains(created, stored) {
		t.Error("the stored CSR was never answered")
	}
}

// TestCreatesDuringScrapesAndReloads: neither a scrape nor a reload of the users or
// of the server's certificate costs a create its answer. The service is the test
// binary, so that the race detector sees it under load.
func TestCreatesDuringScrapesAndReloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pairs := []string{start.Prepare(t, start.Options{}), start.Prepare(t, start.Options{})}
	useCertificate(t, pairs[0], dir)
	s := start.Serve(t, start.Options{
		Settings: "key_pool:\n  targets: {2048: 2}\n",
		Args:     []string{"--tls-cert-file", filepath.Join(dir, "cert"), "--tls-key-file", filepath.Join(dir, "key")},
	})
	scrapes := repeat(func(int) { s.Must(200, "GET", "/metrics", "") })
	users := start.UserLine(t, start.User, start.Password)
	reloads := repeat(func(n int) {
		useCertificate(t, pairs[(n+1)%2], dir)
		kit.Overwrite(t, filepath.Dir(s.Config()), "users", users+strings.Repeat("\n", n%2))
		time.Sleep(time.Second) // files are looked at four times a second, and taken when two looks agree
	})
	const creates = 15 // of each client: RSA keys take their time under the race detector
	var clients sync.WaitGroup
	for k := range 4 {
		clients.Go(func() {
			for i := range creates {
				path, spec := start.CSRPath, start.ValidSpec
				if k%2 == 1 {
					path, spec = fmt.Sprintf("%s/%d-%d?action=create", start.NSXCSRs, k, i), start.ECSpec("a")
				}
				if a, err := s.Do("POST", path, spec); err != nil || a.Status != 201 {
					t.Errorf("%s: %v %d %s", path, err, a.Status, a.Body)
				}
				if k%2 == 1 { // of a new connection, which gets the certificate of the moment
					s.Client.CloseIdleConnections()
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	clients.Wait()
	if m, n := scrapes(), reloads(); m < 10 || n < 2 {
		t.Errorf("%d scrapes, %d reloads", m, n)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.Stderr)
	}
	// A look between the two files of a pair finds a mismatch, says so and keeps the one before.
	log := s.Stdout.String()
	if !strings.Contains(log, "server certificate replaced") || strings.Contains(log, `"level":"ERROR","msg":"request"`) {
		t.Errorf("the log:\n%s", log)
	}
}

// repeat calls a function again and again until it is told to end, and counts.
func repeat(do func(n int)) (end func() int) {
	var ended atomic.Bool
	count := make(chan int, 1)
	go func() {
		n := 0
		defer func() { count <- n }()
		for ; !ended.Load(); n++ {
			do(n)
		}
	}()
	return func() int {
		ended.Store(true)
		return <-count
	}
}

// useCertificate copies the server certificate of a data directory.
func useCertificate(t *testing.T, dataDir, to string) {
	t.Helper()
	kit.CopyFile(t, filepath.Join(dataDir, server.OwnKeyFile), filepath.Join(to, "key"))
	kit.CopyFile(t, filepath.Join(dataDir, server.OwnCertFile), filepath.Join(to, "cert"))
}

// TestKill ends the service with SIGKILL while eight writers work on it in both
// dialects, again and again on the same data. After each: every stored key is that
// of its CSR or certificate, what was acknowledged is there, and a change that was
// under way happened or did not.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := kit.Effort(40, 1000)
	const renew = 25 // a fresh data directory after so many
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}
	prepared := start.Prepare(t, o)
	var all []*writer
	acks := 0
	for n := range kills {
		if n%renew == 0 {
			o.DataDir = filepath.Join(t.TempDir(), "data")
			start.CopyData(t, prepared, o.DataDir)
			before, err := inspectCopy(t, o.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			all = writers(t, before.stored)
		}
		s := start.Serve(t, o)
		// Some lives end before their first change is acknowledged.
		workUntil(t, s, all, n%4*8, time.Duration(n*7%60)*time.Millisecond, s.Kill)
		if !s.Killed() {
			t.Fatalf("not killed: %v\n%s", s.Cmd.ProcessState, s.Stderr)
		}
		quiet(t, fmt.Sprint("kill ", n), s)
		found, err := inspectCopy(t, o.DataDir)
		if err != nil {
			t.Fatalf("after kill %d: %v", n, err)
		}
		for _, w := range all {
			w.settle(t, found)
		}
		if t.Failed() {
			t.Fatalf("after kill %d", n)
		}
		if (n+1)%renew == 0 || n+1 == kills {
			for _, w := range all {
				acks += len(w.requests)
			}
		}
	}
	kit.Count(t, "kills", kills)
	kit.Count(t, "kills beside an audit trail", kills)
	if long := kit.Effort(0, 1); long > 0 {
		kit.Count(t, "long runs", long) // make soak wants to see that it is one
	}
	kit.Count(t, "changes acknowledged before a kill", acks)
}

// quiet fails the test where a process said what no process of ours may say.
func quiet(t *testing.T, what string, s *start.Instance) {
	t.Helper()
	for _, word := range []string{"panic", "fatal error", "goroutine "} {
		if text := s.Stdout.String() + s.Stderr.String(); strings.Contains(text, word) {
			t.Errorf("%s: the process says %q:\n%s", what, word, text)
			return
		}
	}
}

// TestLeftovers: a start removes what crashes of a while ago have left half-written,
// and nothing else.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	dir := start.Prepare(t, start.Options{})
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	hoursAgo := time.Now().Add(-3 * time.Hour)
	for _, name := range []string{".store-123.tmp", ".tls-key.pem-456.tmp"} {
		if err := os.Chtimes(kit.Overwrite(t, dir, name, "half"), hoursAgo, hoursAgo); err != nil {
			t.Fatal(err)
		}
	}
	if err := start.Serve(t, start.Options{DataDir: dir}).Stop(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%v, want %v, %v", after, before, err)
	}
}

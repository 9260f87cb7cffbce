package crash_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestStopDuringCreates: what was accepted is answered, what comes later gets a
// 503 or no connection, and no answer is anything else.
func TestStopDuringCreates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start.Serve(t, dir)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	var (
		mu      sync.Mutex
		created []string
		counts  = map[string]int{}
		wg      sync.WaitGroup
		begun   = make(chan struct{}, 64)
	)
	for range 8 {
		wg.Go(func() {
			for {
				begun <- struct{}{}
				status, body, err := s.Do("POST", start.CSRPath, start.ValidSpec, "")
				mu.Lock()
				switch {
				case err != nil:
					counts["connection refused or closed"]++
				case status == 201:
					counts["created"]++
					created = append(created, start.Member(t, body, "csr"))
				case status == 503:
					counts["unavailable"]++
				default:
					t.Errorf("%d %s", status, body)
				}
				mu.Unlock()
				if err != nil || status != 201 {
					return
				}
			}
		})
	}
	for range 24 {
		<-begun
	}
	go func() {
		for range begun {
		}
	}()
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v %s", err, s.Stderr)
	}
	wg.Wait()
	close(begun)
	t.Logf("%v", counts)
	if counts["created"] < 8 {
		t.Errorf("requests in flight were not answered: %v", counts)
	}
	again := start.Serve(t, dir)
	again.Password = s.Password
	if stored := start.Member(t, again.Must(200, "GET", start.CSRPath, ""), "csr"); !slices.Contains(created, stored) {
		t.Error("the stored CSR was never answered")
	}
}

// TestCreatesDuringScrapesAndReloads: neither a scrape nor a reload of the users or
// of the server's certificate costs a create its answer. The service is the test
// binary, so that the race detector sees it under load.
func TestCreatesDuringScrapesAndReloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "data")
	if err := start.Serve(t, other).Stop(); err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "password", "swordfish")
	kit.Overwrite(t, dir, "config.yaml", "key_pool:\n  targets: {2048: 2}\nadmin_password_file: "+filepath.Join(dir, "password")+"\n")
	s := start.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	s.Password = "swordfish"
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)

	const creates = 15 // of each client: RSA keys take their time under the race detector
	var scrapes, reloads int
	done := make(chan struct{})
	var disturbers, clients sync.WaitGroup
	disturbers.Go(func() {
		for ; ; scrapes++ {
			select {
			case <-done:
				return
			default:
				s.Must(200, "GET", "/metrics", "")
			}
		}
	})
	disturbers.Go(func() { reloads = reloadFiles(t, s, other, done) })
	for k := range 4 {
		clients.Go(func() {
			for i := range creates {
				path, spec := start.CSRPath, start.ValidSpec
				if k%2 == 1 {
					path, spec = fmt.Sprintf("%s/%d-%d?action=create", requestsPath, k, i), requestBody("a")
				}
				if status, body, err := s.Do("POST", path, spec, ""); err != nil || status != 201 {
					t.Errorf("%s: %v %d %s", path, err, status, body)
				}
				if k%2 == 1 { // of a new connection, which gets the certificate of the moment
					s.Client.CloseIdleConnections()
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	clients.Wait()
	close(done)
	disturbers.Wait()
	if scrapes < 10 || reloads < 2 {
		t.Errorf("%d scrapes, %d reloads", scrapes, reloads)
	}
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.Stderr)
	}
	// A look between the two files of a pair finds a mismatch, says so and keeps the one before.
	log := s.Stdout.String()
	if !strings.Contains(log, "server certificate replaced") || strings.Contains(log, `"level":"ERROR","msg":"request"`) {
		t.Errorf("the log, of %d scrapes and %d reloads:\n%s", scrapes, reloads, log)
	}
}

// reloadFiles gives the service the server certificate of another data directory and
// its own in turn, and the same users again, until done. It returns how often.
func reloadFiles(t *testing.T, s *start.Instance, other string, done <-chan struct{}) (reloads int) {
	t.Helper()
	pairs := [][]byte{kit.Read(t, other, server.OwnCertFile), kit.Read(t, other, server.OwnKeyFile), kit.Read(t, s.DataDir, server.OwnCertFile), kit.Read(t, s.DataDir, server.OwnKeyFile)}
	users := kit.Read(t, s.DataDir, server.AdminHashFile)
	for ; ; reloads++ {
		select {
		case <-done:
			return reloads
		case <-time.After(300 * time.Millisecond): // files are looked at four times a second
		}
		pair := pairs[reloads%2*2:]
		kit.Overwrite(t, s.DataDir, server.OwnKeyFile, string(pair[1]))
		kit.Overwrite(t, s.DataDir, server.OwnCertFile, string(pair[0]))
		kit.Overwrite(t, s.DataDir, server.AdminHashFile, string(users)+strings.Repeat("\n", reloads%2))
	}
}

// TestKill ends the service with SIGKILL while eight writers work on it in both
// dialects, again and again on the same data. After each: every stored key is that
// of its CSR or certificate, what was acknowledged is there, and a change that was
// under way happened or did not.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := kit.Effort(40, 1000)
	const renew = 25 // a fresh data directory after so many
	binary := start.Binary(t)
	dir := t.TempDir()
	args := settings(t, dir)
	fresh, err := faultfs.Load(prepare(t, binary, dir, args))
	if err != nil {
		t.Fatal(err)
	}
	var all []*writer
	acks := 0
	data := ""
	for n := range kills {
		if n%renew == 0 {
			data = filepath.Join(dir, fmt.Sprint("data", n))
			if err := fresh.Save(data); err != nil {
				t.Fatal(err)
			}
			before, err := auditCopy(t, data)
			if err != nil {
				t.Fatal(err)
			}
			all = writers(t, before)
		}
		s := start.LaunchBinary(t, binary, data, args...)
		if err := s.WaitReady(); err != nil {
			t.Fatal(err)
		}
		s.Password = testPassword
		// Some lives end before their first change is acknowledged.
		workUntil(t, s, all, n%4*8, time.Duration(n*7%60)*time.Millisecond, s.Kill)
		if s.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v\n%s", s.Cmd.ProcessState, s.Stderr)
		}
		quiet(t, fmt.Sprint("kill ", n), s)
		found, err := auditCopy(t, data)
		if err != nil {
			t.Fatalf("after kill %d: %v", n, err)
		}
		for _, w := range all {
			w.settle(t, found)
			acks += w.acks
			w.acks = 0
		}
		if t.Failed() {
			t.Fatalf("after kill %d", n)
		}
	}
	kit.Count(t, "kills", kills)
	if long := kit.Effort(0, 1); long > 0 {
		kit.Count(t, "long runs", long) // make soak wants to see that it is one
	}
	kit.Count(t, "changes acknowledged before a kill", acks)
}

// auditCopy audits a copy, so that the next start finds the store as a crash left
// it.
func auditCopy(t *testing.T, data string) (stored, error) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := copyData(data, to); err != nil {
		t.Fatal(err)
	}
	return auditData(t.Context(), to)
}

// TestLeftovers: a start removes what crashes of a while ago have left half-written,
// and nothing else.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if err := start.Serve(t, dir).Stop(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	hoursAgo := time.Now().Add(-3 * time.Hour)
	for _, name := range []string{".store-123.tmp", ".tls-key.pem-456.tmp"} {
		kit.Overwrite(t, dir, name, "half")
		if err := os.Chtimes(filepath.Join(dir, name), hoursAgo, hoursAgo); err != nil {
			t.Fatal(err)
		}
	}
	start.Serve(t, dir)
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%v, want %v, %v", after, before, err)
	}
}

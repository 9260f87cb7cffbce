package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStopDuringCreates: what was accepted is answered, what comes later gets a
// 503 or no connection, and no answer is anything else.
func TestStopDuringCreates(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := start(t, dir)
	s.must(201, "POST", csrPath, validSpec)
	var (
		mu     sync.Mutex
		last   []string
		counts = map[string]int{}
		wg     sync.WaitGroup
		begun  = make(chan struct{}, 64)
	)
	for range 8 {
		wg.Go(func() {
			for {
				begun <- struct{}{}
				status, body, err := s.do("POST", csrPath, validSpec, "")
				mu.Lock()
				switch {
				case err != nil:
					counts["connection refused or closed"]++
				case status == 201:
					counts["created"]++
					last = append(last, member(t, body, "csr"))
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
	if err := s.stop(); err != nil {
		t.Errorf("exit: %v %s", err, s.stderr)
	}
	wg.Wait()
	close(begun)
	t.Logf("%v", counts)
	if counts["created"] < 8 {
		t.Errorf("requests in flight were not answered: %v", counts)
	}
	again := start(t, dir)
	again.password = s.password
	stored := member(t, again.must(200, "GET", csrPath, ""), "csr")
	found := false
	for _, csr := range last {
		found = found || csr == stored
	}
	if !found {
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
	if err := start(t, other).stop(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, dir, "password", "swordfish")
	overwrite(t, dir, "config.yaml", "key_pool:\n  targets: {2048: 2}\n  max: 4\nadmin_password_file: "+filepath.Join(dir, "password")+"\n")
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	s.password = "swordfish"
	s.must(201, "POST", csrPath, validSpec)

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
				s.must(200, "GET", "/metrics", "")
			}
		}
	})
	disturbers.Go(func() {
		// The users are the same, the server's certificate is now one and now the other.
		pairs := [][]byte{read(t, other, ownCertFile), read(t, other, ownKeyFile), read(t, s.dataDir, ownCertFile), read(t, s.dataDir, ownKeyFile)}
		users := read(t, s.dataDir, adminHashFile)
		for ; ; reloads++ {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond): // files are looked at four times a second
			}
			pair := pairs[reloads%2*2:]
			overwrite(t, s.dataDir, ownKeyFile, string(pair[1]))
			overwrite(t, s.dataDir, ownCertFile, string(pair[0]))
			overwrite(t, s.dataDir, adminHashFile, string(users)+strings.Repeat("\n", reloads%2))
		}
	})
	for k := range 4 {
		clients.Go(func() {
			for i := range creates {
				path, spec := csrPath, validSpec
				if k%2 == 1 {
					path = fmt.Sprintf("/policy/api/v1/infra/csrs/%d-%d?action=create", k, i)
					spec = `{"subject":{"attributes":[{"key":"CN","value":"a"}]},"algorithm":"EC","key_size":256}`
				}
				if status, body, err := s.do("POST", path, spec, ""); err != nil || status != 201 {
					t.Errorf("%s: %v %d %s", path, err, status, body)
				}
				if k%2 == 1 { // of a new connection, which gets the certificate of the moment
					s.client.CloseIdleConnections()
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
	if err := s.stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.stderr)
	}
	// A look between the two files of a pair finds a mismatch, says so and keeps the one before.
	log := s.stdout.String()
	if !strings.Contains(log, "server certificate replaced") || strings.Contains(log, `"level":"ERROR","msg":"request"`) {
		t.Errorf("the log, of %d scrapes and %d reloads:\n%s", scrapes, reloads, log)
	}
	t.Logf("%d creates during %d scrapes and %d reloads", 4*creates, scrapes, reloads)
}

// TestKill ends the service with SIGKILL in the middle of creates, again and
// again on the same data. After each: the stored pair matches, and the last
// acknowledged CSR is stored or was replaced by a later one.
func TestKill(t *testing.T) {
	t.Parallel()
	const kills = 50
	dir := t.TempDir()
	// Not the test binary: the race detector would make most of it waiting.
	binary := filepath.Join(dir, "attestcsr")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	overwrite(t, dir, "password", "swordfish")
	order := map[string]int{} // CSR → how many were acknowledged before it
	for n := range kills {
		s := launchBinary(t, binary, filepath.Join(dir, "data"), "--admin-password-file", filepath.Join(dir, "password"))
		if err := s.waitReady(); err != nil {
			t.Fatal(err)
		}
		s.password = "swordfish"
		status, body, err := s.do("GET", csrPath, "", "")
		if err != nil || status != 200 && (status != 404 || len(order) > 0) {
			t.Fatalf("start %d: %v %d %s", n, err, status, body)
		}
		if status == 200 {
			stored := member(t, body, "csr")
			// One that was never acknowledged may have been committed last.
			if i, acknowledged := order[stored]; acknowledged && i != len(order)-1 {
				t.Fatalf("start %d: CSR %d of %d is stored", n, i+1, len(order))
			}
			// The key in the store belongs to the CSR: readiness opens it, and a
			// certificate for the CSR is accepted only over that key.
			if status, _, err := s.do("GET", "/readyz", "", ""); err != nil || status != 200 {
				t.Fatalf("start %d: readiness %d %v", n, status, err)
			}
		}
		// Some lives end before their first create is acknowledged.
		killed, acknowledged := make(chan struct{}), make(chan struct{}, 1000)
		go func() {
			for range n % 4 {
				select {
				case <-acknowledged:
				case <-s.exited:
				}
			}
			time.Sleep(time.Duration(n*7%60) * time.Millisecond)
			s.kill()
			close(killed)
		}()
		for {
			status, body, err := s.do("POST", csrPath, validSpec, "")
			if err != nil {
				break
			}
			if status != 201 {
				t.Fatalf("create: %d %s", status, body)
			}
			order[member(t, body, "csr")] = len(order)
			acknowledged <- struct{}{}
		}
		<-killed
		if s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v", s.cmd.ProcessState)
		}
	}
	if len(order) < kills {
		t.Errorf("only %d creates were acknowledged", len(order))
	}
	t.Logf("%d creates acknowledged over %d kills", len(order), kills)
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

package main

import (
	"os/exec"
	"path/filepath"
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

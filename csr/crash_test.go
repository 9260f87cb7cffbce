package csr_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/keystore"
)

const (
	// crashDirVariable makes TestCrashChild the victim, on that folder.
	crashDirVariable   = "ATTESTCSR_CRASH_TEST_DIR"
	crashRoundVariable = "ATTESTCSR_CRASH_TEST_ROUND"
	crashWriters       = 3
	crashKills         = 25
)

func openCrashed(t *testing.T, dir string) bench {
	t.Helper()
	return openBench(t, dir, func(c keystore.Custodian) keystore.Custodian { return curveOnly{c} })
}

// TestCrashChild is no test but the victim of TestKillDuringImport: writers that
// create requests and use them up, each line of its output an answer, until it
// is killed.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDirVariable)
	if dir == "" {
		return
	}
	b := openCrashed(t, dir)
	root := newAuthority(t, "root", nil)
	fmt.Println("ready")
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv(crashRoundVariable), w, i)
				made := b.createNamed(t, csr.NewRequest{ID: id, Spec: commonName(id)})
				fmt.Println("created", id) // one write call: lines are whole
				var err error
				if i%3 == 2 {
					_, err = b.selfSign(t, id, nil)
				} else {
					issued := root.issue(t, id, parseRequest(t, made.PEM).PublicKey)
					_, err = b.importNamed(t, id, csr.Import{PEM: pemOf(issued)})
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("imported", id)
			}
		})
	}
	wg.Wait()
}

// TestKillDuringImport kills a process that creates requests and imports their
// certificates, again and again on the same data. What it left is, for every
// request that was acknowledged, the request or its certificate, never both or
// neither, and each with its key.
func TestKillDuringImport(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	leftRequests, leftCertificates := 0, 0
	for round := range crashKills {
		created, imported := killDuringImport(t, dir, round)
		requests, certificates := checkImports(t, dir, fmt.Sprintf("%d-", round), created, imported)
		leftRequests += requests
		leftCertificates += certificates
	}
	if leftRequests == 0 || leftCertificates == 0 {
		t.Errorf("%d requests and %d certificates were left: the kills hit nothing", leftRequests, leftCertificates)
	}
}

// killDuringImport runs a child, kills it at a random moment after it is ready
// and returns what it acknowledged.
func killDuringImport(t *testing.T, dir string, round int) (created, imported []string) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDirVariable+"="+dir, fmt.Sprintf("%s=%d", crashRoundVariable, round))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, id, _ := strings.Cut(lines.Text(), " ")
		switch what {
		case "ready":
			time.AfterFunc(time.Duration(rand.Int64N(int64(50*time.Millisecond))), func() { _ = child.Process.Kill() })
		case "created":
			created = append(created, id)
		case "imported":
			imported = append(imported, id)
		default:
			t.Errorf("the child says: %s", lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Fatalf("the child was to be killed while it worked: %v", err)
	}
	return created, imported
}

// checkImports looks at what a round left, removes its certificates, and returns
// how many requests and certificates there were.
func checkImports(t *testing.T, dir, prefix string, created, imported []string) (requests, certificates int) {
	t.Helper()
	b := openCrashed(t, dir)
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	const request, certificate = 1, 2
	found := map[string]int{} // by the id of the request
	for _, r := range b.requests(t) {
		if !strings.HasPrefix(r.ID, prefix) {
			continue
		}
		found[r.ID] |= request
		requests++
		if !equalKeys(b.privateAt(t, csr.RequestSlot(r.ID)), parseRequest(t, r.PEM).PublicKey) {
			t.Errorf("the key of request %s is another", r.ID)
		}
	}
	for _, c := range b.certificates(t) {
		if found[c.DisplayName]&certificate != 0 {
			t.Errorf("two certificates for request %s", c.DisplayName)
		}
		found[c.DisplayName] |= certificate
		certificates++
		if !equalKeys(b.privateAt(t, csr.CertificateSlot(c.ID)), c.Chain[0].PublicKey) {
			t.Errorf("the key of certificate %s is another", c.ID)
		}
		if err := b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), c.ID); err != nil {
			t.Error(err)
		}
	}
	for id, is := range found {
		if is == request|certificate {
			t.Errorf("both the request %s and its certificate are there", id)
		}
	}
	for _, id := range created {
		if found[id] == 0 {
			t.Errorf("neither the request %s nor its certificate is there", id)
		}
	}
	for _, id := range imported {
		if found[id] != certificate {
			t.Errorf("the certificate of %s was acknowledged and is not there", id)
		}
	}
	return requests, certificates
}

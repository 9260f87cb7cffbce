package rollover_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"attestcsr/csr/audit"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// settings for verifiers that keep what they read for a second. The key of an NSX
// certificate is published too.
const settings = `certificate: {activate_after: %s}
signing: {rate: 100000}
publish:
  max_age: 1s
  retain: %s
  nsx: [%s]
`

// world is a service whose key is replaced again and again.
type world struct {
	*testing.T
	ca        *kit.CA
	luck      *rand.Rand
	verifiers verifiers
	service   atomic.Pointer[start.Instance] // the process of the moment
	named     string                         // the id of an NSX certificate
	pending   string                         // the CSR that was created last
	installed string                         // the CSR of the pair that was activated last
	kills     int
	restarts  int
}

// TestRollover: whoever reads the published keys, at whatever moment, and reads them again
// only when they have expired, knows the key of every token, whatever happens to the pair
// and to the process. Every signature that was answered is in the trail.
func TestRollover(t *testing.T) {
	t.Parallel()
	for n := range kit.Effort(4, 8) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, time.Second, retain)
			ended := w.work()
			rollovers := kit.Effort(8, 125)
			for i := range rollovers {
				w.rollover()
				if t.Failed() {
					t.Fatalf("after rollover %d", i+1)
				}
			}
			tokens := ended()
			w.wantEvidence(tokens)
			for _, problem := range w.verifiers.unknown {
				t.Error(problem)
			}
			kit.Count(t, "rollovers", rollovers)
			kit.Count(t, "tokens held against published keys", w.verifiers.pairs)
			t.Logf("%d tokens, %d kills, %d restarts", len(tokens), w.kills, w.restarts)
		})
	}
}

func newWorld(t *testing.T, activateAfter, retain time.Duration) *world {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &world{T: t, ca: kit.NewCA(t, "CA", time.Now()), luck: rand.New(rand.NewPCG(seed, 0))}
	config := start.Config(t, fmt.Sprintf(settings, activateAfter, retain, ""))
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Config: config})
	named := s.Must(201, "POST", start.NSXCSRs+"?action=self_sign", start.ECSpec("tokens.example.com"))
	_, w.named, _ = strings.Cut(named, `"id":"`)
	w.named, _, _ = strings.Cut(w.named, `"`)
	text := string(kit.Read(t, filepath.Dir(config), filepath.Base(config)))
	kit.Overwrite(t, filepath.Dir(config), filepath.Base(config), strings.Replace(text, "nsx: []", "nsx: ["+kit.JSON(w.named)+"]", 1))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	w.service.Store(s.Again())
	return w
}

// work begins to sign tokens and to read the keys. The function that it returns ends both
// and returns the tokens.
func (w *world) work() (end func() []token) {
	if err := w.verifiers.readKeys(w.service.Load()); err != nil {
		w.Fatal(err)
	}
	var (
		ended   atomic.Bool
		workers sync.WaitGroup
		mu      sync.Mutex
		all     []token
	)
	workers.Go(func() {
		for !ended.Load() {
			if err := w.verifiers.readKeys(w.service.Load()); err != nil {
				w.Error(err)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	for i, algorithm := range algorithms {
		workers.Go(func() {
			var c signer
			name := "attestation"
			if algorithm == jose.ES256 {
				name = "nsx-" + w.named
			}
			for n := 0; !ended.Load(); n++ {
				made, err := c.token(w.service.Load(), name, algorithm, fmt.Sprint(i, n))
				if err == nil {
					err = w.verifiers.addToken(made)
					mu.Lock()
					all = append(all, made)
					mu.Unlock()
				}
				if err != nil && !errors.Is(err, errAway) {
					w.Error(err)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() []token {
		ended.Store(true)
		workers.Wait()
		return all
	}
}

// rollover replaces the pair, with something in the way, and waits until the key signs.
func (w *world) rollover() {
	w.create()
	w.interfere(w.disturbances())
	w.set(w.pending)
	staged := w.pending
	w.interfere(append(w.disturbances(),
		w.create,
		func() { w.set(staged) },
		func() { // a newer CSR replaces the staged pair, unless that was active already
			w.create()
			staged = w.pending
			w.set(staged)
		},
		func() { // a newer one, after the staged one was withdrawn, unless that was active already
			out, err := exec.Command("attestcsr", "certificate", "unstage", "--data-dir", w.service.Load().DataDir).CombinedOutput()
			if err != nil {
				if !w.active(staged) {
					w.Errorf("unstage: %v\n%s", err, out)
				}
				return
			}
			w.create()
			staged = w.pending
			w.set(staged)
		},
		w.renew,
	))
	kit.Eventually(w, "the key is active", func() bool { return w.active(staged) })
	w.installed = staged
}

// interfere does one of the things, or nothing.
func (w *world) interfere(things []func()) {
	if n := w.luck.IntN(len(things) + 1); n < len(things) {
		things[n]()
	}
}

// disturbances end the process, at any moment until after a staged pair is due.
func (w *world) disturbances() []func() {
	wait := func() { time.Sleep(time.Duration(w.luck.IntN(2500)) * time.Millisecond) }
	return []func(){
		func() {
			wait()
			w.restart(func(s *start.Instance) {
				if err := s.Stop(); err != nil {
					w.Errorf("exit: %v\n%s", err, s.Stderr)
				}
			})
			w.restarts++
		},
		func() {
			wait()
			w.kill("GET", keySetPath, "")
		},
		func() {
			w.kill("POST", start.CSRPath, start.ValidSpec)
			w.create() // the CSR of the one before is not known
		},
		func() { w.kill("PUT", start.CertificatePath, w.certificateFor(w.pending)) },
	}
}

// kill ends the process soon after a request was begun.
func (w *world) kill(method, path, body string) {
	var begun sync.WaitGroup
	begun.Go(func() { _, _ = w.service.Load().Do(method, path, body) }) // it may have no answer
	time.Sleep(time.Duration(w.luck.IntN(30)) * time.Millisecond)
	w.restart((*start.Instance).Kill)
	begun.Wait()
	w.kills++
}

func (w *world) restart(end func(*start.Instance)) {
	s := w.service.Load()
	end(s)
	w.service.Store(s.Again())
}

func (w *world) create() {
	w.pending = start.Member(w, w.service.Load().Must(201, "POST", start.CSRPath, start.ValidSpec), "csr")
}

// set sets a new certificate for the key of a CSR.
func (w *world) set(request string) {
	w.service.Load().Must(204, "PUT", start.CertificatePath, w.certificateFor(request))
}

// renew sets a new certificate for the installed key, unless that was replaced just now.
func (w *world) renew() {
	if w.installed == "" {
		return
	}
	a, err := w.service.Load().Do("PUT", start.CertificatePath, w.certificateFor(w.installed))
	if err != nil || a.Status != 204 && w.active(w.installed) {
		w.Errorf("renewal: %v %d %s", err, a.Status, a.Body)
	}
}

func (w *world) certificateFor(request string) string {
	parsed, err := kit.ParseCSR(request)
	if err != nil {
		w.Fatal(err)
	}
	certificate := w.ca.Issue(w, "esx-01.example.com", parsed.PublicKey, func(c *x509.Certificate) {
		c.RawSubject, c.DNSNames = parsed.RawSubject, parsed.DNSNames
	})
	return kit.JSON(map[string]string{"certificate": kit.PEM(certificate)})
}

// active reports whether the installed certificate is for the key of a CSR.
func (w *world) active(request string) bool {
	parsed, err := kit.ParseCSR(request)
	if err != nil {
		w.Fatal(err)
	}
	chain, err := kit.ParseChain(start.Member(w, w.service.Load().Must(200, "GET", start.CertificatePath, ""), "certificate"))
	return err == nil && kit.SameKey(chain[0].PublicKey, parsed.PublicKey)
}

// wantEvidence looks for the line of each signature that was answered.
func (w *world) wantEvidence(tokens []token) {
	keys := evidence(w.T, w.service.Load())
	for _, t := range tokens {
		if got := keys[t.digest()]; got != t.keyID {
			w.Errorf("a signature of %s was answered, and the trail has it for %q", t.keyID, got)
		}
	}
}

// evidence stops the service and returns which key each digest was signed with, as the
// trail has it.
func evidence(t *testing.T, s *start.Instance) map[string]string {
	t.Helper()
	if err := s.Stop(); err != nil {
		t.Errorf("exit: %v\n%s", err, s.Stderr)
	}
	if out, err := exec.Command("attestcsr", "audit", "verify", "--data-dir", s.DataDir).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, audit.Signatures+"-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	for _, file := range files {
		for line := range strings.Lines(string(kit.Read(t, filepath.Dir(file), filepath.Base(file)))) {
			var l struct {
				Digest string
				KeyID  string `json:"kid"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			keys[l.Digest] = l.KeyID
		}
	}
	return keys
}

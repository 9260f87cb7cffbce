package crash_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	"attestcsr/server"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

const (
	requestsPath     = "/policy/api/v1/infra/csrs"
	certificatesPath = "/policy/api/v1/infra/certificates"

	pendingName   = "esx/attestation/csr"
	installedName = "esx/attestation/certificate"
	requestName   = "nsx/csrs/"         // and the id
	issuedName    = "nsx/certificates/" // and the common name
)

// stored is what a data directory holds: the PEM in each slot. Certificates of the
// NSX dialect go by their common name, since the server makes up their ids. unknown
// is a PEM that nobody was told yet.
type stored map[string]string

const unknown = "unknown"

// is reports whether s is what w says.
func (s stored) is(w stored) bool {
	return len(s) == len(w) && !slices.ContainsFunc(slices.Collect(maps.Keys(w)), func(name string) bool {
		got, ok := s[name]
		return !ok || got != w[name] && w[name] != unknown
	})
}

func (s stored) with(name, text string) stored {
	c := maps.Clone(s)
	c[name] = text
	return c
}

func (s stored) without(name string) stored {
	c := maps.Clone(s)
	delete(c, name)
	return c
}

func (s stored) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		text := strings.ReplaceAll(s[name], "\n", "")
		fmt.Fprintf(&b, "%s %d bytes …%s; ", name, len(text), text[max(0, len(text)-44):])
	}
	return b.String()
}

// auditData opens a data directory without a server and holds every record against the
// promises: its key opens at its slot with its payload, is the key of the CSR or
// certificate there, and the audit trail tells of it. It returns what is stored.
func auditData(ctx context.Context, dir string) (_ stored, err error) {
	store, err := bolt.Open(filepath.Join(dir, server.StoreFile), bolt.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, server.KeysetFile)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, custodian.Close()) }()
	var slots []keystore.Slot
	err = store.Refs(ctx, func(slot keystore.Slot, _ keystore.Ref) error {
		slots = append(slots, slot)
		return nil
	})
	if err != nil {
		return nil, err
	}
	found := stored{}
	counts := map[string]int{}
	for _, slot := range slots {
		counts[slot.Collection]++
		r, err := store.Get(ctx, slot)
		if err != nil {
			return nil, err
		}
		key, err := custodian.Open(ctx, keystore.Bind(slot, r.Payload), r.Ref)
		if err != nil {
			return nil, err
		}
		name, text, err := nameOf(r, key.Public())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", slot, err)
		}
		if name != "" {
			found[name] = text
		}
	}
	for collection, want := range counts {
		if n, err := store.Count(ctx, collection); err != nil || n != want {
			return nil, fmt.Errorf("%s is counted as %d records and has %d: %w", collection, n, want, err)
		}
	}
	return found, trailTells(ctx, dir, store, custodian, found)
}

// trailTells holds the audit trail against what is stored: it verifies, no change
// has two lines, and each CSR and certificate is in a line, or in a note that waits to
// become one.
func trailTells(ctx context.Context, dir string, store *bolt.Store, custodian *sealed.Custodian, found stored) error {
	mac, err := custodian.MAC(server.AuditPurpose)
	if err != nil {
		return err
	}
	told := map[string]bool{} // digests
	tell := func(text []byte) (revision uint64, err error) {
		var l struct {
			Revision    uint64 `json:"revision"`
			CSR         string `json:"csr_sha256"`
			Certificate string `json:"certificate_sha256"`
		}
		err = json.Unmarshal(text, &l)
		told[l.CSR], told[l.Certificate] = true, true
		return l.Revision, err
	}
	if err := store.Outbox(ctx, 0, math.MaxInt, func(_ uint64, note []byte) error {
		_, err := tell(note)
		return err
	}); err != nil {
		return err
	}
	snapshot := func(ctx context.Context) (audit.Snapshot, error) { return server.AuditSnapshot(ctx, dir) }
	folder := filepath.Join(dir, server.AuditDir)
	if _, err := os.Stat(folder); err == nil {
		streams, err := audit.Verify(ctx, audit.VerifyOptions{Dirs: []string{folder}, MAC: mac, Snapshot: snapshot})
		if err != nil {
			return err
		}
		for _, s := range streams {
			if len(s.Problems) > 0 {
				return fmt.Errorf("audit verify: %v", s.Problems)
			}
		}
	} else if s, err := snapshot(ctx); err != nil {
		return err
	} else if s.Anchors[audit.Changes] != nil {
		return errors.New("the store knows of an audit trail that is not there")
	}
	files, err := filepath.Glob(filepath.Join(folder, audit.Changes+"-*.jsonl"))
	if err != nil {
		return err
	}
	revisions := map[uint64]bool{0: false} // a line that opens a file has none
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(content) {
			if !bytes.HasSuffix(line, []byte("\n")) || bytes.IndexByte(line, 0) >= 0 {
				break // torn, as Verify agrees: the next start cuts off what is from here on
			}
			revision, err := tell(line)
			if err != nil || revisions[revision] {
				return fmt.Errorf("revision %d has two lines in the audit trail, or one that cannot be read: %w", revision, err)
			}
			revisions[revision] = revision != 0
		}
	}
	for name, text := range found {
		block, _ := pem.Decode([]byte(text))
		sum := sha256.Sum256(block.Bytes)
		if !told[hex.EncodeToString(sum[:])] {
			return fmt.Errorf("%s is stored, and the audit trail does not tell of it", name)
		}
	}
	return nil
}

// nameOf returns what a record is called in stored, and its PEM, if the key is that
// of the PEM. The canary has neither.
func nameOf(r keystore.Record, public crypto.PublicKey) (name, text string, err error) {
	if !strings.HasPrefix(r.Slot.Collection, "esx/") && !strings.HasPrefix(r.Slot.Collection, "nsx/") {
		return "", "", nil
	}
	_, text, _ = strings.Cut(string(r.Payload), "\n") // after what describes it
	its, subject, err := publicKeyOf(text)
	if err != nil {
		return "", "", err
	}
	if !its.(interface{ Equal(crypto.PublicKey) bool }).Equal(public) {
		return "", "", errors.New("the stored key is not the key of the CSR or certificate beside it")
	}
	name = r.Slot.String()
	if strings.HasPrefix(name, issuedName) {
		name = issuedName + subject
	}
	return name, text, nil
}

// publicKeyOf returns key and common name of a CSR, whose signature it verifies, or
// of a certificate.
func publicKeyOf(text string) (crypto.PublicKey, string, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, "", errors.New("no PEM")
	}
	if block.Type == "CERTIFICATE" {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, "", err
		}
		return c.PublicKey, c.Subject.CommonName, nil
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, "", err
	}
	return r.PublicKey, r.Subject.CommonName, nil
}

// view asks the server for everything that stored has.
func view(s *start.Instance) (stored, error) {
	found := stored{}
	for path, name := range map[string]string{start.CSRPath: pendingName, start.CertificatePath: installedName} {
		status, body, err := s.Do("GET", path, "", "")
		switch {
		case err != nil || status != http.StatusOK && status != http.StatusNotFound:
			return nil, fmt.Errorf("GET %s: %d %s %w", path, status, body, err)
		case status == http.StatusOK:
			var object map[string]string
			if err := json.Unmarshal([]byte(body), &object); err != nil {
				return nil, err
			}
			found[name] = object["csr"] + object["certificate"]
		}
	}
	for path, prefix := range map[string]string{requestsPath: requestName, certificatesPath: issuedName} {
		status, body, err := s.Do("GET", path, "", "")
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s %w", path, status, body, err)
		}
		var page struct {
			Results []struct {
				ID  string `json:"id"`
				PEM string `json:"pem_encoded"`
			} `json:"results"`
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			return nil, err
		}
		for _, r := range page.Results {
			if prefix == issuedName {
				if _, r.ID, err = publicKeyOf(r.PEM); err != nil {
					return nil, err
				}
			}
			found[prefix+r.ID] = r.PEM
		}
	}
	return found, nil
}

// certifier is a CA for tests.
type certifier struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCertifier(t *testing.T) *certifier {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &certifier{key, &x509.Certificate{Subject: pkix.Name{CommonName: "test CA"}}}
}

// issue returns a certificate for the key of a CSR or certificate, as PEM.
func (a *certifier) issue(text, commonName string) (string, error) {
	key, _, err := publicKeyOf(text)
	if err != nil {
		return "", err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return "", err
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}, a.cert, key, a.key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), err
}

// change is a request that changes what is stored.
type change struct {
	method, path, body string
	status             int // of success
	// after is what is stored once it happened; where the answer holds a new CSR,
	// that is unknown under the name learn.
	after stored
	learn string
}

// step makes the request that comes next from what is stored before it.
type step func(ca *certifier, before stored) (change, error)

func createCSR(_ *certifier, before stored) (change, error) {
	return change{"POST", start.CSRPath, start.ValidSpec, 201, before.with(pendingName, unknown), pendingName}, nil
}

func deleteCSR(_ *certifier, before stored) (change, error) {
	return change{"DELETE", start.CSRPath, "", 204, before.without(pendingName), ""}, nil
}

// setCertificate answers the pending CSR.
func setCertificate(ca *certifier, before stored) (change, error) {
	text, err := ca.issue(before[pendingName], "esx-01.example.com")
	return change{"PUT", start.CertificatePath, object("certificate", text), 204,
		before.without(pendingName).with(installedName, text), ""}, err
}

// renewCertificate has another certificate for the installed key.
func renewCertificate(ca *certifier, before stored) (change, error) {
	text, err := ca.issue(before[installedName], "esx-01.example.com")
	return change{"PUT", start.CertificatePath, object("certificate", text), 204, before.with(installedName, text), ""}, err
}

func createRequest(id string) step {
	return func(_ *certifier, before stored) (change, error) {
		return change{"POST", requestsPath + "/" + id + "?action=create", requestBody(id), 201, before.with(requestName+id, unknown), requestName + id}, nil
	}
}

func requestBody(commonName string) string {
	return fmt.Sprintf(`{"subject": {"attributes": [{"key": "CN", "value": %q}]}, "algorithm": "EC", "key_size": 256}`, commonName)
}

func deleteRequest(id string) step {
	return func(_ *certifier, before stored) (change, error) {
		return change{"DELETE", requestsPath + "/" + id, "", 200, before.without(requestName + id), ""}, nil
	}
}

func importCertificate(id string) step {
	return func(ca *certifier, before stored) (change, error) {
		text, err := ca.issue(before[requestName+id], id)
		return change{"POST", requestsPath + "/" + id + "?action=import", object("pem_encoded", text), 201,
			before.without(requestName+id).with(issuedName+id, text), ""}, err
	}
}

func object(name, value string) string {
	b, err := json.Marshal(map[string]string{name: value})
	if err != nil {
		panic(err) // of strings: never
	}
	return string(b)
}

// send makes the change. What is stored then is in after, with what was learned.
// An error means that no answer came.
func sendChange(s *start.Instance, c change) (after stored, status int, body string, err error) {
	status, body, err = s.Do(c.method, c.path, c.body, "")
	if err != nil || status != c.status || c.learn == "" {
		return c.after, status, body, err
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, status, body, err
	}
	for _, name := range []string{"csr", "pem_encoded"} {
		if text, ok := answer[name].(string); ok {
			return c.after.with(c.learn, text), status, body, nil
		}
	}
	return nil, status, body, fmt.Errorf("no CSR in the answer: %s", body)
}

// settings writes a configuration with a user of its own, whose hash is as cheap
// as hashes get, into a folder and returns the argument that names it.
func settings(t *testing.T, dir string) []string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(testPassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "users", "admin:"+string(hash)+"\n")
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+"auth:\n  users_file: "+filepath.Join(dir, "users")+
		"\n  privileges:\n    admin: [SECURITY_MGMT, \"policy_certificate:crud\"]\n")
	return []string{"--config", filepath.Join(dir, "config.yaml")}
}

const testPassword = "swordfish"

// prepare makes a data directory that has seen its first start, in dir.
func prepare(t *testing.T, binary, dir string, args []string) string {
	t.Helper()
	data := filepath.Join(dir, "prepared")
	s := start.LaunchBinary(t, binary, data, args...)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	return data
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

// temporary returns the files that a crash left half-written.
func temporary(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, ".*.tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// writer is a client that makes changes, one after the other, to slots of its own.
type writer struct {
	ca     *certifier
	owns   func(name string) bool
	steps  func(round int) []step
	round  int
	stored stored // what was acknowledged
	next   stored // what is there if the change under way happened
	acks   int
}

// writers are eight: one for the slots of the ESX dialect, which are one each, and
// the others for requests and certificates of the NSX dialect.
func writers(t *testing.T, before stored) []*writer {
	t.Helper()
	ca := newCertifier(t)
	all := []*writer{{
		ca: ca, stored: before,
		owns:  func(name string) bool { return strings.HasPrefix(name, "esx/") },
		steps: func(int) []step { return []step{createCSR, setCertificate, createCSR, renewCertificate, deleteCSR} },
	}}
	for n := range 7 {
		prefix := fmt.Sprintf("w%d-", n)
		all = append(all, &writer{
			ca: ca, stored: stored{},
			owns: func(name string) bool {
				return strings.HasPrefix(name, requestName+prefix) || strings.HasPrefix(name, issuedName+prefix)
			},
			steps: func(round int) []step {
				id := fmt.Sprint(prefix, round)
				if round%3 == 2 {
					return []step{createRequest(id), deleteRequest(id)}
				}
				return []step{createRequest(id), importCertificate(id)}
			},
		})
	}
	return all
}

// work makes changes until one is not answered. What a life before left of a round
// stays as it is.
func (w *writer) work(t *testing.T, s *start.Instance, acknowledged chan<- struct{}) {
	for ; ; w.round++ {
		for _, next := range w.steps(w.round) {
			c, err := next(w.ca, w.stored)
			if err != nil {
				t.Error(err)
				return
			}
			w.next = c.after
			after, status, body, err := sendChange(s, c)
			if err != nil {
				w.round++
				return
			}
			if status != c.status {
				t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
				return
			}
			w.stored, w.next = after, nil
			w.acks++
			acknowledged <- struct{}{}
		}
	}
}

// settle takes what is stored for what was acknowledged, if it is one of the two
// states that it may be.
func (w *writer) settle(t *testing.T, found stored) {
	t.Helper()
	own := stored{}
	for name, text := range found {
		if w.owns(name) {
			own[name] = text
		}
	}
	if !own.is(w.stored) && (w.next == nil || !own.is(w.next)) {
		t.Errorf("stored is %s\nacknowledged was %s\nunder way was %s", own, w.stored, w.next)
	}
	w.stored, w.next = own, nil
}

// workUntil lets all writers work on a server and ends it a moment after the given
// number of changes was acknowledged.
func workUntil(t *testing.T, s *start.Instance, all []*writer, acks int, moment time.Duration, end func()) {
	t.Helper()
	acknowledged := make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() { w.work(t, s, acknowledged) })
	}
	for range acks {
		select {
		case <-acknowledged:
		case <-s.Exited:
		}
	}
	time.Sleep(moment)
	end()
	wg.Wait()
}

// copyData copies a data directory, holes and all.
func copyData(from, to string) error {
	d, err := faultfs.Load(from)
	if err != nil {
		return err
	}
	return d.Save(to)
}

package csr_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// auditKey stands for the keys that package sealed derives.
type auditKey struct{}

func (auditKey) Primary() string { return "0" }

func (auditKey) Sum(_ string, message []byte) (sum [32]byte, ok bool) {
	h := hmac.New(sha256.New, []byte("key"))
	h.Write(message)
	return [32]byte(h.Sum(nil)), true
}

// auditLine is a line of the trail without what chains it.
type auditLine struct {
	Event       string `json:"event"`
	User        string `json:"user"`
	Method      string `json:"method"`
	Address     string `json:"address"`
	RequestID   string `json:"request_id"`
	Route       string `json:"route"`
	Operation   string `json:"operation"`
	Slot        string `json:"slot"`
	From        string `json:"from"`
	Outcome     string `json:"outcome"`
	CSR         string `json:"csr_sha256"`
	Certificate string `json:"certificate_sha256"`
}

// audited is a bench whose changes are audited.
type audited struct {
	bench
	log *audit.Log
	dir string
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	a := &audited{bench: newBench(t), dir: filepath.Join(t.TempDir(), "audit")}
	var err error
	if a.log, err = audit.Open(t.Context(), audit.Options{Outbox: a.store, MAC: auditKey{}, Dir: a.dir, Now: noon}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.log.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	a.bench = a.with(t, func(c *csr.Config) { c.Audit = a.log })
	return a
}

// lines ends the trail and returns both streams, without the lines that open them.
func (a *audited) lines(t *testing.T) []auditLine {
	t.Helper()
	if err := a.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all []auditLine
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		content, err := os.ReadFile(filepath.Join(a.dir, stream+"-000001.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for text := range bytes.Lines(content) {
			var l auditLine
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatal(err)
			}
			if l.Event != "begin" {
				all = append(all, l)
			}
		}
	}
	return all
}

// digestOf is the SHA-256 of the first block of a PEM text.
func digestOf(t *testing.T, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %q", text)
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

func caller() csr.Caller {
	return csr.Caller{
		Request:    audit.Request{User: "nora", Method: "session", Address: "192.0.2.7", RequestID: "r1", Route: "POST /x"},
		Privileges: []csr.Privilege{csr.SecurityManagement, csr.PolicyCertificateCRUD},
	}
}

// TestEveryChangeIsAudited makes each change there is, once, and one that fails.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	ctx := t.Context()
	grant := func(o csr.Operation) *csr.Grant {
		t.Helper()
		g, err := a.Authorise(caller(), o)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	root := kit.NewCA(t, "root", noon())
	var want []auditLine
	expect := func(o csr.Operation, slot, from, request, certificate string) {
		l := auditLine{
			Event: "change", User: "nora", Method: "session", Address: "192.0.2.7", RequestID: "r1",
			Operation: string(o), Slot: slot, From: from, Outcome: "committed",
		}
		if request != "" {
			l.CSR = digestOf(t, request)
		}
		if certificate != "" {
			l.Certificate = digestOf(t, certificate)
		}
		want = append(want, l)
	}
	const pending, installed = "esx/attestation/csr", "esx/attestation/certificate"

	first, err := grant(csr.CreateCSR).CreateCSR(ctx, fullSpec())
	must(err)
	expect(csr.CreateCSR, pending, "", first, "")
	must(grant(csr.DeleteCSR).DeleteCSR(ctx))
	expect(csr.DeleteCSR, pending, "", first, "")
	if err := grant(csr.DeleteCSR).DeleteCSR(ctx); kindOf(err) != csr.NotFound {
		t.Errorf("deleted again: %v", err)
	}
	second, err := grant(csr.CreateCSR).CreateCSR(ctx, fullSpec())
	must(err)
	expect(csr.CreateCSR, pending, "", second, "")
	key := parseRequest(t, second).PublicKey
	for i, from := range []string{pending, ""} { // the second is a renewal
		chain := pemOf(root.Issue(t, fmt.Sprint("leaf", i), key), root.Cert)
		must(grant(csr.SetCertificate).SetCertificate(ctx, chain))
		request := second
		if from == "" {
			request = ""
		}
		expect(csr.SetCertificate, installed, from, request, string(chain))
		must(grant(csr.SetCertificate).SetCertificate(ctx, chain)) // changes nothing, leaves no line
	}
	if err := grant(csr.SetCertificate).SetCertificate(ctx, pemOf(root.Issue(t, "other", kit.NewKey(t).Public()))); !isMismatch(err) {
		t.Errorf("a certificate for another key: %v", err)
	}

	made := map[string]csr.NamedRequest{}
	for _, id := range []string{"web/1", "web 2", "wéb"} {
		made[id], err = grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: id, Spec: commonName("web")})
		must(err)
		expect(csr.CreateNamedCSR, "nsx/csrs/"+id, "", made[id].PEM, "")
	}
	if _, err := grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: "wéb", Spec: commonName("web")}); kindOf(err) != csr.Exists {
		t.Errorf("made again: %v", err)
	}
	must(grant(csr.DeleteNamedCSR).DeleteNamedCSR(ctx, "wéb"))
	expect(csr.DeleteNamedCSR, "nsx/csrs/wéb", "", made["wéb"].PEM, "")
	imported, err := grant(csr.ImportCertificate).ImportCertificate(ctx, "web/1",
		csr.Import{PEM: pemOf(root.Issue(t, "web", parseRequest(t, made["web/1"].PEM).PublicKey))})
	must(err)
	expect(csr.ImportCertificate, "nsx/certificates/"+imported.ID, "nsx/csrs/web/1", made["web/1"].PEM, imported.PEM)
	signed, err := grant(csr.SelfSign).SelfSign(ctx, "web 2", nil)
	must(err)
	expect(csr.SelfSign, "nsx/certificates/"+signed.ID, "nsx/csrs/web 2", made["web 2"].PEM, signed.PEM)
	fresh, err := grant(csr.SelfSignNew).SelfSignNew(ctx, csr.NewRequest{Spec: commonName("new")}, nil)
	must(err)
	expect(csr.SelfSignNew, "nsx/certificates/"+fresh.ID, "", "", fresh.PEM)
	must(grant(csr.DeleteNamedCertificate).DeleteNamedCertificate(ctx, fresh.ID))
	expect(csr.DeleteNamedCertificate, "nsx/certificates/"+fresh.ID, "", "", fresh.PEM)

	got := a.lines(t)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d of %d, want %d:\n%+v\n%+v", i, len(got), len(want), got, want)
		}
	}
}

// Every operation that can change something is refused where the trail has no
// room, before a key is made; reads go on, and readiness says so.
func TestNoRoomForEvidence(t *testing.T) {
	t.Parallel()
	b, generated := newCountingBench(t)
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(t.Context(), audit.Options{Outbox: b.store, MAC: auditKey{}, Dir: dir, OutboxBound: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := os.RemoveAll(dir); err != nil { // nothing can be written any more
		t.Fatal(err)
	}
	b = b.with(t, func(c *csr.Config) { c.Audit = l })
	for range 3 {
		b.create(t, commonName("a"))
	}
	before := generated.Load()
	for _, o := range []csr.Operation{
		csr.CreateCSR, csr.DeleteCSR, csr.SetCertificate, csr.CreateNamedCSR, csr.DeleteNamedCSR, csr.ImportCertificate,
		csr.SelfSign, csr.SelfSignNew, csr.DeleteNamedCertificate,
	} {
		g, err := b.Authorise(caller(), o)
		if err != nil {
			t.Fatal(err)
		}
		err = map[csr.Operation]func() error{
			csr.CreateCSR:              func() error { return errorOf(g.CreateCSR(t.Context(), fullSpec())) },
			csr.DeleteCSR:              func() error { return g.DeleteCSR(t.Context()) },
			csr.SetCertificate:         func() error { return g.SetCertificate(t.Context(), nil) },
			csr.CreateNamedCSR:         func() error { return errorOf(g.CreateNamedCSR(t.Context(), csr.NewRequest{ID: "a"})) },
			csr.DeleteNamedCSR:         func() error { return g.DeleteNamedCSR(t.Context(), "a") },
			csr.ImportCertificate:      func() error { return errorOf(g.ImportCertificate(t.Context(), "a", csr.Import{})) },
			csr.SelfSign:               func() error { return errorOf(g.SelfSign(t.Context(), "a", nil)) },
			csr.SelfSignNew:            func() error { return errorOf(g.SelfSignNew(t.Context(), csr.NewRequest{}, nil)) },
			csr.DeleteNamedCertificate: func() error { return g.DeleteNamedCertificate(t.Context(), "a") },
		}[o]()
		var e *csr.Error
		if !errors.As(err, &e) || e.Kind != csr.Unavailable || e.RetryAfter <= 0 || !errors.Is(err, audit.ErrBacklog) {
			t.Errorf("%s: %v", o, err)
		}
	}
	if made := generated.Load() - before; made != 0 {
		t.Errorf("%d keys were made", made)
	}
	if err := b.Ready(t.Context()); kindOf(err) != csr.Unavailable {
		t.Errorf("readiness: %v", err)
	}
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil {
		t.Errorf("a read: %v", err)
	}
}

// Who lacks a privilege has a line, with the operation.
func TestUnauthorizedIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	c := caller()
	c.Privileges = []csr.Privilege{csr.PolicyCertificateRead}
	for _, o := range []csr.Operation{csr.CreateCSR, csr.DeleteNamedCertificate, csr.CreateCSR} {
		if _, err := a.Authorise(c, o); kindOf(err) != csr.Unauthorized {
			t.Errorf("%s: %v", o, err)
		}
	}
	want := map[string]bool{"csr.create": true, "named_certificate.delete": true}
	for _, l := range a.lines(t) {
		if l != (auditLine{Event: "refusal", User: "nora", Method: "session", Address: "192.0.2.7", RequestID: "r1", Operation: l.Operation, Outcome: "unauthorized"}) {
			t.Errorf("%+v", l)
		}
		delete(want, l.Operation)
	}
	if len(want) > 0 {
		t.Errorf("no lines of %v", want)
	}
}

// A delete says what it deleted, also when others change it at the same time.
func TestDeletedIsWhatTheLineSays(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	made := map[string]bool{}
	var lock sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				r := a.create(t, commonName("a"))
				lock.Lock()
				made[digestOf(t, r)] = true
				lock.Unlock()
				err := a.grant(t, csr.DeleteCSR).DeleteCSR(t.Context())
				if err != nil && kindOf(err) != csr.NotFound && kindOf(err) != csr.Conflict {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	current, deletes := "", 0
	for _, l := range a.lines(t) {
		switch l.Operation {
		case "csr.create":
			current = l.CSR
		case "csr.delete":
			deletes++
			if l.CSR != current || !made[l.CSR] {
				t.Errorf("%s was deleted, %s was there", l.CSR, current)
			}
			current = ""
		}
	}
	if deletes < 5 {
		t.Errorf("%d deletes", deletes)
	}
}

// The canary of the key store is none of a user's changes.
func TestNothingWaitsAtFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if n, err := b.store.Pending(t.Context()); err != nil || n != 0 {
		t.Errorf("%d notes, %v", n, err)
	}
}

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
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

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

// audited is a bench whose changes are audited, and the lines that they should leave.
type audited struct {
	bench
	t    *testing.T
	log  *audit.Log
	dir  string
	want []audit.Event
}

func auditOptions(store audit.Outbox, dir string, outboxBound int) audit.Options {
	return audit.Options{
		Outbox: store, MAC: auditKey{}, Dir: dir, MaxFileSize: 1 << 20, MaxRefusalsSize: 1 << 20, OutboxBound: outboxBound,
		Logger: slog.New(slog.DiscardHandler), Now: noon,
	}
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	a := &audited{bench: newBench(t), t: t, dir: filepath.Join(t.TempDir(), "audit")}
	var err error
	if a.log, err = audit.Open(t.Context(), auditOptions(a.store, a.dir, 1000)); err != nil {
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
func (a *audited) lines(t *testing.T) []audit.Event {
	t.Helper()
	if err := a.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all []audit.Event
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		content, err := os.ReadFile(filepath.Join(a.dir, stream+"-000001.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for text := range bytes.Lines(content) {
			var l audit.Event
			if err := json.Unmarshal(text, &l); err != nil {
				t.Fatal(err)
			}
			if l.Time, l.Payload = (time.Time{}), ""; l.Kind != audit.Begin {
				all = append(all, l)
			}
		}
	}
	return all
}

// digestOf is the SHA-256 of the first block of a PEM text, where there is one.
func digestOf(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return ""
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

// did is what the trail should tell of a caller's operation: its request without the
// route, since the operation says more.
func did(o csr.Operation) audit.Event {
	e := audit.Event{Kind: audit.Change, Request: caller().Request, Operation: string(o), Outcome: "committed"}
	e.Route = ""
	return e
}

func (a *audited) grant(o csr.Operation) *csr.Grant {
	a.t.Helper()
	g, err := a.Authorise(caller(), o)
	if err != nil {
		a.t.Fatal(err)
	}
	return g
}

// expect fails the test on an error; else there should be a line.
func (a *audited) expect(err error, o csr.Operation, slot, from, request, certificate string) {
	a.t.Helper()
	if err != nil {
		a.t.Fatalf("%s: %v", o, err)
	}
	e := did(o)
	e.Slot, e.From, e.CSR, e.Certificate = slot, from, digestOf(request), digestOf(certificate)
	a.want = append(a.want, e)
}

// changeAttestation makes each change of the ESX dialect, and some that change
// nothing.
func (a *audited) changeAttestation(root *kit.CA) {
	const pending, installed = "esx/attestation/csr", "esx/attestation/certificate"
	ctx := a.t.Context()
	first, err := a.grant(csr.CreateCSR).CreateCSR(ctx, fullSpec())
	a.expect(err, csr.CreateCSR, pending, "", first, "")
	a.expect(a.grant(csr.DeleteCSR).DeleteCSR(ctx), csr.DeleteCSR, pending, "", first, "")
	if err := a.grant(csr.DeleteCSR).DeleteCSR(ctx); kindOf(err) != csr.NotFound {
		a.t.Errorf("deleted again: %v", err)
	}
	request, err := a.grant(csr.CreateCSR).CreateCSR(ctx, fullSpec())
	a.expect(err, csr.CreateCSR, pending, "", request, "")
	key := parseRequest(a.t, request).PublicKey
	for _, from := range []string{pending, ""} { // the second is a renewal
		chain := pemOf(root.Issue(a.t, "leaf", key), root.Cert)
		if from == "" {
			request = ""
		}
		a.expect(a.grant(csr.SetCertificate).SetCertificate(ctx, chain), csr.SetCertificate, installed, from, request, string(chain))
		if err := a.grant(csr.SetCertificate).SetCertificate(ctx, chain); err != nil { // changes nothing, leaves no line
			a.t.Error(err)
		}
	}
	if err := a.grant(csr.SetCertificate).SetCertificate(ctx, pemOf(root.Issue(a.t, "other", kit.NewKey(a.t).Public()))); !isMismatch(err) {
		a.t.Errorf("a certificate for another key: %v", err)
	}
}

// changeNamed makes each change of the NSX dialect, and one that fails.
func (a *audited) changeNamed(root *kit.CA) {
	const requests, certificates = "nsx/csrs/", "nsx/certificates/"
	ctx := a.t.Context()
	made := map[string]csr.NamedRequest{}
	for _, id := range []string{"web/1", "web 2", "wéb"} {
		var err error
		made[id], err = a.grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: id, Spec: commonName("web")})
		a.expect(err, csr.CreateNamedCSR, requests+id, "", made[id].PEM, "")
	}
	if _, err := a.grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: "wéb", Spec: commonName("web")}); kindOf(err) != csr.Exists {
		a.t.Errorf("made again: %v", err)
	}
	a.expect(a.grant(csr.DeleteNamedCSR).DeleteNamedCSR(ctx, "wéb"), csr.DeleteNamedCSR, requests+"wéb", "", made["wéb"].PEM, "")
	chain := pemOf(root.Issue(a.t, "web", parseRequest(a.t, made["web/1"].PEM).PublicKey))
	imported, err := a.grant(csr.ImportCertificate).ImportCertificate(ctx, "web/1", csr.Import{PEM: chain})
	a.expect(err, csr.ImportCertificate, certificates+imported.ID, requests+"web/1", made["web/1"].PEM, imported.PEM)
	signed, err := a.grant(csr.SelfSign).SelfSign(ctx, "web 2", nil)
	a.expect(err, csr.SelfSign, certificates+signed.ID, requests+"web 2", made["web 2"].PEM, signed.PEM)
	fresh, err := a.grant(csr.SelfSignNew).SelfSignNew(ctx, csr.NewRequest{Spec: commonName("new")}, nil)
	a.expect(err, csr.SelfSignNew, certificates+fresh.ID, "", "", fresh.PEM)
	err = a.grant(csr.DeleteNamedCertificate).DeleteNamedCertificate(ctx, fresh.ID)
	a.expect(err, csr.DeleteNamedCertificate, certificates+fresh.ID, "", "", fresh.PEM)
}

// Each change has a line, and nothing else has.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	root := kit.NewCA(t, "root", noon())
	a.changeAttestation(root)
	a.changeNamed(root)
	if got := a.lines(t); !reflect.DeepEqual(got, a.want) {
		t.Fatalf("lines\n%+v\nwant\n%+v", got, a.want)
	}
}

// Every operation that can change something is refused where the trail has no
// room, before a key is made; reads go on, and readiness says so.
func TestNoRoomForEvidence(t *testing.T) {
	t.Parallel()
	b, generated := newCountingBench(t)
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := audit.Open(t.Context(), auditOptions(b.store, dir, 3))
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
	for o, operation := range operations() {
		if !operation.changes {
			continue
		}
		g, err := b.Authorise(caller(), o)
		if err != nil {
			t.Fatal(err)
		}
		var e *csr.Error
		if err := operation.call(t.Context(), g); !errors.As(err, &e) || e.Kind != csr.Unavailable || e.RetryAfter <= 0 || !errors.Is(err, audit.ErrBacklog) {
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
	want := map[string]bool{}
	for _, o := range []csr.Operation{csr.CreateCSR, csr.DeleteNamedCertificate} {
		want[string(o)] = true
		if _, err := a.Authorise(c, o); kindOf(err) != csr.Unauthorized {
			t.Errorf("%s: %v", o, err)
		}
	}
	for _, l := range a.lines(t) {
		e := did(csr.Operation(l.Operation))
		if e.Kind, e.Outcome = audit.Refused, "unauthorized"; !reflect.DeepEqual(l, e) {
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
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				a.create(t, commonName("a"))
				err := a.grant(csr.DeleteCSR).DeleteCSR(t.Context())
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
			if l.CSR != current {
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

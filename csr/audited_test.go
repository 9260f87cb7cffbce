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
	"slices"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
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
		Outbox: store, MAC: auditKey{}, Dir: dir, MaxFileSize: 1 << 20, MaxRefusalsSize: 1 << 20, MaxSignaturesSize: 1 << 20, OutboxBound: outboxBound,
		Logger: slog.New(slog.DiscardHandler), Now: noon,
	}
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	return newAuditedOver(t, newBench(t))
}

func newAuditedOver(t *testing.T, b bench) *audited {
	t.Helper()
	a := &audited{bench: b, t: t, dir: filepath.Join(t.TempDir(), "audit")}
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
	return slices.DeleteFunc(slices.Concat(a.stream(t, audit.Changes), a.stream(t, audit.Refusals)), func(l audit.Event) bool { return l.Kind == audit.Begin })
}

// stream returns the lines of a stream that has ended.
func (a *audited) stream(t *testing.T, name string) (all []audit.Event) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(a.dir, name+"-000001.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for text := range bytes.Lines(content) {
		var l audit.Event
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatal(err)
		}
		l.Time = time.Time{}
		all = append(all, l)
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

// expect fails the test on an error; else there should be a line, which says of the slot
// what the store holds in it.
func (a *audited) expect(err error, o csr.Operation, slot keystore.Slot, from, request, certificate string) {
	a.t.Helper()
	if err != nil {
		a.t.Fatalf("%s: %v", o, err)
	}
	e := did(o)
	e.Slot, e.From, e.CSR, e.Certificate = slot.String(), from, digestOf(request), digestOf(certificate)
	a.want = append(a.want, a.withHeld(e, slot))
}

// withHeld adds to an event what the slot holds, if it holds something.
func (a *audited) withHeld(e audit.Event, slot keystore.Slot) audit.Event {
	a.t.Helper()
	record, err := a.keys.Get(a.t.Context(), slot)
	if errors.Is(err, keystore.ErrNotFound) {
		return e
	}
	if err != nil {
		a.t.Fatal(err)
	}
	sum := sha256.Sum256(record.Payload)
	e.Payload = hex.EncodeToString(sum[:])
	p := a.stored(a.t, slot)
	if chain, err := pkcs10.ParseCertificates(p.PEM); err == nil {
		f := pkcs10.FactsOf(chain[0])
		e.Subject, e.Names, e.KeyAlgorithm, e.KeySize = f.Subject, f.Names, f.KeyAlgorithm, f.KeyBits
		e.Issuer, e.Serial, e.Warnings = f.Issuer, chain[0].SerialNumber.Text(16), pkcs10.Compare(p.Spec, chain[0])
		return e
	}
	d, err := pkcs10.Describe(p.PEM)
	if err != nil {
		a.t.Fatal(err)
	}
	e.Subject, e.Names, e.KeyAlgorithm, e.KeySize = d.Subject, d.Names, d.KeyAlgorithm, d.KeyBits
	return e
}

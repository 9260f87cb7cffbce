package csr_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// changeAttestation makes each change of the ESX dialect, and some that change
// nothing.
func (a *audited) changeAttestation(root *kit.CA) {
	pending, installed := csr.PendingSlot(), csr.InstalledSlot()
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
	for _, from := range []string{pending.String(), ""} { // the second is a renewal
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
	const requests = "nsx/csrs/"
	ctx := a.t.Context()
	made := map[string]csr.NamedRequest{}
	for _, id := range []string{"web/1", "web 2", "wéb"} {
		var err error
		made[id], err = a.grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: id, Spec: commonName("web")})
		a.expect(err, csr.CreateNamedCSR, csr.RequestSlot(id), "", made[id].PEM, "")
	}
	if _, err := a.grant(csr.CreateNamedCSR).CreateNamedCSR(ctx, csr.NewRequest{ID: "wéb", Spec: commonName("web")}); kindOf(err) != csr.Exists {
		a.t.Errorf("made again: %v", err)
	}
	a.expect(a.grant(csr.DeleteNamedCSR).DeleteNamedCSR(ctx, "wéb"), csr.DeleteNamedCSR, csr.RequestSlot("wéb"), "", made["wéb"].PEM, "")
	chain := pemOf(root.Issue(a.t, "web", parseRequest(a.t, made["web/1"].PEM).PublicKey))
	imported, err := a.grant(csr.ImportCertificate).ImportCertificate(ctx, "web/1", csr.Import{PEM: chain})
	a.expect(err, csr.ImportCertificate, csr.CertificateSlot(imported.ID), requests+"web/1", made["web/1"].PEM, imported.PEM)
	signed, err := a.grant(csr.SelfSign).SelfSign(ctx, "web 2", nil)
	a.expect(err, csr.SelfSign, csr.CertificateSlot(signed.ID), requests+"web 2", made["web 2"].PEM, signed.PEM)
	fresh, err := a.grant(csr.SelfSignNew).SelfSignNew(ctx, csr.NewRequest{Spec: commonName("new")}, nil)
	a.expect(err, csr.SelfSignNew, csr.CertificateSlot(fresh.ID), "", "", fresh.PEM)
	err = a.grant(csr.DeleteNamedCertificate).DeleteNamedCertificate(ctx, fresh.ID)
	a.expect(err, csr.DeleteNamedCertificate, csr.CertificateSlot(fresh.ID), "", "", fresh.PEM)
}

// Each change has a line, and nothing else has but the certificate that is refused.
func TestEveryChangeIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	root := kit.NewCA(t, "root", noon())
	a.changeAttestation(root)
	a.changeNamed(root)
	a.want = append(a.want, refused(csr.SetCertificate, "key_mismatch"))
	wantLines(t, a.lines(t), a.want)
}

func wantLines(t *testing.T, got, want []audit.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d\n%+v\nwant\n%+v", len(got), len(want), got, want)
	}
	for i := range got {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("line %d\n%+v\nwant\n%+v", i, got[i], want[i])
		}
	}
}

// Who asked for a host has an answer when everything of it is gone.
func TestLinesSayForWhom(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	spec := fullSpec()
	spec.Subject[5].Value = "esx-09"
	request := parseRequest(t, a.create(t, spec))
	serial := func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xab12) }
	if err := a.set(t, kit.NewCA(t, "root", noon()).Issue(t, "issued", request.PublicKey, serial)); err != nil {
		t.Fatal(err)
	}
	created, set := a.lines(t)[0], a.lines(t)[1]
	if created.Subject != "CN=esx-09,OU=Engineering,O=ACME,L=Palo Alto,ST=California,C=US" || created.Issuer+created.Serial != "" ||
		!slices.Equal(created.Names, []string{"ops@example.com", hostname, "192.0.2.1", "https://example.com/a"}) || created.KeyAlgorithm != "ECDSA" || created.KeySize != 256 {
		t.Errorf("%+v", created)
	}
	if set.Subject != "CN=issued" || set.Issuer != "CN=root" || set.Serial != "ab12" || set.Names != nil {
		t.Errorf("%+v", set)
	}
}

// The first certificate has a line too.
func TestFirstCertificateIsAudited(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	if err := a.keys.Delete(t.Context(), keystore.Target{Slot: csr.InstalledSlot()}, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := audit.Event{Kind: audit.Change, Operation: "certificate.prepare", Slot: csr.InstalledSlot().String(), Outcome: "committed"}
	want.User, want.Method, want.Certificate = "system:service", "service", digestOf(a.certificate(t))
	wantLines(t, a.lines(t), []audit.Event{a.withHeld(want, csr.InstalledSlot())})
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

// refused is what the trail should tell of an operation of a caller's that was refused.
func refused(o csr.Operation, outcome string) audit.Event {
	e := did(o)
	e.Kind, e.Outcome = audit.Refused, outcome
	return e
}

// A certificate that is refused has a line with the rule that it breaks. Other bad input
// has none.
func TestRefusedCertificates(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	ctx, root := t.Context(), kit.NewCA(t, "root", noon())
	request := parseRequest(t, a.create(t, fullSpec()))
	named := parseRequest(t, a.createNamed(t, csr.NewRequest{ID: "web", Spec: commonName("web")}).PEM)
	stranger := kit.NewKey(t).Public()
	set := func(pem []byte) error { return a.grant(csr.SetCertificate).SetCertificate(ctx, pem) }
	add := func(id string, in csr.Import) error {
		return errorOf(a.grant(csr.ImportCertificate).ImportCertificate(ctx, id, in))
	}
	old := func(c *x509.Certificate) { c.NotAfter = noon().AddDate(0, 0, -1) }
	stale := int64(7)
	var want []audit.Event
	for _, c := range []struct {
		o       csr.Operation
		err     error
		outcome string // "": no line
	}{
		{csr.SetCertificate, set(nil), "empty"},
		{csr.SetCertificate, set([]byte("-----BEGIN PRIVATE KEY-----")), "private_key"},
		{csr.SetCertificate, set(pemOf(root.Issue(t, "x", request.PublicKey), kit.NewCA(t, "other", noon()).Cert)), "broken_chain"},
		{csr.SetCertificate, set(pemOf(root.Issue(t, "x", request.PublicKey, old))), "expired"},
		{csr.SetCertificate, set(pemOf(root.Issue(t, "x", stranger))), "key_mismatch"},
		{csr.ImportCertificate, add("web", csr.Import{PEM: pemOf(root.Issue(t, "x", stranger))}), "key_mismatch"},
		{csr.ImportCertificate, add("web", csr.Import{PEM: pemOf(root.Issue(t, "x", named.PublicKey, old))}), "expired"},
		{csr.ImportCertificate, add("absent", csr.Import{}), ""},
		{csr.ImportCertificate, add("..", csr.Import{}), ""},
		{csr.ImportCertificate, add("web", csr.Import{Revision: &stale}), ""},
	} {
		if c.err == nil {
			t.Errorf("%s: accepted, want %s", c.o, c.outcome)
		}
		if c.outcome != "" {
			want = append(want, refused(c.o, c.outcome))
		}
	}
	var got []audit.Event
	for _, l := range a.lines(t) {
		if l.Kind == audit.Refused {
			got = append(got, l)
		}
	}
	byText := func(a, b audit.Event) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }
	slices.SortFunc(got, byText)
	slices.SortFunc(want, byText)
	wantLines(t, got, want)
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
		if e := refused(csr.Operation(l.Operation), "unauthorized"); !reflect.DeepEqual(l, e) {
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

package csr_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// negativeSerial issues a certificate that crypto/x509 parses only with
// GODEBUG=x509negativeserial=1. Its signature is wrong, which nothing shows without the
// issuer.
func negativeSerial(t *testing.T, ca *kit.CA, key crypto.PublicKey) []byte {
	t.Helper()
	const number = 0x4d3c2b1a
	issued := ca.Issue(t, "old", key, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(number) })
	der := bytes.Replace(issued.Raw, []byte{0x4d, 0x3c, 0x2b, 0x1a}, []byte{0xcd, 0x3c, 0x2b, 0x1a}, 1)
	if bytes.Equal(der, issued.Raw) {
		t.Fatal("there is no serial number")
	}
	return []byte(kit.PEM(&x509.Certificate{Raw: der}))
}

// inFormatOne writes the record of a slot as format 1 had it.
func (b bench) inFormatOne(t *testing.T, slot keystore.Slot) {
	t.Helper()
	r, err := b.keys.Get(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	description, text, _ := bytes.Cut(bytes.TrimPrefix(r.Payload, []byte("2 ")), []byte("\n"))
	var members map[string]any
	if err := json.Unmarshal(description, &members); err != nil {
		t.Fatal(err)
	}
	for _, added := range []string{"purpose", "key_sha256", "replaced_key_sha256", "facts", "beyond", "anchored"} {
		delete(members, added)
	}
	description, err = json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte("1 " + string(description) + "\n" + string(text))
	if _, err := b.keys.Update(t.Context(), keystore.Target{Slot: slot}, keystore.Change{Payload: payload, Index: r.Index}); err != nil {
		t.Fatal(err)
	}
}

// A certificate that was accepted, and that a later crypto/x509 does not parse, is shown
// and listed as it was accepted, beside those that can be parsed. The start logs it. A
// renewal and a new set go over it. Two settings of GODEBUG stand for two releases.
func TestUnparsedCertificates(t *testing.T) {
	for _, format := range []string{"1", "2"} {
		t.Run("format "+format, func(t *testing.T) { unparsedCertificates(t, format == "1") })
	}
}

func unparsedCertificates(t *testing.T, formatOne bool) {
	t.Setenv("GODEBUG", "x509negativeserial=1")
	var said kit.Buffer
	a := newAudited(t)
	a.bench = a.with(t, func(c *csr.Config) { c.Audit, c.Logger = a.log, slog.New(slog.NewTextHandler(&said, nil)) })
	root := kit.NewCA(t, "root", noon())
	set := func(pem []byte) error { return a.grant(csr.SetCertificate).SetCertificate(t.Context(), pem) }

	key := parseRequest(t, a.create(t, commonName("old"))).PublicKey
	old := negativeSerial(t, root, key)
	if err := set(old); err != nil {
		t.Fatal(err)
	}
	named := parseRequest(t, a.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("old")}).PEM)
	imported, err := a.importNamed(t, "x", csr.Import{PEM: negativeSerial(t, root, named.PublicKey), Purpose: "signing-ca"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.namedGrant(t, csr.SelfSignNew).SelfSignNew(t.Context(), csr.NewRequest{Spec: commonName("good")}, nil); err != nil {
		t.Fatal(err)
	}
	a.create(t, commonName("next"))
	if formatOne {
		for _, slot := range []keystore.Slot{csr.InstalledSlot(), csr.PendingSlot(), csr.CertificateSlot(imported.ID)} {
			a.inFormatOne(t, slot)
		}
	}

	t.Setenv("GODEBUG", "x509negativeserial=0")
	if _, err := pkcs10.ParseCertificates(string(old)); err == nil {
		t.Fatal("the certificate can be parsed")
	}
	a.LogUnparsed(t.Context())
	for _, slot := range []string{csr.InstalledSlot().String(), csr.CertificateSlot(imported.ID).String()} {
		if strings.Count(said.String(), slot) < 1 || strings.Count(said.String(), "cannot parse a stored certificate") != 2 {
			t.Errorf("the log does not say %s\n%s", slot, said.String())
		}
	}
	if a.certificate(t) != string(old) {
		t.Error("another certificate is shown")
	}
	got, err := a.namedCertificate(t, imported.ID)
	if err != nil || got.PEM != imported.PEM || len(got.Facts) != 1 || got.Facts[0].Subject != "CN=old" || !got.Facts[0].NotAfter.Equal(noon().AddDate(1, 0, 0)) {
		t.Errorf("%+v, %v", got, err)
	}
	if !formatOne && (got.Facts[0].KeyBits != 256 || got.Purpose != "signing-ca") {
		t.Errorf("%+v", got)
	}
	if all := a.certificates(t); len(all) != 2 {
		t.Errorf("%d certificates are listed, want 2", len(all))
	}
	if n := testutil.CollectAndCount(a.Collectors()[0]); n != 1 {
		t.Error("there is no metric of the end of the installed certificate")
	}
	err = a.keys.Use(t.Context(), csr.InstalledSlot(), func(key crypto.Signer, r keystore.Record) ([]byte, error) {
		return nil, csr.CheckRecord(r, key.Public())
	})
	if err != nil {
		t.Errorf("a check of the record says %v", err)
	}

	if err := a.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	renewal := pemOf(root.Issue(t, "old", key))
	if err := set(renewal); err != nil || a.certificate(t) != string(renewal) {
		t.Errorf("a renewal: %v", err)
	}
	if err := a.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), imported.ID); err != nil {
		t.Errorf("a delete: %v", err)
	}
	for _, l := range a.lines(t) {
		if l.Replaced != "" {
			t.Errorf("the trail says that a record could not be read: %+v", l)
		}
	}
}

// A new set goes over a certificate that cannot be parsed.
func TestSetOverUnparsed(t *testing.T) {
	t.Setenv("GODEBUG", "x509negativeserial=1")
	b, root := newBench(t), kit.NewCA(t, "root", noon())
	old := negativeSerial(t, root, parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey)
	if err := b.grant(t, csr.SetCertificate).SetCertificate(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	next := parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey
	t.Setenv("GODEBUG", "x509negativeserial=0")
	if err := b.set(t, root.Issue(t, "next", next)); err != nil {
		t.Error(err)
	}
	if private, certified := b.pair(t); !kit.SameKey(private, certified) || !kit.SameKey(private, next) {
		t.Error("another key is installed")
	}
}

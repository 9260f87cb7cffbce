package csr_test

import (
	"bytes"
	"crypto/x509"
	"reflect"
	"slices"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// importCase is an import, and what becomes of it.
type importCase struct {
	name   string
	ca     bool // the request is for a CA
	usage  x509.KeyUsage
	in     csr.Import
	want   string     // the broken rule; none: it is accepted
	labels csr.Labels // of the certificate then
}

func importCases() []importCase {
	const leaf, signer = x509.KeyUsageDigitalSignature, x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	request := csr.Labels{DisplayName: "the request"}
	own := csr.Labels{DisplayName: "own", Description: "d", Tags: []csr.Tag{{Tag: "t"}}}
	return []importCase{
		{name: "plain", usage: leaf, labels: request},
		{name: "no usages", labels: request},
		{name: "for key transport alone", usage: x509.KeyUsageKeyEncipherment, labels: request},
		{name: "CA", ca: true, usage: signer, labels: request},
		{name: "CA without usages", ca: true, labels: request},
		{name: "CA that may not sign others", ca: true, usage: leaf, want: "certificate: key_usage"},
		{name: "own labels", in: csr.Import{Labels: own}, labels: own},
		{name: "bad labels", in: csr.Import{Labels: csr.Labels{DisplayName: "\n"}}, want: "display name: control_character"},
		{name: "another key", want: "certificate: key_mismatch"},
		{name: "no certificate", in: csr.Import{PEM: []byte("x")}, want: "certificate: no_certificate"},
		{name: "revision as stored", in: csr.Import{Revision: new(int64(0))}, labels: request},
	}
}

func TestImportRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	for _, c := range importCases() {
		spec := commonName("x")
		spec.CA = c.ca
		made := b.createNamed(t, csr.NewRequest{ID: c.name, Spec: spec,
			Labels: csr.Labels{DisplayName: "the request", Description: "its own", Tags: []csr.Tag{{Tag: "its own"}}}})
		key := parseRequest(t, made.PEM).PublicKey
		if c.name == "another key" {
			key = kit.NewKey(t).Public()
		}
		if c.in.PEM == nil {
			c.in.PEM = pemOf(root.Issue(t, "x", key, func(cert *x509.Certificate) {
				cert.KeyUsage, cert.IsCA, cert.BasicConstraintsValid = c.usage, c.ca, c.ca
			}))
		}
		got, err := b.importNamed(t, c.name, c.in)
		if c.want == "" {
			if err != nil || !reflect.DeepEqual(got.Labels, c.labels) {
				t.Errorf("%s: labels %+v, error %v", c.name, got.Labels, err)
			}
			continue
		}
		if vs := kit.Rules(violationsOf(t, err)); !slices.Equal(vs, []string{c.want}) {
			t.Errorf("%s: violations %q", c.name, vs)
		}
		if still, err := b.named(t, c.name); err != nil || !reflect.DeepEqual(still, made) {
			t.Errorf("%s: a refused import touched the request: %v", c.name, err)
		}
	}
	b.createNamed(t, csr.NewRequest{ID: "stale", Spec: commonName("x")})
	if _, err := b.importNamed(t, "stale", csr.Import{Revision: new(int64(1))}); kindOf(err) != csr.Stale {
		t.Errorf("a stale revision: %v", err)
	}
}

func TestSelfSign(t *testing.T) {
	t.Parallel()
	const leaf, authority = x509.KeyUsageDigitalSignature, x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return c })
	for _, c := range []struct {
		name      string
		algorithm pkcs10.Algorithm
		ca        bool
		days      *int64
		valid     int // days; 0: refused
		usage     x509.KeyUsage
	}{
		{"default", pkcs10.ECDSA, false, nil, 825, leaf},
		{"RSA", pkcs10.RSA, false, nil, 825, leaf | x509.KeyUsageKeyEncipherment},
		{"RSA CA", pkcs10.RSA, true, nil, 825, authority},
		{"one day", pkcs10.ECDSA, false, new(int64(1)), 1, leaf},
		{"825 days", pkcs10.ECDSA, false, new(int64(825)), 825, leaf},
		{"826 days", pkcs10.ECDSA, false, new(int64(826)), 825, leaf},
		{"CA, 36,500 days", pkcs10.ECDSA, true, new(int64(36500)), 36500, authority},
		{"CA, one day", pkcs10.ECDSA, true, new(int64(1)), 1, authority},
		{"no days", pkcs10.ECDSA, true, new(int64(0)), 0, 0},
		{"negative", pkcs10.ECDSA, true, new(int64(-1)), 0, 0},
		{"36,501 days", pkcs10.ECDSA, true, new(int64(36501)), 0, 0},
		{"beyond 32 bits", pkcs10.ECDSA, true, new(int64(1)<<32 | 1), 0, 0},
	} {
		r := csr.NewRequest{ID: c.name, Labels: csr.Labels{DisplayName: "kept", Tags: []csr.Tag{{Scope: "s"}}}, Spec: fullSpec()}
		r.Spec.Algorithm, r.Spec.CA = c.algorithm, c.ca
		request := parseRequest(t, b.createNamed(t, r).PEM)
		fromStored, err := b.selfSign(t, c.name, c.days)
		fresh, freshErr := b.namedGrant(t, csr.SelfSignNew).SelfSignNew(t.Context(), csr.NewRequest{Labels: r.Labels, Spec: r.Spec}, c.days)
		if c.valid == 0 {
			for _, err := range []error{err, freshErr} {
				if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Field != pkcs10.DaysValid || vs[0].Rule != pkcs10.OutOfRange || vs[0].Limit != "1 to 36500" {
					t.Errorf("%s: violations %+v", c.name, vs)
				}
			}
			continue
		}
		if err != nil || freshErr != nil {
			t.Fatal(err, freshErr)
		}
		if !kit.SameKey(leafOf(t, fromStored).PublicKey, request.PublicKey) || kit.SameKey(leafOf(t, fresh).PublicKey, request.PublicKey) {
			t.Errorf("%s: certificates for other keys", c.name)
		}
		for _, got := range []csr.NamedCertificate{fromStored, fresh} {
			checkSelfSigned(t, leafOf(t, got), request, c.ca, c.usage, c.valid)
			if !reflect.DeepEqual(got.Labels, r.Labels) || !kit.SameKey(b.privateAt(t, csr.CertificateSlot(got.ID)), leafOf(t, got).PublicKey) {
				t.Errorf("%s: labels %+v, or another key is stored", c.name, got.Labels)
			}
		}
		if _, err := b.named(t, c.name); kindOf(err) != csr.NotFound {
			t.Errorf("%s: the request was not used up: %v", c.name, err)
		}
	}
}

// checkSelfSigned checks what the judges of generated specs, which verify signature,
// subject and names, cannot know.
func checkSelfSigned(t *testing.T, c *x509.Certificate, request *x509.CertificateRequest, ca bool, usage x509.KeyUsage, days int) {
	t.Helper()
	if !bytes.Equal(c.RawSubject, request.RawSubject) || !bytes.Equal(c.RawIssuer, request.RawSubject) || !slices.Equal(c.DNSNames, request.DNSNames) {
		t.Error("subject, issuer or names are not the request's")
	}
	if c.IsCA != ca || !c.BasicConstraintsValid || c.KeyUsage != usage {
		t.Errorf("CA %v, usage %b, want %b", c.IsCA, c.KeyUsage, usage)
	}
	if !c.NotBefore.Equal(noon()) || !c.NotAfter.Equal(noon().AddDate(0, 0, days)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if n := c.SerialNumber.BitLen(); c.SerialNumber.Sign() <= 0 || n > 128 || n < 64 || len(c.SubjectKeyId) != 20 {
		t.Errorf("serial number of %d bits, subject key id of %d bytes", n, len(c.SubjectKeyId))
	}
}

func TestSelfSignNewRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g := b.namedGrant(t, csr.SelfSignNew)
	_, err := g.SelfSignNew(t.Context(), csr.NewRequest{Labels: csr.Labels{Description: "\x00"}, Spec: pkcs10.Spec{Algorithm: "x"}}, new(int64(0)))
	if got := kit.Rules(violationsOf(t, err)); !slices.Equal(got, []string{"days valid: out_of_range", "description: control_character", "key algorithm: not_allowed"}) {
		t.Errorf("violations %q", got)
	}
	if _, err := g.SelfSignNew(t.Context(), csr.NewRequest{Spec: commonName("x"), Revision: new(int64(1))}, nil); kindOf(err) != csr.Stale {
		t.Errorf("error %v", err)
	}
	if n := len(b.certificates(t)); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

// Every way to a certificate is refused when the collection is full, and leaves the
// request and its key as they were.
func TestFullOfCertificates(t *testing.T) {
	t.Parallel()
	b, made := newCountingBench(t)
	b = b.with(t, func(c *csr.Config) { c.MaxCertificates = 1 })
	root := kit.NewCA(t, "root", noon())
	kept := b.createNamed(t, csr.NewRequest{ID: "kept", Spec: commonName("x")})
	chain := pemOf(root.Issue(t, "x", parseRequest(t, kept.PEM).PublicKey))
	b.createNamed(t, csr.NewRequest{ID: "first", Spec: commonName("x")})
	first, err := b.selfSign(t, "first", nil)
	if err != nil {
		t.Fatal(err)
	}
	made.Store(0)
	fresh := func() error {
		return errorOf(b.namedGrant(t, csr.SelfSignNew).SelfSignNew(t.Context(), csr.NewRequest{Spec: commonName("x")}, nil))
	}
	for what, err := range map[string]error{
		"import":        errorOf(b.importNamed(t, "kept", csr.Import{PEM: chain})),
		"self-sign":     errorOf(b.selfSign(t, "kept", nil)),
		"self-sign new": fresh(),
	} {
		want := pkcs10.Violation{Field: csr.CertificateCollection, Rule: pkcs10.Full, Limit: "1"}
		if vs := violationsOf(t, err); len(vs) != 1 || vs[0] != want {
			t.Errorf("%s: violations %+v", what, vs)
		}
	}
	if n := made.Load(); n != 0 {
		t.Errorf("%d keys were made", n)
	}
	if got, err := b.named(t, "kept"); err != nil || !reflect.DeepEqual(got, kept) {
		t.Errorf("the request was touched: %v", err)
	}
	if _, err := b.selfSign(t, "nobody's", nil); kindOf(err) != csr.NotFound {
		t.Errorf("a request that does not exist, with a full collection: %v", err)
	}
	if err := b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.importNamed(t, "kept", csr.Import{PEM: chain}); err != nil {
		t.Errorf("after one was deleted: %v", err)
	}
}

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

func TestImportRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	usage := func(u x509.KeyUsage) func(*x509.Certificate) { return func(c *x509.Certificate) { c.KeyUsage = u } }
	for _, c := range []struct {
		name   string
		ca     bool
		usage  x509.KeyUsage
		in     csr.Import
		other  bool // a certificate for another key
		noPEM  bool
		stale  bool
		labels csr.Labels // of the certificate, where it is accepted
		want   []string
	}{
		{name: "plain", usage: x509.KeyUsageDigitalSignature, labels: csr.Labels{DisplayName: "the request"}},
		{name: "no usages", labels: csr.Labels{DisplayName: "the request"}},
		{name: "for key transport alone", usage: x509.KeyUsageKeyEncipherment, labels: csr.Labels{DisplayName: "the request"}},
		{name: "CA", ca: true, usage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, labels: csr.Labels{DisplayName: "the request"}},
		{name: "CA without usages", ca: true, labels: csr.Labels{DisplayName: "the request"}},
		{name: "CA that may not sign others", ca: true, usage: x509.KeyUsageDigitalSignature, want: []string{"certificate: key_usage"}},
		{name: "own labels", in: csr.Import{Labels: csr.Labels{DisplayName: "own", Description: "d", Tags: []csr.Tag{{Tag: "t"}}}},
			labels: csr.Labels{DisplayName: "own", Description: "d", Tags: []csr.Tag{{Tag: "t"}}}},
		{name: "bad labels", in: csr.Import{Labels: csr.Labels{DisplayName: "\n"}}, want: []string{"display name: control_character"}},
		{name: "another key", other: true, want: []string{"certificate: key_mismatch"}},
		{name: "no certificate", noPEM: true, want: []string{"certificate: no_certificate"}},
		{name: "revision as stored", in: csr.Import{Revision: new(int64(0))}, labels: csr.Labels{DisplayName: "the request"}},
		{name: "stale revision", in: csr.Import{Revision: new(int64(1))}, stale: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := commonName("x")
			spec.CA = c.ca
			made := b.createNamed(t, csr.NewRequest{ID: c.name, Spec: spec,
				Labels: csr.Labels{DisplayName: "the request", Description: "its own", Tags: []csr.Tag{{Tag: "its own"}}}})
			key := parseRequest(t, made.PEM).PublicKey
			if c.other {
				key = kit.NewKey(t).Public()
			}
			if !c.noPEM {
				c.in.PEM = pemOf(root.Issue(t, "x", key, usage(c.usage)))
			}
			got, err := b.importNamed(t, c.name, c.in)
			switch {
			case c.stale:
				if kindOf(err) != csr.Stale {
					t.Fatalf("error %v", err)
				}
			case c.want != nil:
				if vs := violationsOf(t, err); !slices.Equal(rules(vs), c.want) {
					t.Fatalf("violations %q, want %q", rules(vs), c.want)
				}
			case err != nil:
				t.Fatal(err)
			default:
				if !reflect.DeepEqual(got.Labels, c.labels) {
					t.Errorf("labels %+v, want %+v", got.Labels, c.labels)
				}
				return
			}
			if still, err := b.named(t, c.name); err != nil || !reflect.DeepEqual(still, made) {
				t.Errorf("a refused import touched the request: %v", err)
			}
		})
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
		{"10,000 days", pkcs10.ECDSA, false, new(int64(10000)), 825, leaf},
		{"CA, 10,000 days", pkcs10.ECDSA, true, new(int64(10000)), 10000, authority},
		{"CA, one day", pkcs10.ECDSA, true, new(int64(1)), 1, authority},
		{"no days", pkcs10.ECDSA, true, new(int64(0)), 0, 0},
		{"negative", pkcs10.ECDSA, true, new(int64(-1)), 0, 0},
		{"10,001 days", pkcs10.ECDSA, true, new(int64(10001)), 0, 0},
		{"beyond 32 bits", pkcs10.ECDSA, true, new(int64(1)<<32 | 1), 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := csr.NewRequest{ID: c.name, Labels: csr.Labels{DisplayName: "kept", Tags: []csr.Tag{{Scope: "s"}}}, Spec: pkcs10.Spec{
				Algorithm: c.algorithm, CA: c.ca,
				Subject: []pkcs10.Attribute{{Type: pkcs10.OrganizationalUnit, Value: "B"}, {Type: pkcs10.OrganizationalUnit, Value: "A"},
					{Type: pkcs10.CommonName, Value: "self"}},
				AltNames: []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "self.example.com"}, {Kind: pkcs10.IPAddress, Value: "2001:db8::1"}},
			}}
			made := b.createNamed(t, r)
			fromStored, err := b.selfSign(t, c.name, c.days)
			fresh, freshErr := b.namedGrant(t, csr.SelfSignNew).SelfSignNew(t.Context(), csr.NewRequest{Labels: r.Labels, Spec: r.Spec}, c.days)
			if c.valid == 0 {
				for _, err := range []error{err, freshErr} {
					if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Field != pkcs10.DaysValid || vs[0].Rule != pkcs10.OutOfRange || vs[0].Limit != "1 to 10000" {
						t.Errorf("violations %+v", vs)
					}
				}
				return
			}
			if err != nil || freshErr != nil {
				t.Fatal(err, freshErr)
			}
			request := parseRequest(t, made.PEM)
			if !kit.SameKey(fromStored.Chain[0].PublicKey, request.PublicKey) {
				t.Error("the certificate is not for the request's key")
			}
			if kit.SameKey(fresh.Chain[0].PublicKey, request.PublicKey) {
				t.Error("the request's key was used again")
			}
			for _, got := range []csr.NamedCertificate{fromStored, fresh} {
				checkSelfSigned(t, got, request, c.ca, c.usage, c.valid)
				if !reflect.DeepEqual(got.Labels, r.Labels) {
					t.Errorf("labels %+v", got.Labels)
				}
				if !kit.SameKey(b.privateAt(t, csr.CertificateSlot(got.ID)), got.Chain[0].PublicKey) {
					t.Error("the stored key is not the certified one")
				}
			}
			if _, err := b.named(t, c.name); kindOf(err) != csr.NotFound {
				t.Errorf("the request was not used up: %v", err)
			}
		})
	}
}

func checkSelfSigned(t *testing.T, got csr.NamedCertificate, request *x509.CertificateRequest, ca bool, usage x509.KeyUsage, days int) {
	t.Helper()
	if len(got.Chain) != 1 {
		t.Fatalf("%d certificates", len(got.Chain))
	}
	c := got.Chain[0]
	if !bytes.Equal(c.RawSubject, request.RawSubject) || !bytes.Equal(c.RawIssuer, request.RawSubject) {
		t.Error("subject or issuer is not the request's subject")
	}
	if !slices.Equal(c.DNSNames, request.DNSNames) || len(c.DNSNames) != 1 || len(c.IPAddresses) != 1 {
		t.Errorf("names %v %v", c.DNSNames, c.IPAddresses)
	}
	if c.IsCA != ca || !c.BasicConstraintsValid || c.KeyUsage != usage {
		t.Errorf("CA %v, usage %b, want %b", c.IsCA, c.KeyUsage, usage)
	}
	if !c.NotBefore.Equal(noon()) || !c.NotAfter.Equal(noon().AddDate(0, 0, days)) {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
	if n := c.SerialNumber.BitLen(); c.SerialNumber.Sign() <= 0 || n > 128 || n < 64 {
		t.Errorf("serial number of %d bits", n)
	}
	if len(c.SubjectKeyId) != 20 || c.Version != 3 {
		t.Errorf("subject key id of %d bytes, version %d", len(c.SubjectKeyId), c.Version)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Error(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	if _, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: noon(), DNSName: "self.example.com", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
}

func TestSelfSignNewRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	g := b.namedGrant(t, csr.SelfSignNew)
	_, err := g.SelfSignNew(t.Context(), csr.NewRequest{Labels: csr.Labels{Description: "\x00"}, Spec: pkcs10.Spec{Algorithm: "x"}}, new(int64(0)))
	if got := rules(violationsOf(t, err)); !slices.Equal(got, []string{"days valid: out_of_range", "description: control_character", "key algorithm: not_allowed"}) {
		t.Errorf("violations %q", got)
	}
	if _, err := g.SelfSignNew(t.Context(), csr.NewRequest{Spec: commonName("x"), Revision: new(int64(1))}, nil); kindOf(err) != csr.Stale {
		t.Errorf("error %v", err)
	}
	if got, err := g.SelfSignNew(t.Context(), csr.NewRequest{Spec: commonName("x")}, nil); err != nil || got.DisplayName != got.ID {
		t.Errorf("display name %q, error %v", got.DisplayName, err)
	}
	if n := len(b.certificates(t)); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// A request is for the key that signs it and no other.
func TestRequestsOfEveryKind(t *testing.T) {
	t.Parallel()
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return c })
	for _, c := range []struct {
		name      string
		algorithm pkcs10.Algorithm
		size      int64
		signature x509.SignatureAlgorithm
	}{
		{"RSA 2048", pkcs10.RSA, 2048, x509.SHA256WithRSA},
		{"RSA 3072", pkcs10.RSA, 3072, x509.SHA256WithRSA},
		{"P-256", pkcs10.ECDSA, 256, x509.ECDSAWithSHA256},
		{"P-384", pkcs10.ECDSA, 384, x509.ECDSAWithSHA384},
		{"P-521", pkcs10.ECDSA, 521, x509.ECDSAWithSHA512},
	} {
		for _, ca := range []bool{false, true} {
			spec := commonName("x")
			spec.Algorithm, spec.KeySize, spec.CA = c.algorithm, &c.size, ca
			id := c.name
			if ca {
				id += " CA"
			}
			r := parseRequest(t, b.createNamed(t, csr.NewRequest{ID: id, Spec: spec}).PEM)
			if r.SignatureAlgorithm != c.signature || !kit.SameKey(r.PublicKey, b.privateAt(t, csr.RequestSlot(id))) {
				t.Errorf("%s: signature %v, or another key", id, r.SignatureAlgorithm)
			}
			var extensions []string
			for _, e := range r.Extensions {
				extensions = append(extensions, e.Id.String())
				if !e.Critical {
					t.Errorf("%s: %v is not critical", id, e.Id)
				}
			}
			var want []string
			if ca {
				want = []string{"2.5.29.19", "2.5.29.15"}
			}
			if !slices.Equal(extensions, want) {
				t.Errorf("%s: extensions %v, want %v", id, extensions, want)
			}
		}
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

package csr_test

import (
	"crypto/x509"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
)

// namedGrant is a grant of one who may do all with named objects.
func (b bench) namedGrant(t testing.TB, o csr.Operation) *csr.Grant {
	t.Helper()
	g, err := b.Authorise(csr.Caller{Request: audit.Request{User: "nora"}, Privileges: []csr.Privilege{csr.PolicyCertificateCRUD}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (b bench) tryNamed(t testing.TB, r csr.NewRequest) (csr.NamedRequest, error) {
	t.Helper()
	return b.namedGrant(t, csr.CreateNamedCSR).CreateNamedCSR(t.Context(), r)
}

func (b bench) createNamed(t testing.TB, r csr.NewRequest) csr.NamedRequest {
	t.Helper()
	made, err := b.tryNamed(t, r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (b bench) named(t testing.TB, id string) (csr.NamedRequest, error) {
	t.Helper()
	return b.namedGrant(t, csr.GetNamedCSR).NamedCSR(t.Context(), id)
}

func (b bench) importNamed(t testing.TB, id string, in csr.Import) (csr.NamedCertificate, error) {
	t.Helper()
	return b.namedGrant(t, csr.ImportCertificate).ImportCertificate(t.Context(), id, in)
}

func (b bench) selfSign(t testing.TB, id string, days *int64) (csr.NamedCertificate, error) {
	t.Helper()
	return b.namedGrant(t, csr.SelfSign).SelfSign(t.Context(), id, days)
}

func (b bench) namedCertificate(t testing.TB, id string) (csr.NamedCertificate, error) {
	t.Helper()
	return b.namedGrant(t, csr.GetNamedCertificate).NamedCertificate(t.Context(), id)
}

func (b bench) requests(t testing.TB) []csr.NamedRequest {
	t.Helper()
	l, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), csr.Page{Sort: csr.SortByID, Limit: 1000})
	if err != nil || l.Next != nil || l.Total != len(l.Items) || l.Unreadable != 0 {
		t.Fatalf("%d items, total %d, next %q, %d unreadable, error %v", len(l.Items), l.Total, l.Next, l.Unreadable, err)
	}
	return l.Items
}

func (b bench) certificates(t testing.TB) []csr.NamedCertificate {
	t.Helper()
	l, err := b.namedGrant(t, csr.ListNamedCertificates).ListNamedCertificates(t.Context(), csr.Page{Sort: csr.SortByID, Limit: 1000})
	if err != nil || l.Next != nil || l.Total != len(l.Items) || l.Unreadable != 0 {
		t.Fatalf("%d items, total %d, next %q, %d unreadable, error %v", len(l.Items), l.Total, l.Next, l.Unreadable, err)
	}
	return l.Items
}

// leafOf parses the leaf of a certificate.
func leafOf(t testing.TB, c csr.NamedCertificate) *x509.Certificate {
	t.Helper()
	chain, err := pkcs10.ParseCertificates(c.PEM)
	if err != nil {
		t.Fatal(err)
	}
	return chain[0]
}

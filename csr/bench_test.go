package csr_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"attestcsr/csr"
)

func fullSpec() csr.Spec {
	return csr.Spec{
		Subject: []csr.Attribute{
			{Type: csr.Country, Value: "us"},
			{Type: csr.StateOrProvince, Value: "California"},
			{Type: csr.Locality, Value: "Palo Alto"},
			{Type: csr.Organization, Value: "ACME"},
			{Type: csr.OrganizationalUnit, Value: "Engineering"},
			{Type: csr.CommonName, Value: hostname},
		},
		Email:    "ops@example.com",
		AltNames: []csr.AltName{{Value: hostname}, {Value: "192.0.2.1"}, {Value: "https://example.com/a"}},
	}
}

func BenchmarkResolve(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := csr.Resolve(fullSpec(), hostname, sizes()...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSign is a CSR with a ready key, beside the floor: crypto/x509 alone.
func BenchmarkSign(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("floor", func(b *testing.B) { benchmarkFloor(b, key) })
	b.Run("spec", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, template, err := csr.Resolve(fullSpec(), hostname, sizes()...)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := template.Sign(key); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchmarkFloor(b *testing.B, key crypto.Signer) {
	b.ReportAllocs()
	template := &x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSA}
	for b.Loop() {
		if _, err := x509.CreateCertificateRequest(rand.Reader, template, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAcceptChain(b *testing.B) {
	root := newAuthority(b, "root", nil)
	middle := newAuthority(b, "middle", root)
	text := pemOf(middle.issue(b, "leaf", newKey(b).Public()), middle.certificate, root.certificate)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := csr.AcceptChain(text, noon()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet is a read as the API does it: one snapshot read and a decode.
func BenchmarkGet(b *testing.B) {
	service := newBench(b)
	service.create(b, fullSpec())
	grant := service.grant(b, csr.GetCSR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := grant.CSR(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

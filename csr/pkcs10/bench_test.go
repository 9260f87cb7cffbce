package pkcs10_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

func fullSpec() pkcs10.Spec {
	return pkcs10.Spec{
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "us"},
			{Type: pkcs10.StateOrProvince, Value: "California"},
			{Type: pkcs10.Locality, Value: "Palo Alto"},
			{Type: pkcs10.Organization, Value: "ACME"},
			{Type: pkcs10.OrganizationalUnit, Value: "Engineering"},
			{Type: pkcs10.CommonName, Value: hostname},
		},
		Email:    "ops@example.com",
		AltNames: []pkcs10.AltName{{Value: hostname}, {Value: "192.0.2.1"}, {Value: "https://example.com/a"}},
	}
}

func BenchmarkResolve(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := resolve(fullSpec()); err != nil {
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
			_, template, err := resolve(fullSpec())
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
	root := kit.NewCA(b, "root", noon())
	middle := root.NewCA(b, "middle")
	text := pemOf(middle.Issue(b, "leaf", kit.NewKey(b).Public()), middle.Cert, root.Cert)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := acceptChain(text); err != nil {
			b.Fatal(err)
		}
	}
}

//go:build tools

package csr_test

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// onRealKeys is a service on the real clock and custodian, as the tools are.
func onRealKeys(t *testing.T) bench {
	t.Helper()
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return c })
	return b.with(t, func(c *csr.Config) { c.Now = time.Now })
}

// OpenSSL and GnuTLS judge requests of every kind of key, for a CA and not, with
// repeated attributes in an order of their own and characters beyond ASCII.
func TestToolsReadNamedRequests(t *testing.T) {
	t.Parallel()
	b := onRealKeys(t)
	for _, c := range []struct {
		name      string
		algorithm pkcs10.Algorithm
		size      int64
		openssl   []string
		certtool  []string
	}{
		{"RSA 2048", pkcs10.RSA, 2048, []string{"Public-Key: (2048 bit)", "sha256WithRSAEncryption"}, []string{"Algorithm: RSA\n", "(2048 bits)", "RSA-SHA256"}},
		{"RSA 3072", pkcs10.RSA, 3072, []string{"Public-Key: (3072 bit)", "sha256WithRSAEncryption"}, []string{"Algorithm: RSA\n", "(3072 bits)", "RSA-SHA256"}},
		{"RSA 4096", pkcs10.RSA, 4096, []string{"Public-Key: (4096 bit)", "sha256WithRSAEncryption"}, []string{"Algorithm: RSA\n", "(4096 bits)", "RSA-SHA256"}},
		{"P-256", pkcs10.ECDSA, 256, []string{"ASN1 OID: prime256v1", "ecdsa-with-SHA256"}, []string{"SECP256R1", "ECDSA-SHA256"}},
		{"P-384", pkcs10.ECDSA, 384, []string{"ASN1 OID: secp384r1", "ecdsa-with-SHA384"}, []string{"SECP384R1", "ECDSA-SHA384"}},
		{"P-521", pkcs10.ECDSA, 521, []string{"ASN1 OID: secp521r1", "ecdsa-with-SHA512"}, []string{"SECP521R1", "ECDSA-SHA512"}},
	} {
		for _, ca := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, CA %v", c.name, ca), func(t *testing.T) {
				t.Parallel()
				spec := pkcs10.Spec{Algorithm: c.algorithm, KeySize: &c.size, CA: ca, MaxAltNames: 192, Subject: []pkcs10.Attribute{
					{Type: pkcs10.OrganizationalUnit, Value: "Zwei"}, {Type: pkcs10.CommonName, Value: "Jürgen Größe 漢字"},
					{Type: pkcs10.OrganizationalUnit, Value: "Eins"}, {Type: pkcs10.Country, Value: "de"},
				}}
				for i := range 128 {
					spec.AltNames = append(spec.AltNames, pkcs10.AltName{Kind: pkcs10.DNSName, Value: fmt.Sprintf("h%d.example.com", i)})
				}
				for i := range 64 {
					spec.AltNames = append(spec.AltNames, pkcs10.AltName{Kind: pkcs10.IPAddress, Value: fmt.Sprintf("2001:db8::%x", i+1)})
				}
				text := []byte(b.createNamed(t, csr.NewRequest{ID: t.Name(), Spec: spec}).PEM)

				out := run(t, text, "openssl", "req", "-verify", "-noout", "-text", "-nameopt", "oneline,utf8,-esc_msb,show_type")
				contains(t, out, append(c.openssl, "verify OK", "Version: 1 (0x0)",
					"Subject: OU = PRINTABLESTRING:Zwei, CN = UTF8STRING:Jürgen Größe 漢字, OU = PRINTABLESTRING:Eins, C = PRINTABLESTRING:DE",
					"DNS:h0.example.com, DNS:h1.example.com,", "DNS:h127.example.com, IP Address:2001:DB8:0:0:0:0:0:1,", "IP Address:2001:DB8:0:0:0:0:0:40\n")...)
				authority := []string{"X509v3 Basic Constraints: critical\n                    CA:TRUE\n", "X509v3 Key Usage: critical\n                    Certificate Sign\n"}
				if ca {
					contains(t, out, authority...)
				} else if strings.Contains(out, "Basic Constraints") || strings.Contains(out, "Key Usage") {
					t.Errorf("extensions of a CA in\n%s", out)
				}

				out = run(t, text, "certtool", "--crq-info")
				contains(t, out, append(c.certtool, "Self signature: verified",
					// certtool prints the last RDN first, as RFC 4514 has it.
					"Subject: C=DE,OU=Eins,CN=Jürgen Größe 漢字,OU=Zwei", "DNSname: h127.example.com", "IPAddress: 2001:db8::40")...)
				if ca {
					contains(t, out, "Certificate Authority (CA): TRUE", "Certificate signing.")
				}
			})
		}
	}
}

// An OpenSSL CA signs requests and CAs of ours, import takes what it signed, and
// OpenSSL verifies what is served then.
func TestOpenSSLSignsNamedRequests(t *testing.T) {
	t.Parallel()
	b := onRealKeys(t)
	ca := newOpenSSLCA(t)
	issuer, err := os.ReadFile(ca.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		algorithm  pkcs10.Algorithm
		ca         bool
		extensions string
		args       []string
		want       pkcs10.Rule
	}{
		{"RSA", pkcs10.RSA, false, "keyUsage=critical,digitalSignature,keyEncipherment\n", nil, ""},
		{"for key transport alone", pkcs10.RSA, false, "keyUsage=critical,keyEncipherment\n", nil, ""},
		{"curve", pkcs10.ECDSA, false, "", nil, ""},
		{"CA with what the request asks for", pkcs10.RSA, true, "", []string{"-copy_extensions", "copyall"}, ""},
		{"CA on a curve", pkcs10.ECDSA, true, "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n", nil, ""},
		{"CA that was made a leaf", pkcs10.ECDSA, true, "keyUsage=digitalSignature\n", nil, pkcs10.KeyUsage},
		{"expired", pkcs10.ECDSA, false, "", []string{"-days", "-1"}, pkcs10.Expired},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := commonName(c.name)
			spec.Algorithm, spec.CA = c.algorithm, c.ca
			spec.AltNames = []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "a.example.com"}}
			request := b.createNamed(t, csr.NewRequest{ID: c.name, Spec: spec})
			text := append(ca.issue(t, request.PEM, c.extensions, c.args...), issuer...)
			imported, err := b.importNamed(t, c.name, csr.Import{PEM: text})
			if c.want != "" {
				if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Rule != c.want {
					t.Fatalf("violations %+v, want %s", vs, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.namedCertificate(t, imported.ID)
			if err != nil || len(got.Chain) != 2 {
				t.Fatalf("%d certificates, error %v", len(got.Chain), err)
			}
			contains(t, run(t, []byte(got.PEM), "openssl", "verify", "-CAfile", ca.path("ca.pem")), "OK")
			if c.args != nil && (!got.Chain[0].IsCA || got.Chain[0].KeyUsage != x509.KeyUsageCertSign) {
				t.Error("openssl did not find in the request what it asks for")
			}
		})
	}
}

func TestToolsReadSelfSigned(t *testing.T) {
	t.Parallel()
	b := onRealKeys(t)
	for _, c := range []struct {
		name      string
		algorithm pkcs10.Algorithm
		ca        bool
		want      []string
	}{
		{"RSA", pkcs10.RSA, false, []string{"CA:FALSE", "Digital Signature, Key Encipherment\n"}},
		{"curve", pkcs10.ECDSA, false, []string{"CA:FALSE", "Digital Signature\n"}},
		{"CA", pkcs10.ECDSA, true, []string{"CA:TRUE", "Digital Signature, Certificate Sign, CRL Sign\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := commonName("Jürgen")
			spec.Algorithm, spec.CA = c.algorithm, c.ca
			spec.AltNames = []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "a.example.com"}, {Kind: pkcs10.IPAddress, Value: "192.0.2.1"}}
			b.createNamed(t, csr.NewRequest{ID: c.name, Spec: spec})
			made, err := b.selfSign(t, c.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			text := []byte(made.PEM)
			contains(t, run(t, text, "openssl", "x509", "-noout", "-text"),
				append(c.want, "Version: 3", "DNS:a.example.com, IP Address:192.0.2.1", "X509v3 Subject Key Identifier")...)
			contains(t, run(t, text, "certtool", "--certificate-info"), "Subject: CN=Jürgen", "Subject Key Identifier")
			file := t.TempDir() + "/self.pem"
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			contains(t, run(t, nil, "openssl", "verify", "-x509_strict", "-CAfile", file, file), "OK")
		})
	}
}

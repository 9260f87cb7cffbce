//go:build tools

package csr_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
)

// run runs a tool with the input on stdin and returns what it printed.
func run(t testing.TB, input []byte, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Stdin = bytes.NewReader(input)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func contains(t testing.TB, out string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(out, part) {
			t.Errorf("%q is missing in\n%s", part, out)
		}
	}
}

func everything() csr.Spec {
	return csr.Spec{
		Subject: []csr.Attribute{
			{Type: csr.Country, Value: "de"},
			{Type: csr.StateOrProvince, Value: "Bayern"},
			{Type: csr.Locality, Value: "München"},
			{Type: csr.Organization, Value: "Müller & Söhne, KG"},
			{Type: csr.OrganizationalUnit, Value: "Zwei"},
			{Type: csr.OrganizationalUnit, Value: "Eins"},
			{Type: csr.CommonName, Value: "esx-01.example.com"},
		},
		Email: "ops@example.com",
		AltNames: []csr.AltName{
			{Value: "z.example.com"}, {Value: "192.0.2.1"}, {Value: "https://example.com/%7Ea?b"},
			{Value: "2001:db8::1"}, {Value: "a.example.com"}, {Value: "dev@example.com"}, {Value: "urn:example:x"},
		},
	}
}

// OpenSSL and GnuTLS judge the CSRs.
func TestToolsReadTheCSR(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		bits int
	}{{"2048", 2048}, {"3072", 3072}, {"4096", 4096}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, err := rsa.GenerateKey(rand.Reader, c.bits)
			if err != nil {
				t.Fatal(err)
			}
			_, template, err := csr.Resolve(everything(), hostname, sizes()...)
			if err != nil {
				t.Fatal(err)
			}
			text, err := template.Sign(key)
			if err != nil {
				t.Fatal(err)
			}

			out := run(t, []byte(text), "openssl", "req", "-verify", "-noout", "-text", "-nameopt", "oneline,utf8,-esc_msb,show_type")
			contains(t, out,
				"verify OK", "Public-Key: ("+c.name+" bit)", "Signature Algorithm: sha256WithRSAEncryption", "Version: 1 (0x0)",
				"Subject: C = PRINTABLESTRING:DE, ST = PRINTABLESTRING:Bayern, L = UTF8STRING:München, "+
					"O = UTF8STRING:\"Müller & Söhne, KG\", OU = PRINTABLESTRING:Zwei, OU = PRINTABLESTRING:Eins, CN = PRINTABLESTRING:esx-01.example.com",
				"email:ops@example.com, DNS:z.example.com, IP Address:192.0.2.1, URI:https://example.com/%7Ea?b, "+
					"IP Address:2001:DB8:0:0:0:0:0:1, DNS:a.example.com, email:dev@example.com, URI:urn:example:x",
				"X509v3 Subject Alternative Name: \n")

			out = run(t, []byte(text), "certtool", "--crq-info")
			contains(t, out,
				// certtool prints the last RDN first, as RFC 4514 has it.
				"Subject: CN=esx-01.example.com,OU=Eins,OU=Zwei,O=Müller & Söhne\\, KG,L=München,ST=Bayern,C=DE",
				"Self signature: verified", "Subject Public Key Algorithm: RSA\n", "("+c.name+" bits)", "Signature Algorithm: RSA-SHA256\n", "Subject Alternative Name (not critical):",
				"RFC822Name: ops@example.com", "DNSname: z.example.com", "IPAddress: 192.0.2.1", "URI: https://example.com/%7Ea?b",
				"IPAddress: 2001:db8::1", "RFC822Name: dev@example.com")
		})
	}
}

func TestToolsReadTheCSROfACurve(t *testing.T) {
	t.Parallel()
	_, template, err := csr.Resolve(everything(), hostname, sizes()...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := template.Sign(testKey())
	if err != nil {
		t.Fatal(err)
	}
	contains(t, run(t, []byte(text), "openssl", "req", "-verify", "-noout", "-text"),
		"verify OK", "ASN1 OID: prime256v1", "Signature Algorithm: ecdsa-with-SHA256")
	contains(t, run(t, []byte(text), "certtool", "--crq-info"), "Self signature: verified", "SECP256R1")
}

func TestToolsReadTheInitialCertificate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	text := []byte(b.certificate(t))
	contains(t, run(t, text, "openssl", "x509", "-noout", "-text"),
		"Version: 3", "Subject: CN = "+hostname, "Issuer: CN = "+hostname, "CA:FALSE", "Digital Signature")
	contains(t, run(t, text, "certtool", "--certificate-info"), "Subject: CN="+hostname, "Certificate Authority (CA): FALSE")
}

// opensslCA is a CA in a folder that issues certificates for CSRs.
type opensslCA struct{ dir string }

func newOpenSSLCA(t testing.TB) opensslCA {
	t.Helper()
	ca := opensslCA{t.TempDir()}
	run(t, nil, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Test/CN=openssl CA", "-days", "30",
		"-keyout", ca.path("ca.key"), "-out", ca.path("ca.pem"))
	return ca
}

func (ca opensslCA) path(name string) string { return filepath.Join(ca.dir, name) }

// issue returns what openssl printed: PEM, after the text form with -text.
func (ca opensslCA) issue(t testing.TB, request, extensions string, args ...string) []byte {
	t.Helper()
	args = append([]string{"x509", "-req", "-CA", ca.path("ca.pem"), "-CAkey", ca.path("ca.key"), "-out", ca.path("leaf.pem")}, args...)
	if extensions != "" {
		if err := os.WriteFile(ca.path("ext.cnf"), []byte(extensions), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-extfile", ca.path("ext.cnf"))
	}
	run(t, []byte(request), "openssl", args...)
	leaf, err := os.ReadFile(ca.path("leaf.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// An OpenSSL CA issues from our CSR, and what it issues is accepted or refused
// for the right reason. The service runs on the real clock here.
func TestOpenSSLIssuesTheCertificate(t *testing.T) {
	b := newBench(t)
	service, err := csr.New(csr.Config{Keys: b.keys, KeySizes: sizes(), Hostname: hostname, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	b.Service = service
	ca := newOpenSSLCA(t)
	issuer, err := os.ReadFile(ca.path("ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		extensions string
		args       []string
		withIssuer bool
		want       csr.Rule
	}{
		{"leaf alone", "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n", nil, false, ""},
		{"with its issuer", "keyUsage=digitalSignature\n", nil, true, ""},
		{"with the text form before", "subjectAltName=email:copy\nkeyUsage=digitalSignature\n", []string{"-text"}, true, ""},
		{"names copied from the CSR", "keyUsage=digitalSignature\n", []string{"-copy_extensions", "copyall"}, true, ""},
		{"version 1", "", nil, true, ""},
		{"no usages", "basicConstraints=CA:FALSE\n", nil, true, ""},
		{"other usage", "keyUsage=keyEncipherment\n", nil, true, csr.KeyUsage},
		{"expired", "keyUsage=digitalSignature\n", []string{"-days", "-1"}, false, csr.Expired},
		{"SHA-1", "keyUsage=digitalSignature\n", []string{"-sha1"}, true, csr.WeakSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := b.create(t, everything())
			text := ca.issue(t, request, c.extensions, c.args...)
			if c.withIssuer {
				text = append(text, issuer...)
			}
			err := b.grant(t, csr.SetCertificate).SetCertificate(t.Context(), text)
			if c.want != "" {
				if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Rule != c.want {
					t.Fatalf("violations %+v, want %s", vs, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			installed := b.certificate(t)
			block, _ := pem.Decode([]byte(installed))
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if c.name == "version 1" && leaf.Version != 1 {
				t.Errorf("openssl issued version %d: this case is to try version 1", leaf.Version)
			}
			contains(t, run(t, []byte(installed), "openssl", "verify", "-CAfile", ca.path("ca.pem")), "OK")
			if private, certified := b.pair(t); !equalKeys(private, certified) {
				t.Error("the installed key is not the certified one")
			}
		})
	}
}

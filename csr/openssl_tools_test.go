//go:build tools

package csr_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
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

func everything() pkcs10.Spec {
	return pkcs10.Spec{
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "de"},
			{Type: pkcs10.StateOrProvince, Value: "Bayern"},
			{Type: pkcs10.Locality, Value: "München"},
			{Type: pkcs10.Organization, Value: "Müller & Söhne, KG"},
			{Type: pkcs10.OrganizationalUnit, Value: "Zwei"},
			{Type: pkcs10.OrganizationalUnit, Value: "Eins"},
			{Type: pkcs10.CommonName, Value: "esx-01.example.com"},
		},
		Email: "ops@example.com",
		AltNames: []pkcs10.AltName{
			{Value: "z.example.com"}, {Value: "192.0.2.1"}, {Value: "https://example.com/%7Ea?b"},
			{Value: "2001:db8::1"}, {Value: "a.example.com"}, {Value: "dev@example.com"}, {Value: "urn:example:x"},
		},
	}
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
		want       pkcs10.Rule
	}{
		{"leaf alone", "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n", nil, false, ""},
		{"with its issuer", "keyUsage=digitalSignature\n", nil, true, ""},
		{"with the text form before", "subjectAltName=email:copy\nkeyUsage=digitalSignature\n", []string{"-text"}, true, ""},
		{"names copied from the CSR", "keyUsage=digitalSignature\n", []string{"-copy_extensions", "copyall"}, true, ""},
		{"version 1", "", nil, true, ""},
		{"no usages", "basicConstraints=CA:FALSE\n", nil, true, ""},
		{"other usage", "keyUsage=keyEncipherment\n", nil, true, pkcs10.KeyUsage},
		{"expired", "keyUsage=digitalSignature\n", []string{"-days", "-1"}, false, pkcs10.Expired},
		{"SHA-1", "keyUsage=digitalSignature\n", []string{"-sha1"}, true, pkcs10.WeakSignature},
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
			if private, certified := b.pair(t); !kit.SameKey(private, certified) {
				t.Error("the installed key is not the certified one")
			}
		})
	}
}

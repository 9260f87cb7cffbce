//go:build tools

package csr_test

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// openssl runs openssl with the input on stdin and returns what it printed.
func openssl(t testing.TB, input string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "openssl", args...)
	command.Stdin = strings.NewReader(input)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// opensslCA is a CA in a folder that issues certificates for CSRs.
type opensslCA struct{ dir string }

func newOpenSSLCA(t testing.TB) opensslCA {
	t.Helper()
	ca := opensslCA{t.TempDir()}
	openssl(t, "", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=Test/CN=openssl CA", "-days", "30",
		"-keyout", ca.path("ca.key"), "-out", ca.path("ca.pem"))
	return ca
}

func (ca opensslCA) path(name string) string { return filepath.Join(ca.dir, name) }

// issue returns what openssl wrote: PEM, after the text form with -text.
func (ca opensslCA) issue(t testing.TB, request, extensions string, args ...string) string {
	t.Helper()
	args = append([]string{"x509", "-req", "-CA", ca.path("ca.pem"), "-CAkey", ca.path("ca.key"), "-out", ca.path("leaf.pem")}, args...)
	if extensions != "" {
		if err := os.WriteFile(ca.path("ext.cnf"), []byte(extensions), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-extfile", ca.path("ext.cnf"))
	}
	openssl(t, request, args...)
	return ca.read(t, "leaf.pem")
}

func (ca opensslCA) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(ca.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// realBench is a service with the real custodian on the real clock.
func realBench(t *testing.T) bench {
	t.Helper()
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return c })
	return b.with(t, func(c *csr.Config) { c.Now = time.Now })
}

// An OpenSSL CA issues from our CSR. What it issues is accepted or refused for the
// right reason.
func TestOpenSSLIssuesTheCertificate(t *testing.T) {
	t.Parallel()
	b, ca := realBench(t), newOpenSSLCA(t)
	issuer := ca.read(t, "ca.pem")
	for _, c := range []struct {
		name       string
		extensions string
		args       []string
		issuer     string
		want       pkcs10.Rule
	}{
		{"leaf alone", "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n", nil, "", ""},
		{"with the text form before", "subjectAltName=email:copy\nkeyUsage=digitalSignature\n", []string{"-text"}, issuer, ""},
		{"names copied from the CSR", "keyUsage=digitalSignature\n", []string{"-copy_extensions", "copyall"}, issuer, ""},
		{"version 1", "", nil, issuer, ""},
		{"no usages", "basicConstraints=CA:FALSE\n", nil, issuer, ""},
		{"other usage", "keyUsage=keyEncipherment\n", nil, issuer, pkcs10.KeyUsage},
		{"expired", "keyUsage=digitalSignature\n", []string{"-days", "-1"}, "", pkcs10.Expired},
		{"SHA-1", "keyUsage=digitalSignature\n", []string{"-sha1"}, issuer, pkcs10.WeakSignature},
	} {
		text := ca.issue(t, b.create(t, fullSpec()), c.extensions, c.args...) + c.issuer
		err := b.grant(t, csr.SetCertificate).SetCertificate(t.Context(), []byte(text))
		if !brokenIs(t, err, c.want) || err != nil {
			continue
		}
		installed := b.certificate(t)
		if chain, err := kit.ParseChain(installed); err != nil || c.name == "version 1" && chain[0].Version != 1 {
			t.Errorf("%s: %v, version %d", c.name, err, chain[0].Version)
		}
		openssl(t, installed, "verify", "-CAfile", ca.path("ca.pem"))
		if private, certified := b.pair(t); !kit.SameKey(private, certified) {
			t.Errorf("%s: the installed key is not the certified one", c.name)
		}
	}
}

// brokenIs reports whether the error is of that rule alone, or nil where there is
// none.
func brokenIs(t *testing.T, err error, want pkcs10.Rule) bool {
	t.Helper()
	vs := violationsOf(t, err)
	if want == "" && err != nil || want != "" && (len(vs) != 1 || vs[0].Rule != want) {
		t.Errorf("error %v, want %q", err, want)
		return false
	}
	return true
}

// An OpenSSL CA signs requests of ours, also of CAs. Import takes what it signed.
func TestOpenSSLSignsNamedRequests(t *testing.T) {
	t.Parallel()
	b, ca := realBench(t), newOpenSSLCA(t)
	for _, c := range []struct {
		name       string
		algorithm  pkcs10.Algorithm
		ca         bool
		extensions string
		args       []string
		want       pkcs10.Rule
	}{
		{"for key transport alone", pkcs10.RSA, false, "keyUsage=critical,keyEncipherment\n", nil, ""},
		{"curve", pkcs10.ECDSA, false, "", nil, ""},
		{"CA with what the request asks for", pkcs10.RSA, true, "", []string{"-copy_extensions", "copyall"}, ""},
		{"CA on a curve", pkcs10.ECDSA, true, "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n", nil, ""},
		{"CA that was made a leaf", pkcs10.ECDSA, true, "keyUsage=digitalSignature\n", nil, pkcs10.NotAnAuthority},
	} {
		spec := commonName(c.name)
		spec.Algorithm, spec.CA = c.algorithm, c.ca
		request := b.createNamed(t, csr.NewRequest{ID: c.name, Spec: spec})
		text := ca.issue(t, request.PEM, c.extensions, c.args...) + ca.read(t, "ca.pem")
		imported, err := b.importNamed(t, c.name, csr.Import{PEM: []byte(text)})
		if !brokenIs(t, err, c.want) || err != nil {
			continue
		}
		openssl(t, imported.PEM, "verify", "-CAfile", ca.path("ca.pem"))
		if leaf := leafOf(t, imported); c.args != nil && (!leaf.IsCA || leaf.KeyUsage != x509.KeyUsageCertSign) {
			t.Error("openssl did not find in the request what it asks for")
		}
	}
}

// A CA that is made and run with what a distribution ships signs our CSR. Its policy,
// policy_match, compares C, ST and O with those of the CA, byte by byte and type by type.
func TestOpenSSLPolicyMatch(t *testing.T) {
	t.Parallel()
	b, dir := realBench(t), t.TempDir()
	config := strings.Split(openssl(t, "", "version", "-d"), `"`)[1] + "/openssl.cnf"
	if text := kit.Read(t, filepath.Dir(config), "openssl.cnf"); !strings.Contains(string(text), "policy\t\t= policy_match") {
		t.Fatalf("%s has another policy", config)
	}
	ca := filepath.Join(dir, "ca.pem")
	openssl(t, "", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/C=US/ST=California/O=ACME/CN=Policy CA", "-days", "30", "-keyout", filepath.Join(dir, "ca.key"), "-out", ca)
	// The folder that the configuration names is relative to where openssl runs.
	for name, text := range map[string]string{"index.txt": "", "serial": "01\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "demoCA", "newcerts"), 0o700), os.WriteFile(filepath.Join(dir, "demoCA", name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), "openssl", "ca", "-config", config, "-batch", "-notext", "-days", "30", "-cert", ca, "-keyfile", "ca.key", "-in", "/dev/stdin", "-out", "leaf.pem")
	command.Dir, command.Stdin = dir, strings.NewReader(b.create(t, fullSpec()))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("openssl ca: %v\n%s", err, out)
	}
	if err := b.grant(t, csr.SetCertificate).SetCertificate(t.Context(), kit.Read(t, dir, "leaf.pem")); err != nil {
		t.Error(err)
	}
}

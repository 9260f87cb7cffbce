//go:build tools

package pkcs10_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
)

// openssl runs openssl in a folder.
func openssl(t *testing.T, dir string, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "openssl", args...)
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// CAs that OpenSSL makes and crypto/x509 knows by half: the algorithm is what is told,
// with and without the certificate of the CA.
func TestOpenSSLCAs(t *testing.T) {
	t.Parallel()
	const (
		signatures = ", which is not supported: use a CA that signs with RSA, ECDSA or Ed25519"
		pss        = " is signed with the algorithm RSA-PSS with other parameters than SHA-256, SHA-384 or SHA-512 for everything and a salt as long as the hash" + signatures
		keys       = ", which is not supported: use RSA, ECDSA (P-256, P-384, P-521) or Ed25519"
	)
	for _, c := range []struct {
		name        string
		key         []string
		hash        string
		alone, with []string
	}{
		{"RSA", []string{"rsa:2048"}, "-sha256", nil, nil},
		{"RSASSA-PSS", []string{"rsa:2048", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}, "-sha256", nil, nil},
		{"RSASSA-PSS with a long salt", []string{"rsa:2048", "-sigopt", "rsa_padding_mode:pss"}, "-sha256", []string{`1 "CN=leaf"` + pss}, []string{`1 "CN=leaf"` + pss, `2 "CN=ca"` + pss}},
		{"Ed25519", []string{"ed25519"}, "-sha256", nil, nil},
		{"P-521", []string{"ec", "-pkeyopt", "ec_paramgen_curve:P-521"}, "-sha512", nil, nil},
		{"Ed448", []string{"ed448"}, "-sha256",
			[]string{`1 "CN=leaf" is signed with the algorithm Ed448` + signatures},
			[]string{`1 "CN=leaf" is signed with the algorithm Ed448` + signatures, `2 "CN=ca" has a key of the algorithm Ed448` + keys}},
		{"key for RSASSA-PSS alone", []string{"rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"}, "-sha256", []string{`1 "CN=leaf"` + pss},
			[]string{`1 "CN=leaf"` + pss, `2 "CN=ca" has a key of the algorithm RSA-PSS` + keys}},
		{"SHA-3", []string{"rsa:2048"}, "-sha3-256",
			[]string{`1 "CN=leaf" is signed with the algorithm SHA3-256-RSA` + signatures},
			[]string{`1 "CN=leaf" is signed with the algorithm SHA3-256-RSA` + signatures, `2 "CN=ca" is signed with the algorithm SHA3-256-RSA` + signatures}},
		{"SHA-1", []string{"rsa:2048"}, "-sha1",
			[]string{`1 "CN=leaf" must not be signed with SHA1-RSA: ask the CA to sign with SHA-256`},
			[]string{`1 "CN=leaf" must not be signed with SHA1-RSA: ask the CA to sign with SHA-256`}},
		{"MD5", []string{"rsa:2048"}, "-md5",
			[]string{`1 "CN=leaf" must not be signed with MD5-RSA: ask the CA to sign with SHA-256`},
			[]string{`1 "CN=leaf" must not be signed with MD5-RSA: ask the CA to sign with SHA-256`}},
	} {
		dir := t.TempDir()
		newkey, sigopt := c.key, []string(nil)
		if i := slices.Index(newkey, "-sigopt"); i >= 0 {
			newkey, sigopt = newkey[:i], newkey[i:]
		}
		openssl(t, dir, slices.Concat([]string{"req", "-x509", "-subj", "/CN=ca", "-days", "30", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", c.hash, "-newkey"}, newkey, sigopt)...)
		openssl(t, dir, "req", "-new", "-subj", "/CN=leaf", "-nodes", "-keyout", "leaf.key", "-out", "leaf.csr", "-newkey", "rsa:2048")
		openssl(t, dir, slices.Concat([]string{"x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30", "-out", "leaf.pem", c.hash}, sigopt)...)
		read := func(name string) string {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		for text, want := range map[string][]string{read("leaf.pem"): c.alone, read("leaf.pem") + read("ca.pem"): c.with} {
			_, broken := pkcs10.Accept([]byte(text), pkcs10.Criteria{Now: time.Now()})
			if got := sentences(broken); !slices.Equal(got, want) {
				t.Errorf("%s: said\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

//go:build tools

package pkcs10_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// bag is a folder with certificates and what tools make of them.
type bag struct{ dir string }

func (b bag) path(name string) string { return filepath.Join(b.dir, name) }

// run runs a command in the folder.
func (b bag) run(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	command := exec.CommandContext(t.Context(), words[0], words[1:]...)
	command.Dir = b.dir
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

func (b bag) read(t *testing.T, name string) string {
	t.Helper()
	return string(kit.Read(t, b.dir, name))
}

// newBag makes a root, an intermediate and a leaf with openssl.
func newBag(t *testing.T) bag {
	t.Helper()
	b := bag{t.TempDir()}
	for name, text := range map[string]string{"ca.cnf": "[ca]\ndatabase = index.txt\ncrlnumber = crlnumber\n", "index.txt": "", "crlnumber": "01\n", "ca.ext": "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n", "leaf.ext": "keyUsage=critical,digitalSignature\n"} {
		if err := os.WriteFile(b.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const ec = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
	b.run(t, "openssl req -x509 "+ec+" -subj /CN=root -days 30 -keyout root.key -out root.pem")
	b.run(t, "openssl req -new "+ec+" -subj /CN=sub -keyout sub.key -out sub.csr")
	b.run(t, "openssl x509 -req -in sub.csr -CA root.pem -CAkey root.key -set_serial 2 -days 30 -extfile ca.ext -out sub.pem")
	b.run(t, "openssl req -new "+ec+" -subj /CN=leaf -keyout leaf.key -out leaf.csr")
	b.run(t, "openssl x509 -req -in leaf.csr -CA sub.pem -CAkey sub.key -set_serial 3 -days 30 -extfile leaf.ext -out leaf.pem")
	b.run(t, "openssl ca -config ca.cnf -name ca -gencrl -keyfile root.key -cert root.pem -md sha256 -crldays 3 -out root.crl")
	return b
}

// What openssl and certtool make of a chain is read as that chain.
func TestPKCS7OfTools(t *testing.T) {
	t.Parallel()
	b := newBag(t)
	want := b.read(t, "leaf.pem") + b.read(t, "sub.pem") + b.read(t, "root.pem")
	kit.Overwrite(t, b.dir, "all.pem", b.read(t, "root.pem")+b.read(t, "sub.pem")+b.read(t, "leaf.pem"))
	b.run(t, "openssl crl2pkcs7 -nocrl -certfile all.pem -out openssl.p7b")
	b.run(t, "openssl crl2pkcs7 -nocrl -certfile sub.pem -certfile root.pem -certfile leaf.pem -outform DER -out openssl.der")
	b.run(t, "openssl crl2pkcs7 -in root.crl -certfile all.pem -out with-crl.p7b")
	b.run(t, "certtool --p7-generate --load-certificate all.pem --outfile certtool.p7b")
	for name, text := range map[string]string{
		"openssl": b.read(t, "openssl.p7b"), "openssl, DER": b.read(t, "openssl.der"), "with a revocation list": b.read(t, "with-crl.p7b"),
		"as AD CS labels it": strings.ReplaceAll(b.read(t, "openssl.p7b"), "PKCS7", "CERTIFICATE"), "certtool": b.read(t, "certtool.p7b"),
	} {
		chain, broken := pkcs10.ReadChain([]byte(text), true)
		if broken != nil || chain.PEM() != want {
			t.Errorf("%s: %+v", name, []pkcs10.Violation(broken))
		}
	}
}

// What else openssl writes is refused by its name.
func TestRefusedFilesOfOpenSSL(t *testing.T) {
	t.Parallel()
	b := newBag(t)
	for name, c := range map[string]struct {
		line string // writes the file out
		want fault
	}{
		"signed":              {"openssl smime -sign -signer leaf.pem -inkey leaf.key -certfile sub.pem -in leaf.pem -outform PEM -out out", fault{rule: pkcs10.SignedPKCS7}},
		"signed CMS":          {"openssl cms -sign -nodetach -signer leaf.pem -inkey leaf.key -in leaf.pem -outform PEM -out out", fault{rule: pkcs10.SignedPKCS7}},
		"signed, DER":         {"openssl smime -sign -signer leaf.pem -inkey leaf.key -in leaf.pem -outform DER -out out", fault{rule: pkcs10.SignedPKCS7}},
		"indefinite length":   {"openssl cms -sign -stream -signer leaf.pem -inkey leaf.key -in leaf.pem -outform DER -out out", fault{rule: pkcs10.BER, place: 1}},
		"encrypted":           {"openssl cms -encrypt -in leaf.pem -outform DER -out out leaf.pem", fault{rule: pkcs10.PKCS7Content, words: "enveloped data"}},
		"a list alone":        {"openssl crl2pkcs7 -in root.crl -out out", fault{rule: pkcs10.EmptyPKCS7}},
		"PKCS#12":             {"openssl pkcs12 -export -in leaf.pem -inkey leaf.key -passout pass:x -out out", fault{rule: pkcs10.PrivateKey, place: 1, words: "PKCS#12"}},
		"trusted":             {"openssl x509 -in leaf.pem -trustout -addtrust serverAuth -out out", fault{rule: pkcs10.TrustedBlock}},
		"a CSR":               {"openssl req -in leaf.csr -out out", fault{rule: pkcs10.RequestBlock}},
		"a CSR, DER":          {"openssl req -in leaf.csr -outform DER -out out", fault{rule: pkcs10.RequestBlock, place: 1}},
		"a CSR of Windows":    {"openssl req -in leaf.csr -newhdr -out out", fault{rule: pkcs10.RequestBlock}},
		"a list":              {"openssl crl -in root.crl -out out", fault{rule: pkcs10.ForeignBlock, words: "X509 CRL"}},
		"a list, DER":         {"openssl crl -in root.crl -outform DER -out out", fault{rule: pkcs10.ForeignBlock, place: 1, words: "a revocation list"}},
		"a public key, DER":   {"openssl pkey -in leaf.key -pubout -outform DER -out out", fault{rule: pkcs10.ForeignBlock, place: 1, words: "a public key"}},
		"a key":               {"openssl pkey -in leaf.key -out out", fault{rule: pkcs10.PrivateKey, words: "(PRIVATE KEY)"}},
		"a key, DER":          {"openssl pkcs8 -topk8 -nocrypt -in leaf.key -outform DER -out out", fault{rule: pkcs10.PrivateKey, place: 1, words: "PKCS#8"}},
		"an EC key, DER":      {"openssl ec -in leaf.key -outform DER -out out", fault{rule: pkcs10.PrivateKey, place: 1, words: "SEC 1"}},
		"an RSA key, DER":     {"openssl genrsa -traditional -out out 2048", fault{rule: pkcs10.PrivateKey, words: "RSA PRIVATE KEY"}},
		"an encrypted key":    {"openssl pkcs8 -topk8 -passout pass:x -in leaf.key -out out", fault{rule: pkcs10.PrivateKey, words: "ENCRYPTED PRIVATE KEY"}},
		"brainpool":           {"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:brainpoolP256r1 -nodes -subj /CN=pool -keyout x.key -out out", fault{pkcs10.Malformed, 1, "CN=pool", "unsupported elliptic curve"}},
		"explicit parameters": {"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit -nodes -subj /CN=own -keyout x.key -out out", fault{pkcs10.Malformed, 1, "CN=own", "invalid ECDSA parameters"}},
	} {
		_ = os.Remove(b.path("out"))
		b.run(t, c.line)
		_, broken := pkcs10.ReadChain([]byte(b.read(t, "out")), true)
		if len(broken) == 0 {
			t.Errorf("%s is taken", name)
		}
		checkFaults(t, broken, []fault{c.want})
	}
}

package csr_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
)

// noon is the time that chain tests run at.
func noon() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// authority is a CA made for a test.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority makes a CA issued by parent, or a root when parent is nil.
func newAuthority(t testing.TB, name string, parent *authority, edit ...func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	ca := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	issuer := parent
	if parent == nil {
		issuer = a
	}
	a.certificate = issuer.issue(t, name, a.key.Public(), append([]func(*x509.Certificate){ca}, edit...)...)
	return a
}

// issue makes a certificate for a key, valid from a year before noon to a year
// after. An authority without a certificate of its own signs itself.
func (a *authority) issue(t testing.TB, name string, key crypto.PublicKey, edit ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    noon().AddDate(-1, 0, 0),
		NotAfter:     noon().AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, f := range edit {
		f(c)
	}
	parent := a.certificate
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func pemOf(certificates ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certificates {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func TestChainChecks(t *testing.T) {
	t.Parallel()
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	key := newKey(t).Public()
	leaf := middle.issue(t, "leaf", key)

	long := []*authority{root}
	for i := range 10 {
		long = append(long, newAuthority(t, fmt.Sprintf("ca %d", i), long[len(long)-1]))
	}
	longChain := []*x509.Certificate{long[10].issue(t, "leaf", key)}
	for _, a := range slices.Backward(long) {
		longChain = append(longChain, a.certificate)
	}

	valid := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon().Add(from), noon().Add(to) }
	}
	usage := func(u x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = u }
	}
	// other has the name of middle and another key.
	other := newAuthority(t, "middle", root)
	// renamed has the key of middle and another name.
	renamed := root.issue(t, "renamed", middle.key.Public(), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	notCA := root.issue(t, "middle", middle.key.Public())
	expired := newAuthority(t, "expired", root, valid(-48*time.Hour, -time.Hour))

	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		want  []csr.Rule
	}{
		{"leaf alone", []*x509.Certificate{leaf}, nil},
		{"leaf and issuer", []*x509.Certificate{leaf, middle.certificate}, nil},
		{"to the root", []*x509.Certificate{leaf, middle.certificate, root.certificate}, nil},
		{"self-signed", []*x509.Certificate{(&authority{key: testKey()}).issue(t, "self", testKey().Public())}, nil},
		{"ten", longChain[:10], nil},
		{"eleven", longChain[:11], []csr.Rule{csr.TooMany}},
		{"wrong order", []*x509.Certificate{middle.certificate, leaf}, []csr.Rule{csr.BrokenChain, csr.KeyUsage}},
		{"a link is missing", []*x509.Certificate{leaf, root.certificate}, []csr.Rule{csr.BrokenChain}},
		{"the leaf twice", []*x509.Certificate{leaf, leaf}, []csr.Rule{csr.BrokenChain}},
		{"issuer of the same name", []*x509.Certificate{leaf, other.certificate}, []csr.Rule{csr.BrokenChain}},
		{"issuer of the same key", []*x509.Certificate{leaf, renamed}, []csr.Rule{csr.BrokenChain}},
		{"issuer that is no CA", []*x509.Certificate{leaf, notCA}, []csr.Rule{csr.BrokenChain}},
		{"ends now", []*x509.Certificate{root.issue(t, "leaf", key, valid(-time.Hour, 0))}, nil},
		{"ended a second ago", []*x509.Certificate{root.issue(t, "leaf", key, valid(-time.Hour, -time.Second))}, []csr.Rule{csr.Expired}},
		{"begins in five minutes", []*x509.Certificate{root.issue(t, "leaf", key, valid(csr.MaxAhead, time.Hour))}, nil},
		{"begins a second later", []*x509.Certificate{root.issue(t, "leaf", key, valid(csr.MaxAhead+time.Second, time.Hour))}, []csr.Rule{csr.NotYetValid}},
		{"issuer expired", []*x509.Certificate{expired.issue(t, "leaf", key), expired.certificate}, []csr.Rule{csr.Expired}},
		{"no key usage", []*x509.Certificate{root.issue(t, "leaf", key, usage(0))}, nil},
		{"more usages", []*x509.Certificate{root.issue(t, "leaf", key, usage(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment))}, nil},
		{"other usage", []*x509.Certificate{root.issue(t, "leaf", key, usage(x509.KeyUsageKeyEncipherment))}, []csr.Rule{csr.KeyUsage}},
		{"signed with SHA-1", []*x509.Certificate{middle.issue(t, "leaf", key, func(c *x509.Certificate) {
			c.SignatureAlgorithm = x509.ECDSAWithSHA1
		}), middle.certificate}, []csr.Rule{csr.WeakSignature}},
		{"all at once", []*x509.Certificate{
			root.issue(t, "leaf", key, valid(time.Hour, 2*time.Hour), usage(x509.KeyUsageCRLSign)), expired.certificate,
		}, []csr.Rule{csr.NotYetValid, csr.BrokenChain, csr.Expired, csr.KeyUsage}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, got, err := csr.AcceptChain(pemOf(c.chain...), noon())
			vs := violationsOf(t, err)
			var broken []csr.Rule
			for _, v := range vs {
				broken = append(broken, v.Rule)
			}
			if !slices.Equal(broken, c.want) {
				t.Fatalf("rules %q, want %q", broken, c.want)
			}
			checkSentences(t, vs)
			if err == nil && (text != string(pemOf(c.chain...)) || len(got) != len(c.chain)) {
				t.Fatal("the chain was changed")
			}
		})
	}
}

// secret stands for a private key that was sent by mistake.
const secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"

func TestChainText(t *testing.T) {
	t.Parallel()
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	leaf := middle.issue(t, "leaf", newKey(t).Public())
	chain := string(pemOf(leaf, middle.certificate))
	one := string(pemOf(leaf))
	body := strings.TrimSuffix(strings.TrimPrefix(one, "-----BEGIN CERTIFICATE-----\n"), "-----END CERTIFICATE-----\n")
	block := func(blockType, body string) string {
		return "-----BEGIN " + blockType + "-----\n" + body + "\n-----END " + blockType + "-----\n"
	}
	// unclean is base64 of the leaf, but for the bits that decoding drops.
	padded := leaf
	for len(padded.Raw)%3 != 1 {
		padded = middle.issue(t, padded.Subject.CommonName+"+", leaf.PublicKey)
	}
	unclean := strings.TrimSuffix(base64.StdEncoding.EncodeToString(padded.Raw), "==")
	unclean = unclean[:len(unclean)-1] + string(unclean[len(unclean)-1]+1) + "=="

	trailing := base64.StdEncoding.EncodeToString(append(bytes.Clone(leaf.Raw), 0))

	for _, c := range []struct {
		name, text string
		want       csr.Rule // empty: accepted, and then as chain or one
	}{
		{"as encoded", chain, ""},
		{"CRLF", strings.ReplaceAll(chain, "\n", "\r\n"), ""},
		{"text around", "subject=CN = leaf\nissuer=CN = middle\n" + one + "\n  some - dashes -- here\n" + string(pemOf(middle.certificate)) + "\nend", ""},
		{"blanks and empty lines", strings.ReplaceAll(chain, "\n", " \n\t\n"), ""},
		{"no newline at the end", strings.TrimSpace(chain), ""},
		{"one line of base64", block("CERTIFICATE", strings.ReplaceAll(body, "\n", "")), ""},
		{"empty", "", csr.NoCertificate},
		{"text only", "a certificate, please", csr.NoCertificate},
		{"DER", string(leaf.Raw), csr.NoCertificate},
		{"base64 only", body, csr.NoCertificate},
		{"private key after", chain + block("PRIVATE KEY", secret), csr.ForeignBlock},
		{"private key before", block("RSA PRIVATE KEY", secret) + chain, csr.ForeignBlock},
		{"CSR", block("CERTIFICATE REQUEST", body), csr.ForeignBlock},
		{"trusted certificate", block("TRUSTED CERTIFICATE", body), csr.ForeignBlock},
		{"lower case", block("certificate", body), csr.ForeignBlock},
		{"old name", block("X509 CERTIFICATE", body), csr.ForeignBlock},
		{"PKCS#7", block("PKCS7", body), csr.ForeignBlock},
		{"no end", strings.TrimSuffix(chain, "-----END CERTIFICATE-----\n"), csr.Malformed},
		{"cut in the second", chain[:len(chain)-100], csr.Malformed},
		{"end only", "-----END CERTIFICATE-----\n", csr.Malformed},
		{"end before", "-----END CERTIFICATE-----\n" + chain, csr.Malformed},
		{"begin in a block", strings.Replace(one, "\n", "\n-----BEGIN CERTIFICATE-----\n", 1), csr.Malformed},
		{"another end", strings.Replace(one, "END CERTIFICATE", "END PRIVATE KEY", 1), csr.Malformed},
		{"all in one line", strings.ReplaceAll(one, "\n", ""), csr.Malformed},
		{"four dashes", strings.Replace(one, "CERTIFICATE-----", "CERTIFICATE----", 1), csr.Malformed},
		{"no type", block("", body), csr.Malformed},
		{"text before the boundary", "x" + one, csr.Malformed},
		{"headers", block("CERTIFICATE", "Proc-Type: 4,ENCRYPTED\n\n"+body), csr.Malformed},
		{"no base64", block("CERTIFICATE", "%%%%"), csr.Malformed},
		{"base64 cut", block("CERTIFICATE", body[:len(body)-3]), csr.Malformed},
		{"base64 with dropped bits", block("CERTIFICATE", unclean), csr.Malformed},
		{"empty block", block("CERTIFICATE", ""), csr.Malformed},
		{"no certificate inside", block("CERTIFICATE", secret), csr.Malformed},
		{"bytes after the certificate", block("CERTIFICATE", trailing), csr.Malformed},
		{"bad block after a good one", chain + block("CERTIFICATE", secret), csr.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, _, err := csr.AcceptChain([]byte(c.text), noon())
			if c.want == "" {
				if err != nil || text != chain && text != one {
					t.Fatalf("error %v, chain %q", err, text)
				}
				return
			}
			vs := violationsOf(t, err)
			if len(vs) != 1 || vs[0].Field != csr.CertificateChain || vs[0].Rule != c.want {
				t.Fatalf("violations %+v, want %s", vs, c.want)
			}
			if shown := fmt.Sprintf("%v %+v %s", err, vs, vs[0].Describe("certificate")); strings.Contains(shown, secret[:16]) || strings.Contains(shown, body[:16]) {
				t.Fatalf("what was sent is echoed: %s", shown)
			}
			checkSentences(t, vs)
		})
	}
}

func FuzzChain(f *testing.F) {
	root := newAuthority(f, "root", nil)
	middle := newAuthority(f, "middle", root)
	leaf := middle.issue(f, "leaf", newKey(f).Public())
	chain := pemOf(leaf, middle.certificate, root.certificate)
	for _, seed := range [][]byte{
		chain, pemOf(leaf), nil, leaf.Raw, pemOf(root.certificate, leaf),
		bytes.ReplaceAll(chain, []byte("\n"), []byte("\r\n")),
		[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), chain[:len(chain)-40], append([]byte("text\n"), chain...),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, certificates, err := csr.AcceptChain(text, noon())
		if err != nil {
			if out != "" || certificates != nil {
				t.Fatal("a chain beside an error")
			}
			checkSentences(t, violationsOf(t, err))
			return
		}
		if n := len(certificates); n < 1 || n > 10 {
			t.Fatalf("%d certificates", n)
		}
		for i, c := range certificates[:len(certificates)-1] {
			if err := c.CheckSignatureFrom(certificates[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		// What is stored reads as what was accepted, also by another reader.
		rest := []byte(out)
		for _, c := range certificates {
			var block *pem.Block
			block, rest = pem.Decode(rest)
			if block == nil || !bytes.Equal(block.Bytes, c.Raw) {
				t.Fatal("the stored chain is another one")
			}
		}
		if len(bytes.TrimSpace(rest)) > 0 {
			t.Fatalf("text beside the chain: %q", rest)
		}
		again, _, err := csr.AcceptChain([]byte(out), noon())
		if err != nil || again != out {
			t.Fatalf("the stored chain is not accepted again: %v", err)
		}
	})
}

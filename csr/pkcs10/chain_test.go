package pkcs10_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

func TestChainChecks(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	middle := root.NewCA(t, "middle")
	key := kit.NewKey(t).Public()
	leaf := middle.Issue(t, "leaf", key)

	long := []*kit.CA{root}
	for i := range 10 {
		long = append(long, long[len(long)-1].NewCA(t, fmt.Sprintf("ca %d", i)))
	}
	longChain := []*x509.Certificate{long[10].Issue(t, "leaf", key)}
	for _, a := range slices.Backward(long) {
		longChain = append(longChain, a.Cert)
	}

	valid := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon().Add(from), noon().Add(to) }
	}
	usage := func(u x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = u }
	}
	// other has the name of middle and another key.
	other := root.NewCA(t, "middle")
	// renamed has the key of middle and another name.
	renamed := root.Issue(t, "renamed", middle.Key.Public(), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	notCA := root.Issue(t, "middle", middle.Key.Public())
	expired := root.NewCA(t, "expired", valid(-48*time.Hour, -time.Hour))

	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		want  []pkcs10.Rule
	}{
		{"leaf alone", []*x509.Certificate{leaf}, nil},
		{"leaf and issuer", []*x509.Certificate{leaf, middle.Cert}, nil},
		{"to the root", []*x509.Certificate{leaf, middle.Cert, root.Cert}, nil},
		{"self-signed", []*x509.Certificate{(&kit.CA{Key: testKey(), Now: noon()}).Issue(t, "self", testKey().Public())}, nil},
		{"ten", longChain[:10], nil},
		{"eleven", longChain[:11], []pkcs10.Rule{pkcs10.TooMany}},
		{"wrong order", []*x509.Certificate{middle.Cert, leaf}, []pkcs10.Rule{pkcs10.BrokenChain, pkcs10.KeyUsage}},
		{"a link is missing", []*x509.Certificate{leaf, root.Cert}, []pkcs10.Rule{pkcs10.BrokenChain}},
		{"the leaf twice", []*x509.Certificate{leaf, leaf}, []pkcs10.Rule{pkcs10.BrokenChain}},
		{"issuer of the same name", []*x509.Certificate{leaf, other.Cert}, []pkcs10.Rule{pkcs10.BrokenChain}},
		{"issuer of the same key", []*x509.Certificate{leaf, renamed}, []pkcs10.Rule{pkcs10.BrokenChain}},
		{"issuer that is no CA", []*x509.Certificate{leaf, notCA}, []pkcs10.Rule{pkcs10.BrokenChain}},
		{"ends now", []*x509.Certificate{root.Issue(t, "leaf", key, valid(-time.Hour, 0))}, nil},
		{"ended a second ago", []*x509.Certificate{root.Issue(t, "leaf", key, valid(-time.Hour, -time.Second))}, []pkcs10.Rule{pkcs10.Expired}},
		{"begins in five minutes", []*x509.Certificate{root.Issue(t, "leaf", key, valid(5*time.Minute, time.Hour))}, nil},
		{"begins a second later", []*x509.Certificate{root.Issue(t, "leaf", key, valid(5*time.Minute+time.Second, time.Hour))}, []pkcs10.Rule{pkcs10.NotYetValid}},
		{"issuer expired", []*x509.Certificate{expired.Issue(t, "leaf", key), expired.Cert}, []pkcs10.Rule{pkcs10.Expired}},
		{"no key usage", []*x509.Certificate{root.Issue(t, "leaf", key, usage(0))}, nil},
		{"more usages", []*x509.Certificate{root.Issue(t, "leaf", key, usage(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment))}, nil},
		{"other usage", []*x509.Certificate{root.Issue(t, "leaf", key, usage(x509.KeyUsageKeyEncipherment))}, []pkcs10.Rule{pkcs10.KeyUsage}},
		{"signed with SHA-1", []*x509.Certificate{middle.Issue(t, "leaf", key, func(c *x509.Certificate) {
			c.SignatureAlgorithm = x509.ECDSAWithSHA1
		}), middle.Cert}, []pkcs10.Rule{pkcs10.WeakSignature}},
		{"all at once", []*x509.Certificate{
			root.Issue(t, "leaf", key, valid(time.Hour, 2*time.Hour), usage(x509.KeyUsageCRLSign)), expired.Cert,
		}, []pkcs10.Rule{pkcs10.NotYetValid, pkcs10.BrokenChain, pkcs10.Expired, pkcs10.KeyUsage}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, got, err := acceptChain(pemOf(c.chain...))
			vs := violationsOf(t, err)
			var broken []pkcs10.Rule
			for _, v := range vs {
				broken = append(broken, v.Rule)
			}
			if !slices.Equal(broken, c.want) {
				t.Fatalf("rules %q, want %q", broken, c.want)
			}
			checkSentences(t, vs)
			if err == nil && (text != kit.PEM(c.chain...) || len(got) != len(c.chain)) {
				t.Fatal("the chain was changed")
			}
		})
	}
}

// secret stands for a private key that was sent by mistake.
const secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"

func TestChainText(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	middle := root.NewCA(t, "middle")
	leaf := middle.Issue(t, "leaf", kit.NewKey(t).Public())
	chain := kit.PEM(leaf, middle.Cert)
	one := kit.PEM(leaf)
	body := strings.TrimSuffix(strings.TrimPrefix(one, "-----BEGIN CERTIFICATE-----\n"), "-----END CERTIFICATE-----\n")
	block := func(blockType, body string) string {
		return "-----BEGIN " + blockType + "-----\n" + body + "\n-----END " + blockType + "-----\n"
	}
	// unclean is base64 of the leaf, but for the bits that decoding drops.
	padded := leaf
	for len(padded.Raw)%3 != 1 {
		padded = middle.Issue(t, padded.Subject.CommonName+"+", leaf.PublicKey)
	}
	unclean := strings.TrimSuffix(base64.StdEncoding.EncodeToString(padded.Raw), "==")
	unclean = unclean[:len(unclean)-1] + string(unclean[len(unclean)-1]+1) + "=="

	trailing := base64.StdEncoding.EncodeToString(append(bytes.Clone(leaf.Raw), 0))

	for _, c := range []struct {
		name, text string
		want       pkcs10.Rule // empty: accepted, and then as chain or one
	}{
		{"as encoded", chain, ""},
		{"CRLF", strings.ReplaceAll(chain, "\n", "\r\n"), ""},
		{"text around", "subject=CN = leaf\nissuer=CN = middle\n" + one + "\n  some - dashes -- here\n" + kit.PEM(middle.Cert) + "\nend", ""},
		{"blanks and empty lines", strings.ReplaceAll(chain, "\n", " \n\t\n"), ""},
		{"no newline at the end", strings.TrimSpace(chain), ""},
		{"one line of base64", block("CERTIFICATE", strings.ReplaceAll(body, "\n", "")), ""},
		{"empty", "", pkcs10.NoCertificate},
		{"text only", "a certificate, please", pkcs10.NoCertificate},
		{"DER", string(leaf.Raw), pkcs10.NoCertificate},
		{"base64 only", body, pkcs10.NoCertificate},
		{"private key after", chain + block("PRIVATE KEY", secret), pkcs10.ForeignBlock},
		{"private key before", block("RSA PRIVATE KEY", secret) + chain, pkcs10.ForeignBlock},
		{"CSR", block("CERTIFICATE REQUEST", body), pkcs10.ForeignBlock},
		{"trusted certificate", block("TRUSTED CERTIFICATE", body), pkcs10.ForeignBlock},
		{"lower case", block("certificate", body), pkcs10.ForeignBlock},
		{"old name", block("X509 CERTIFICATE", body), pkcs10.ForeignBlock},
		{"PKCS#7", block("PKCS7", body), pkcs10.ForeignBlock},
		{"no end", strings.TrimSuffix(chain, "-----END CERTIFICATE-----\n"), pkcs10.Malformed},
		{"cut in the second", chain[:len(chain)-100], pkcs10.Malformed},
		{"end only", "-----END CERTIFICATE-----\n", pkcs10.Malformed},
		{"end before", "-----END CERTIFICATE-----\n" + chain, pkcs10.Malformed},
		{"begin in a block", strings.Replace(one, "\n", "\n-----BEGIN CERTIFICATE-----\n", 1), pkcs10.Malformed},
		{"another end", strings.Replace(one, "END CERTIFICATE", "END PRIVATE KEY", 1), pkcs10.Malformed},
		{"all in one line", strings.ReplaceAll(one, "\n", ""), pkcs10.Malformed},
		{"four dashes", strings.Replace(one, "CERTIFICATE-----", "CERTIFICATE----", 1), pkcs10.Malformed},
		{"no type", block("", body), pkcs10.Malformed},
		{"text before the boundary", "x" + one, pkcs10.Malformed},
		{"headers", block("CERTIFICATE", "Proc-Type: 4,ENCRYPTED\n\n"+body), pkcs10.Malformed},
		{"no base64", block("CERTIFICATE", "%%%%"), pkcs10.Malformed},
		{"base64 cut", block("CERTIFICATE", body[:len(body)-3]), pkcs10.Malformed},
		{"base64 with dropped bits", block("CERTIFICATE", unclean), pkcs10.Malformed},
		{"empty block", block("CERTIFICATE", ""), pkcs10.Malformed},
		{"no certificate inside", block("CERTIFICATE", secret), pkcs10.Malformed},
		{"bytes after the certificate", block("CERTIFICATE", trailing), pkcs10.Malformed},
		{"bad block after a good one", chain + block("CERTIFICATE", secret), pkcs10.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text, _, err := acceptChain([]byte(c.text))
			if c.want == "" {
				if err != nil || text != chain && text != one {
					t.Fatalf("error %v, chain %q", err, text)
				}
				return
			}
			vs := violationsOf(t, err)
			if len(vs) != 1 || vs[0].Field != pkcs10.CertificateChain || vs[0].Rule != c.want {
				t.Fatalf("violations %+v, want %s", vs, c.want)
			}
			if shown := fmt.Sprintf("%v %+v %s", err, vs, vs[0].Describe("certificate")); strings.Contains(shown, secret[:16]) || strings.Contains(shown, body[:16]) {
				t.Fatalf("what was sent is echoed: %s", shown)
			}
			checkSentences(t, vs)
		})
	}
}

// hugeIssuer returns a leaf and an issuer whose RSA modulus has more bits than a
// signature is checked with. Nobody can sign with such a key; the name is right.
func hugeIssuer(t *testing.T, key any, bits int) (leaf, issuer *x509.Certificate) {
	t.Helper()
	modulus, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		t.Fatal(err)
	}
	modulus.SetBit(modulus.SetBit(modulus, bits-1, 1), 0, 1)
	root := kit.NewCA(t, "huge", noon())
	issuer = root.Issue(t, "huge", &rsa.PublicKey{N: modulus, E: 65537}, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return root.Issue(t, "leaf", key), issuer
}

func TestHugeIssuerKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bits int
		want pkcs10.Rule
	}{{16384, pkcs10.BrokenChain}, {16385, pkcs10.KeyTooLarge}, {200_000, pkcs10.KeyTooLarge}} {
		leaf, issuer := hugeIssuer(t, testKey().Public(), c.bits)
		start := time.Now()
		_, _, err := acceptChain(pemOf(leaf, issuer))
		vs := violationsOf(t, err)
		if len(vs) != 1 || vs[0].Rule != c.want {
			t.Errorf("%d bits: violations %+v, want %s", c.bits, vs, c.want)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%d bits took %v", c.bits, took)
		}
	}
}

func FuzzChain(f *testing.F) {
	root := kit.NewCA(f, "root", noon())
	middle := root.NewCA(f, "middle")
	leaf := middle.Issue(f, "leaf", kit.NewKey(f).Public())
	chain := pemOf(leaf, middle.Cert, root.Cert)
	for _, seed := range [][]byte{
		chain, pemOf(leaf), nil, leaf.Raw, pemOf(root.Cert, leaf),
		bytes.ReplaceAll(chain, []byte("\n"), []byte("\r\n")),
		[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), chain[:len(chain)-40], append([]byte("text\n"), chain...),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, certificates, err := acceptChain(text)
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
		again, _, err := acceptChain([]byte(out))
		if err != nil || again != out {
			t.Fatalf("the stored chain is not accepted again: %v", err)
		}
	})
}

package pkcs10_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// chainCase is a chain and the rules that it breaks.
type chainCase struct {
	name  string
	want  []pkcs10.Rule
	chain []*x509.Certificate
}

func valid(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = noon().Add(from), noon().Add(to) }
}

func usage(u x509.KeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.KeyUsage = u }
}

func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

func chainCases(t *testing.T) []chainCase {
	root := kit.NewCA(t, "root", noon())
	middle := root.NewCA(t, "middle")
	key := kit.NewKey(t).Public()
	leaf := middle.Issue(t, "leaf", key)
	sameName := root.NewCA(t, "middle")
	sameKey := root.Issue(t, "renamed", middle.Key.Public(), asCA)
	notCA := root.Issue(t, "middle", middle.Key.Public())
	expired := root.NewCA(t, "expired", valid(-48*time.Hour, -time.Hour))
	self := (&kit.CA{Key: testKey(), Now: noon()}).Issue(t, "self", testKey().Public())
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	long := longChain(t, root, key)

	fine := []pkcs10.Rule(nil)
	broken := func(rules ...pkcs10.Rule) []pkcs10.Rule { return rules }
	chain := func(certificates ...*x509.Certificate) []*x509.Certificate { return certificates }
	with := func(edits ...func(*x509.Certificate)) []*x509.Certificate {
		return chain(root.Issue(t, "leaf", key, edits...))
	}
	return []chainCase{
		{"leaf alone", fine, chain(leaf)},
		{"leaf and issuer", fine, chain(leaf, middle.Cert)},
		{"to the root", fine, chain(leaf, middle.Cert, root.Cert)},
		{"self-signed", fine, chain(self)},
		{"ten", fine, long[:10]},
		{"eleven", broken(pkcs10.TooMany), long[:11]},
		{"wrong order", broken(pkcs10.WrongOrder), chain(middle.Cert, leaf)},
		{"a link is missing", broken(pkcs10.BrokenChain), chain(leaf, root.Cert)},
		{"issuer of the same name", broken(pkcs10.BadSignature), chain(leaf, sameName.Cert)},
		{"issuer of the same key", broken(pkcs10.BrokenChain), chain(leaf, sameKey)},
		{"issuer that is no CA", broken(pkcs10.NotACA), chain(leaf, notCA)},
		{"ends now", fine, with(valid(-time.Hour, 0))},
		{"ended a second ago", broken(pkcs10.Expired), with(valid(-time.Hour, -time.Second))},
		{"begins in five minutes", fine, with(valid(5*time.Minute, time.Hour))},
		{"begins a second later", broken(pkcs10.NotYetValid), with(valid(5*time.Minute+time.Second, time.Hour))},
		{"issuer expired", broken(pkcs10.Expired), chain(expired.Issue(t, "leaf", key), expired.Cert)},
		{"no key usage", fine, with(usage(0))},
		{"more usages", fine, with(usage(x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment))},
		{"other usage", broken(pkcs10.KeyUsage), with(usage(x509.KeyUsageKeyEncipherment))},
		{"signed with SHA-1", broken(pkcs10.WeakSignature), chain(middle.Issue(t, "leaf", key, sha1), middle.Cert)},
		{"all at once", broken(pkcs10.BrokenChain, pkcs10.NotYetValid, pkcs10.Expired, pkcs10.KeyUsage),
			append(with(valid(time.Hour, 2*time.Hour), usage(x509.KeyUsageCRLSign)), expired.Cert)},
	}
}

// longChain is a leaf for the key and its eleven issuers.
func longChain(t testing.TB, root *kit.CA, key any) []*x509.Certificate {
	t.Helper()
	issuer, chain := root, []*x509.Certificate{root.Cert}
	for i := range 10 {
		issuer = issuer.NewCA(t, fmt.Sprintf("ca %d", i))
		chain = append(chain, issuer.Cert)
	}
	chain = append(chain, issuer.Issue(t, "leaf", key))
	slices.Reverse(chain)
	return chain
}

func TestChainChecks(t *testing.T) {
	t.Parallel()
	for _, c := range chainCases(t) {
		text, got, err := acceptChain(pemOf(c.chain...))
		vs := violationsOf(t, err)
		var broken []pkcs10.Rule
		for _, v := range vs {
			broken = append(broken, v.Rule)
		}
		if !slices.Equal(broken, c.want) {
			t.Errorf("%s: rules %q, want %q", c.name, broken, c.want)
		}
		kit.CheckSentences(t, vs)
		if err == nil && (text != kit.PEM(c.chain...) || len(got) != len(c.chain)) {
			t.Errorf("%s: the chain was changed", c.name)
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
			kit.CheckSentences(t, violationsOf(t, err))
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

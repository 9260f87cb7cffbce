package pkcs10_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// costly is what a client sends to make the service work.
type costly struct {
	name    string
	chain   []*x509.Certificate
	anchors *pkcs10.Anchors
	want    pkcs10.Rule
}

// use is what the chain is good for by its leaf.
func (c costly) use() pkcs10.Use {
	if c.chain[0].IsCA {
		return pkcs10.Authority
	}
	return pkcs10.EndEntity
}

// sameName is ten certificates of one name, each with the key that signed the one
// before.
func sameName(t testing.TB, key func() crypto.Signer) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	issuer := &kit.CA{Key: key(), Now: noon()}
	for i := range 10 {
		next := issuer.Key
		if i > 0 {
			next = key()
		}
		c := issuer.Issue(t, "ca", next.Public(), asCA, func(c *x509.Certificate) {
			if issuer.Cert != nil {
				c.AuthorityKeyId = issuer.Cert.SubjectKeyId
			}
		})
		issuer = &kit.CA{Cert: c, Key: next, Now: noon()}
		chain = append(chain, c)
	}
	slices.Reverse(chain)
	return chain
}

// unsigned is ten certificates with RSA keys that nobody has. Each signature has the right
// length and is wrong.
func unsigned(t testing.TB, bits, exponent int) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for i := range 10 {
		ca := &kit.CA{Key: rsaKey(), Now: noon()}
		if i > 0 {
			named := *chain[i-1]
			named.PublicKey = nil
			ca.Cert = &named
		}
		c := ca.Issue(t, "ca", rsaPublic(t, bits, exponent), asCA, func(c *x509.Certificate) {
			if ca.Cert != nil {
				c.AuthorityKeyId = ca.Cert.SubjectKeyId
			}
		})
		outer := members(t, c.Raw)
		signature := bytes.Repeat([]byte{0x5a}, bits/8)
		chain = append(chain, parse(t, tlv(0x30, outer[0], outer[1], tlv(0x03, []byte{0}, signature))))
	}
	slices.Reverse(chain)
	return chain
}

func curve(t testing.TB, c elliptic.Curve) func() crypto.Signer {
	return func() crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
}

func costlyChains(t testing.TB) []costly {
	t.Helper()
	p521 := curve(t, elliptic.P521())
	var roots []*x509.Certificate
	for range 100 {
		roots = append(roots, kit.NewCA(t, "ca", noon()).Cert)
	}
	top := &kit.CA{Key: p521(), Now: noon()}
	top.Cert = top.Issue(t, "top", top.Key.Public(), asCA)
	four, issuer := certificates(top.Cert), top
	for _, name := range []string{"a", "b", "c"} {
		next := p521()
		issuer = &kit.CA{Cert: issuer.Issue(t, name, next.Public(), asCA), Key: next, Now: noon()}
		four = append(four, issuer.Cert)
	}
	four = append(four, issuer.Issue(t, "leaf", testKey().Public()))
	slices.Reverse(four)
	p256 := sameName(t, curve(t, elliptic.P256()))
	long := longChain(t, kit.NewCA(t, "root", noon()), testKey().Public())
	big := func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("é", 2000) }
	var names []*x509.Certificate
	for range 10 {
		names = append(names, kit.NewCA(t, "", noon(), big).Cert)
	}
	return []costly{
		{"ten of RSA-8192 and one name", unsigned(t, 8192, 65537), anchorsOf(t, roots...), pkcs10.TooCostly},
		{"ten of RSA-4096, exponent 65535", unsigned(t, 4096, 65535), anchorsOf(t, roots...), pkcs10.BadSignature},
		{"ten of P-521 and one name", sameName(t, p521), nil, pkcs10.TooCostly},
		{"ten of P-384 and one name", sameName(t, curve(t, elliptic.P384())), anchorsOf(t, roots...), pkcs10.UntrustedRoot},
		{"ten of P-256 and one name, all anchors", p256, anchorsOf(t, append(roots, p256...)...), pkcs10.TooCostly},
		{"ten of P-256 in order", long[:10], anchorsOf(t, append(roots, long[10:]...)...), ""},
		{"ten of large names", names, anchorsOf(t, roots...), pkcs10.BadSignature},
		{"four of P-521 that lead to an anchor", four, anchorsOf(t, top.Cert), ""},
	}
}

// A chain has a budget for checks of signatures. What exceeds it is refused and says so.
func TestCostlyChains(t *testing.T) {
	t.Parallel()
	for _, c := range costlyChains(t) {
		_, broken := pkcs10.Accept(pemOf(c.chain...), pkcs10.Criteria{Now: noon(), Use: c.use(), Anchors: c.anchors})
		has := slices.ContainsFunc(broken, func(v pkcs10.Violation) bool { return v.Rule == c.want })
		if c.want == "" && len(broken) > 0 || c.want != "" && !has {
			t.Errorf("%s: %q", c.name, sentences(broken))
		}
	}
}

// BenchmarkCostlyChains reports the CPU time of what a client can send at most.
func BenchmarkCostlyChains(b *testing.B) {
	for _, c := range costlyChains(b) {
		text, use := pemOf(c.chain...), c.use()
		b.Run(strings.ReplaceAll(c.name, " ", "-"), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begin, n := cpu(b), 0
			for b.Loop() {
				_, _ = pkcs10.Accept(text, pkcs10.Criteria{Now: noon(), Use: use, Anchors: c.anchors})
				n++
			}
			b.ReportMetric((cpu(b)-begin).Seconds()*1000/float64(n), "cpu-ms/op")
		})
	}
}

// cpu is the CPU time of this thread so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	const thread = 1 // RUSAGE_THREAD
	var usage syscall.Rusage
	if err := syscall.Getrusage(thread, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

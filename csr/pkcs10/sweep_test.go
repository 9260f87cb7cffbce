package pkcs10_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// swept is a good chain in which one thing is broken.
type swept struct {
	t     *testing.T
	chain []*x509.Certificate // leaf first
	keys  []crypto.Signer
}

func newSwept(t *testing.T, n int) *swept {
	t.Helper()
	s := &swept{t: t, chain: make([]*x509.Certificate, n), keys: make([]crypto.Signer, n)}
	for i := n - 1; i >= 0; i-- {
		s.keys[i] = kit.NewKey(t)
		s.reissue(i)
	}
	return s
}

// issuer is who signs a certificate: the next one, or the root itself.
func (s *swept) issuer(i int) *kit.CA {
	if i+1 == len(s.chain) {
		return &kit.CA{Key: s.keys[i], Now: noon()}
	}
	return &kit.CA{Cert: s.chain[i+1], Key: s.keys[i+1], Now: noon()}
}

// reissue makes one certificate anew, with edits.
func (s *swept) reissue(i int, edits ...edit) {
	if i > 0 {
		edits = append([]edit{asCA}, edits...)
	}
	s.chain[i] = s.issuer(i).Issue(s.t, fmt.Sprintf("certificate %d", i+1), s.keys[i].Public(), edits...)
}

// resign changes members of one certificate and signs it again.
func (s *swept) resign(i int, edits map[int][]byte) {
	s.chain[i] = sign(s.t, s.chain[i], s.issuer(i).Key, edits, crypto.SHA256)
}

// chainFault breaks the certificate at an index, and returns the rule and the place that have
// to be told, or no rule where it breaks none.
type chainFault struct {
	name  string
	apply func(s *swept, i int) (pkcs10.Rule, int)
}

func reissued(rule pkcs10.Rule, edits ...edit) func(*swept, int) (pkcs10.Rule, int) {
	return func(s *swept, i int) (pkcs10.Rule, int) {
		s.reissue(i, edits...)
		return rule, i + 1
	}
}

// rekeyed gives the certificate a key of which the private half is of no use.
func rekeyed(rule pkcs10.Rule, key func(t testing.TB) []byte) func(*swept, int) (pkcs10.Rule, int) {
	return func(s *swept, i int) (pkcs10.Rule, int) {
		s.resign(i, map[int][]byte{itsKey: key(s.t)})
		return rule, i + 1
	}
}

func rsaKeyOf(bits, exponent int) func(t testing.TB) []byte {
	return func(t testing.TB) []byte {
		t.Helper()
		der, err := x509.MarshalPKIXPublicKey(rsaPublic(t, bits, exponent))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
}

func chainFaults() []chainFault {
	isRoot := func(s *swept, i int) bool { return i+1 == len(s.chain) }
	return []chainFault{
		{"expired", reissued(pkcs10.Expired, valid(-48*time.Hour, -time.Hour))},
		{"not yet valid", reissued(pkcs10.NotYetValid, valid(time.Hour, 48*time.Hour))},
		{"critical extension", reissued(pkcs10.CriticalExtension, critical(1, 2, 3))},
		{"SHA-1", func(s *swept, i int) (pkcs10.Rule, int) {
			s.reissue(i, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
			if isRoot(s, i) {
				return "", 0
			}
			return pkcs10.WeakSignature, i + 1
		}},
		{"signature damaged", func(s *swept, i int) (pkcs10.Rule, int) {
			raw := slices.Clone(s.chain[i].Raw)
			raw[len(raw)-1] ^= 1
			s.chain[i] = parse(s.t, raw)
			return pkcs10.BadSignature, i + 1
		}},
		{"serial number changed", func(s *swept, i int) (pkcs10.Rule, int) {
			s.chain[i] = parse(s.t, rebuild(s.t, s.chain[i], map[int][]byte{itsSerial: {2, 1, 7}}))
			return pkcs10.BadSignature, i + 1
		}},
		{"signature algorithm unknown", func(s *swept, i int) (pkcs10.Rule, int) {
			s.resign(i, map[int][]byte{itsAlgorithm: algorithm(s.t, 1, 2, 3)})
			return pkcs10.UnsupportedSignature, i + 1
		}},
		{"key of RSA-1024", rekeyed(pkcs10.KeyTooSmall, rsaKeyOf(1024, 65537))},
		{"key of RSA-9000", rekeyed(pkcs10.KeyTooLarge, rsaKeyOf(9000, 65537))},
		{"key with exponent 1", rekeyed(pkcs10.KeyExponent, rsaKeyOf(2048, 1))},
		{"key of P-224", rekeyed(pkcs10.KeyTooSmall, func(t testing.TB) []byte {
			t.Helper()
			key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			return der
		})},
		{"key of Ed448", rekeyed(pkcs10.UnsupportedKey, func(t testing.TB) []byte { return tlv(0x30, algorithm(t, 1, 3, 101, 113), tlv(3, make([]byte, 58))) })},
		{"cA the other way", func(s *swept, i int) (pkcs10.Rule, int) {
			if i == 0 {
				s.reissue(0, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
				return pkcs10.LeafIsCA, 1
			}
			s.reissue(i, func(c *x509.Certificate) { c.IsCA = false })
			return pkcs10.NotACA, i + 1
		}},
		{"key usage", func(s *swept, i int) (pkcs10.Rule, int) {
			s.reissue(i, usage(x509.KeyUsageCRLSign))
			if i == 0 {
				return pkcs10.KeyUsage, 1
			}
			return pkcs10.IssuerUsage, i + 1
		}},
		{"path length 0", func(s *swept, i int) (pkcs10.Rule, int) {
			if i < 2 {
				return "", 0
			}
			s.reissue(i, func(c *x509.Certificate) { c.MaxPathLenZero = true })
			return pkcs10.PathLength, i + 1
		}},
		{"another issuer", func(s *swept, i int) (pkcs10.Rule, int) {
			s.resign(i, map[int][]byte{itsIssuer: nameOf(s.t, 0x0c, "other")})
			if isRoot(s, i) {
				return "", 0
			}
			return pkcs10.BrokenChain, i + 1
		}},
		{"another subject", func(s *swept, i int) (pkcs10.Rule, int) {
			s.resign(i, map[int][]byte{itsSubject: nameOf(s.t, 0x0c, "other")})
			if i == 0 {
				return "", 0
			}
			return pkcs10.BrokenChain, i
		}},
		{"issuer in another string type", func(s *swept, i int) (pkcs10.Rule, int) {
			s.resign(i, map[int][]byte{itsIssuer: nameOf(s.t, 0x0c, s.chain[i].Issuer.CommonName)})
			if isRoot(s, i) {
				return "", 0
			}
			return pkcs10.NameEncoding, i + 1
		}},
		{"another key", func(s *swept, i int) (pkcs10.Rule, int) {
			s.keys[i] = kit.NewKey(s.t)
			s.reissue(i)
			if i == 0 {
				return "", 0
			}
			return pkcs10.BadSignature, i
		}},
		{"changed places with the next", func(s *swept, i int) (pkcs10.Rule, int) {
			if isRoot(s, i) {
				return "", 0
			}
			s.chain[i], s.chain[i+1] = s.chain[i+1], s.chain[i]
			return pkcs10.WrongOrder, 0
		}},
		{"a stranger follows", func(s *swept, i int) (pkcs10.Rule, int) {
			s.chain = slices.Insert(s.chain, i+1, kit.NewCA(s.t, "stranger", noon()).Cert)
			return pkcs10.Surplus, i + 2
		}},
		{"the next is missing", func(s *swept, i int) (pkcs10.Rule, int) {
			if i+2 >= len(s.chain) {
				return "", 0
			}
			s.chain = slices.Delete(s.chain, i+1, i+2)
			return pkcs10.BrokenChain, i + 1
		}},
	}
}

// Each certificate of chains of two to six is broken in each way in turn. The reason that
// is told, and the only one, is the one that was broken.
func TestSweepOfBrokenChains(t *testing.T) {
	t.Parallel()
	broken := 0
	for n := 2; n <= 6; n++ {
		for _, f := range chainFaults() {
			for i := range n {
				s := newSwept(t, n)
				rule, place := f.apply(s, i)
				_, vs := pkcs10.Accept(pemOf(s.chain...), pkcs10.Criteria{Now: noon(), Use: pkcs10.Signing})
				if rule == "" && len(vs) > 0 || rule != "" && (len(vs) != 1 || vs[0].Rule != rule || vs[0].Place != place) {
					t.Errorf("%s at certificate %d of %d: %q, want %s at %d", f.name, i+1, n, sentences(vs), rule, place)
				}
				kit.CheckSentences(t, vs)
				if rule != "" {
					broken++
				}
			}
		}
	}
	kit.Count(t, "broken chains judged", broken)
}

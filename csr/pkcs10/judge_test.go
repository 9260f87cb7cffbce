package pkcs10_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

type edit = func(*x509.Certificate)

// sign changes members of the TBSCertificate, and signs again: with SHA-256, or with the
// MD5 of the 1990s where the key is RSA and md5 is asked for.
func sign(t testing.TB, c *x509.Certificate, key crypto.Signer, edits map[int][]byte, hash crypto.Hash) *x509.Certificate {
	t.Helper()
	outer := members(t, rebuild(t, c, edits))
	var digest []byte
	if hash == crypto.MD5 {
		sum := md5.Sum(outer[0])
		digest = sum[:]
	} else {
		sum := sha256.Sum256(outer[0])
		digest = sum[:]
	}
	signature, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, tlv(0x30, outer[0], outer[1], tlv(0x03, []byte{0}, signature)))
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rsaKey is one RSA key of 2048 bits for all tests.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// rsaPublic is a public key of a size that nobody made: its modulus is a random number.
func rsaPublic(t testing.TB, bits, exponent int) *rsa.PublicKey {
	t.Helper()
	modulus, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: modulus.SetBit(modulus.SetBit(modulus, bits-1, 1), 0, 1), E: exponent}
}

// algorithm encodes an AlgorithmIdentifier.
func algorithm(t testing.TB, arcs ...int) []byte { return tlv(0x30, oid(t, arcs...)) }

func critical(arcs ...int) edit {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: arcs, Critical: true, Value: []byte{5, 0}})
	}
}

// wanted is a chain and what is said of it, without "certificate" in front.
type wanted struct {
	name  string
	use   pkcs10.Use
	chain []*x509.Certificate
	want  []string
}

func sentences(vs pkcs10.Violations) (all []string) {
	for _, v := range vs {
		all = append(all, strings.TrimPrefix(v.Describe("certificate"), "certificate "))
	}
	return all
}

func checkWanted(t *testing.T, cases []wanted) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, broken := pkcs10.Accept(pemOf(c.chain...), pkcs10.Criteria{Now: noon(), Use: c.use})
			if got := sentences(broken); !slices.Equal(got, c.want) {
				t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			kit.CheckSentences(t, broken)
		})
	}
}

func certificates(all ...*x509.Certificate) []*x509.Certificate { return all }

const (
	askSHA256   = ": ask the CA to sign with SHA-256"
	signedWith  = " is signed with the algorithm "
	keyOf       = " has a key of the algorithm "
	unsupported = ", which is not supported: use a CA that signs with RSA, ECDSA or Ed25519"
	useKeys     = ", which is not supported: use RSA, ECDSA (P-256, P-384, P-521) or Ed25519"
)

// Every certificate is held to the floors, whatever is sent with it.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	old := &kit.CA{Key: rsaKey(), Now: noon()}
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }
	sha1RSA := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }
	key := testKey().Public()
	issued := func(ca *kit.CA, edits ...edit) *x509.Certificate { return ca.Issue(t, "leaf", key, edits...) }
	issuer := func(public any, edits ...edit) *x509.Certificate {
		return root.Issue(t, "ca", public, append([]edit{asCA}, edits...)...)
	}
	by := func(ca *x509.Certificate) *x509.Certificate { // signed with another key: no check gets so far
		named := *ca
		named.PublicKey = nil
		return (&kit.CA{Cert: &named, Key: root.Key, Now: noon()}).Issue(t, "leaf", key)
	}
	with := func(ca *x509.Certificate) []*x509.Certificate { return certificates(by(ca), ca) }

	middle := root.NewCA(t, "middle", sha1)
	oldRoot := old.Issue(t, "old root", rsaKey().Public(), asCA, sha1RSA)
	md5Root := sign(t, old.Issue(t, "old root", rsaKey().Public(), asCA), rsaKey(), map[int][]byte{itsAlgorithm: tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 1, 4), []byte{5, 0})}, crypto.MD5)
	oldCA := &kit.CA{Cert: oldRoot, Key: rsaKey(), Now: noon()}
	selfIssued := oldCA.Issue(t, "old root", testKey().Public(), asCA, sha1RSA) // the name of its issuer, and another key
	broken := parse(t, append(slices.Clone(oldRoot.Raw[:len(oldRoot.Raw)-1]), oldRoot.Raw[len(oldRoot.Raw)-1]^1))
	ed448 := parse(t, rebuild(t, root.Cert, map[int][]byte{itsAlgorithm: algorithm(t, 1, 3, 101, 113), itsKey: tlv(0x30, algorithm(t, 1, 3, 101, 113), tlv(3, make([]byte, 58)))}))
	leaf448 := parse(t, rebuild(t, by(root.Cert), map[int][]byte{itsAlgorithm: algorithm(t, 1, 3, 101, 113)}))
	foreign := parse(t, rebuild(t, by(root.Cert), map[int][]byte{itsAlgorithm: algorithm(t, 1, 2, 3, 4)}))
	pssKey := parse(t, rebuild(t, root.Cert, map[int][]byte{itsKey: tlv(0x30, algorithm(t, 1, 2, 840, 113549, 1, 1, 10), tlv(3, make([]byte, 200)))}))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edRoot := (&kit.CA{Key: edKey, Now: noon()}).Issue(t, "ed", edKey.Public(), asCA)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const oldLeaf = `1 "CN=leaf" must not be signed with ECDSA-SHA1` + askSHA256
	checkWanted(t, []wanted{
		{"SHA-1", 0, certificates(issued(root, sha1), root.Cert), []string{oldLeaf}},
		{"SHA-1, alone", 0, certificates(issued(root, sha1)), []string{oldLeaf}},
		{"SHA-1 in the middle, root left out", 0, certificates(middle.Issue(t, "leaf", key), middle.Cert), []string{`2 "CN=middle" must not be signed with ECDSA-SHA1` + askSHA256}},
		{"root that signs itself with SHA-1", 0, certificates(issued(oldCA), oldRoot), nil},
		{"root that signs itself with MD5", 0, certificates(issued(oldCA), md5Root), nil},
		{"self-signed with SHA-1, alone", 0, certificates((&kit.CA{Key: testKey(), Now: noon()}).Issue(t, "self", key, sha1)), nil},
		{"the name of a self-signed one does not do", 0, certificates(selfIssued),
			[]string{`1 "CN=old root" must not be signed with SHA1-RSA` + askSHA256, `1 "CN=old root" is the certificate of a CA (cA TRUE), where that of a host is wanted: ask the CA to issue it with another template`}},
		{"root with SHA-1 that is damaged", 0, certificates(issued(oldCA), broken), []string{`2 "CN=old root" must not be signed with SHA1-RSA` + askSHA256}},
		{"RSA-1024 leaf", 0, certificates(root.Issue(t, "leaf", rsaPublic(t, 1024, 65537))), []string{`1 "CN=leaf" must have a key of at least 2048 bits`}},
		{"RSA-2047 issuer", 0, with(issuer(rsaPublic(t, 2047, 65537))), []string{`2 "CN=ca" must have a key of at least 2048 bits`}},
		{"RSA-8193 issuer", 0, with(issuer(rsaPublic(t, 8193, 65537))), []string{`2 "CN=ca" must not have a key of more than 8192 bits`}},
		{"RSA exponent 1", 0, with(issuer(rsaPublic(t, 2048, 1))), []string{`2 "CN=ca" must have an odd RSA exponent from 3 to 65537`}},
		{"RSA exponent even", 0, with(issuer(rsaPublic(t, 2048, 4))), []string{`2 "CN=ca" must have an odd RSA exponent from 3 to 65537`}},
		{"RSA exponent large", 0, with(issuer(rsaPublic(t, 2048, 65539))), []string{`2 "CN=ca" must have an odd RSA exponent from 3 to 65537`}},
		{"P-224 issuer", 0, with(issuer(p224.Public())), []string{`2 "CN=ca" must have a key of at least 256 bits`}},
		{"Ed25519 issuer", 0, certificates((&kit.CA{Cert: edRoot, Key: edKey, Now: noon()}).Issue(t, "leaf", key), edRoot), nil},
		{"RSASSA-PSS", 0, certificates(issued(oldCA, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSAPSS }), oldRoot), nil},
		{"Ed448", 0, certificates(leaf448, ed448), []string{`1 "CN=leaf"` + signedWith + `Ed448` + unsupported, `2 "CN=root"` + keyOf + `Ed448` + useKeys}},
		{"Ed448, alone", 0, certificates(leaf448), []string{`1 "CN=leaf"` + signedWith + `Ed448` + unsupported}},
		{"an algorithm without a name", 0, certificates(foreign), []string{`1 "CN=leaf"` + signedWith + `1.2.3.4` + unsupported}},
		{"a key for RSASSA-PSS alone", 0, certificates(by(root.Cert), pssKey), []string{`2 "CN=root"` + keyOf + `RSA-PSS` + useKeys}},
	})
}

// Each certificate is issued by the next, and what keeps it from being so is named.
func TestOrder(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	sub := root.NewCA(t, "sub")
	key := testKey().Public()
	leaf := sub.Issue(t, "leaf", key)
	other, proxy := kit.NewCA(t, "other", noon()), kit.NewCA(t, "proxy", noon())
	same := root.NewCA(t, "sub")
	noID := func(c *x509.Certificate) { c.AuthorityKeyId = nil }
	utf8Root := kit.NewCA(t, "", noon(), withSubject(t, rdn(objectID(2, 5, 4, 3), utf8String("Issuer"))))
	printable := kit.CA{Cert: utf8Root.Issue(t, "", utf8Root.Key.Public(), withSubject(t, rdn(objectID(2, 5, 4, 3), "Issuer"))), Key: utf8Root.Key, Now: noon()}
	flat := root.NewCA(t, "flat", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	deep := flat.NewCA(t, "deep")
	mute := root.NewCA(t, "mute", usage(x509.KeyUsageCRLSign))
	v3 := root.Issue(t, "sub", sub.Key.Public(), func(c *x509.Certificate) { c.KeyUsage = 0 })
	damage := func(c *x509.Certificate) *x509.Certificate {
		raw := slices.Clone(c.Raw)
		raw[len(raw)-1] ^= 1
		return parse(t, raw)
	}
	// A CA that has changed its key: the new one in a certificate that the old one signed.
	rollover := root.NewCA(t, "root", func(c *x509.Certificate) { c.AuthorityKeyId = root.Cert.SubjectKeyId })
	const (
		another   = ": it is damaged, or its issuer is another one of the same name"
		signature = " must have a signature that verifies with "
		leaveOut  = " has issued none of the others: leave it out"
		noCA      = " is not the certificate of a CA (basicConstraints with cA TRUE) and cannot be an issuer: send the CA's own certificate, or leave it out"
		order     = "chain is not in order (leaf first, each followed by its issuer): send the certificates in the order "
		follow    = ": send that certificate after it, or leave out all that follow"
	)
	checkWanted(t, []wanted{
		{"leaf, root, sub", 0, certificates(leaf, root.Cert, sub.Cert), []string{order + "1, 3, 2"}},
		{"root first", 0, certificates(root.Cert, sub.Cert, leaf), []string{order + "3, 2, 1"}},
		{"root too many", 0, certificates(leaf, sub.Cert, root.Cert, proxy.Cert), []string{`4 "CN=proxy"` + leaveOut}},
		{"two roots too many", 0, certificates(leaf, sub.Cert, root.Cert, proxy.Cert, other.Cert), []string{`4 "CN=proxy"` + leaveOut, `5 "CN=other"` + leaveOut}},
		{"root too many in the middle", 0, certificates(leaf, proxy.Cert, sub.Cert, root.Cert), []string{`2 "CN=proxy"` + leaveOut}},
		{"root too many at the front", 0, certificates(proxy.Cert, leaf, sub.Cert, root.Cert), []string{`1 "CN=proxy"` + leaveOut}},
		{"too many, and out of order", 0, certificates(leaf, proxy.Cert, root.Cert, sub.Cert), []string{`2 "CN=proxy"` + leaveOut, order + "1, 4, 3"}},
		{"a link is missing", 0, certificates(leaf, root.Cert), []string{`1 "CN=leaf" must be followed by its issuer, "CN=sub"` + follow}},
		{"a link is missing further up", 0, certificates(leaf, sub.Cert, proxy.Cert), []string{`2 "CN=sub" must be followed by its issuer, "CN=root"` + follow}},
		{"another CA of the same name", 0, certificates(leaf, same.Cert), []string{`1 "CN=leaf"` + signature + "the key of certificate 2" + another + ": the key identifiers differ too"}},
		{"the right one beside it", 0, certificates(leaf, same.Cert, sub.Cert, root.Cert), []string{`2 "CN=sub"` + leaveOut}},
		{"leaf is damaged", 0, certificates(damage(leaf), sub.Cert, root.Cert), []string{`1 "CN=leaf"` + signature + "the key of certificate 2" + another}},
		{"root is damaged", 0, certificates(leaf, sub.Cert, damage(root.Cert)), []string{`3 "CN=root" must have a signature that verifies with its own key, since it is self-signed: it is damaged`}},
		{"string types differ", 0, certificates((&printable).Issue(t, "leaf", key, noID), utf8Root.Cert), []string{
			`1 "CN=leaf" has the name of its issuer in other string types than certificate 2 has it, and both must be the same bytes: ask the CA to issue it again, or leave out what follows`}},
		{"issuer without basicConstraints", 0, certificates(leaf, v3), []string{`2 "CN=sub"` + noCA}},
		{"issuer may not sign certificates", 0, certificates(mute.Issue(t, "leaf", key), mute.Cert),
			[]string{`2 "CN=mute" must have keyCertSign among its key usages, as every issuer: send the CA's own certificate, or leave it out`}},
		{"path length", 0, certificates(deep.Issue(t, "leaf", key), deep.Cert, flat.Cert, root.Cert),
			[]string{`3 "CN=flat" allows at most 0 CA certificates between itself and the leaf (path length), and there are more`}},
		{"path length for the leaf alone", 0, certificates(flat.Issue(t, "leaf", key), flat.Cert), nil},
		{"path length for a CA as leaf", pkcs10.Authority, certificates(deep.Cert, flat.Cert), nil},
		{"the CA has changed its key", 0, certificates(rollover.Issue(t, "leaf", key), rollover.Cert, root.Cert), nil},
		{"the CA has changed its key, root left out", 0, certificates(rollover.Issue(t, "leaf", key), rollover.Cert), nil},
	})
}

// The leaf is for what it is asked for.
func TestUse(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	key := testKey().Public()
	leaf := func(edits ...edit) []*x509.Certificate {
		return certificates(root.Issue(t, "leaf", key, edits...), root.Cert)
	}
	emptyUsage := func(c *x509.Certificate) {
		c.KeyUsage = 0
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 1, 0}}}
	}
	notCA := func(c *x509.Certificate) { c.BasicConstraintsValid = true }
	clientAuth := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	version1 := sign(t, root.Issue(t, "leaf", key), root.Key, nil, crypto.SHA256)
	strange := root.NewCA(t, "strange", critical(1, 2, 3, 4), critical(1, 2, 3, 5))
	const (
		host    = `1 "CN=leaf" is the certificate of a CA (cA TRUE), where that of a host is wanted: ask the CA to issue it with another template`
		ca      = `1 "CN=leaf" must be the certificate of a CA (basicConstraints with cA TRUE), as its CSR asks: ask the CA to issue it with another template`
		without = ": ask the CA for a certificate without it"
	)
	checkWanted(t, []wanted{
		{"a CA's for a host", pkcs10.Signing, leaf(asCA), []string{host}},
		{"a CA's for another end entity", pkcs10.EndEntity, leaf(asCA), []string{host}},
		{"a host's for a CA", pkcs10.Authority, leaf(), []string{ca}},
		{"cA FALSE for a CA", pkcs10.Authority, leaf(notCA), []string{ca}},
		{"a CA's", pkcs10.Authority, leaf(asCA), nil},
		{"a CA's without key usages", pkcs10.Authority, leaf(asCA, usage(0)), nil},
		{"a CA's that may not sign certificates", pkcs10.Authority, leaf(asCA, usage(x509.KeyUsageCRLSign)), []string{`1 "CN=leaf" must have keyCertSign among its key usages`}},
		{"a CA's with empty key usages", pkcs10.Authority, leaf(asCA, emptyUsage), []string{`1 "CN=leaf" must have keyCertSign among its key usages`}},
		{"cA FALSE", pkcs10.Signing, leaf(notCA), nil},
		{"no key usages", pkcs10.Signing, leaf(usage(0)), nil},
		{"empty key usages", pkcs10.Signing, leaf(emptyUsage), []string{`1 "CN=leaf" must have digitalSignature among its key usages`}},
		{"another key usage", pkcs10.Signing, leaf(usage(x509.KeyUsageKeyAgreement)), []string{`1 "CN=leaf" must have digitalSignature among its key usages`}},
		{"another key usage of another end entity", pkcs10.EndEntity, leaf(usage(x509.KeyUsageKeyAgreement)), nil},
		{"extended key usages are not judged", pkcs10.Signing, leaf(clientAuth), nil},
		{"version 1", pkcs10.Signing, certificates(version1, root.Cert), nil},
		{"unknown critical extension", pkcs10.Signing, leaf(critical(1, 2, 3)), []string{`1 "CN=leaf" has a critical extension that is not understood here, 1.2.3` + without}},
		{"unknown critical extensions of a CA", pkcs10.Signing, certificates(strange.Issue(t, "leaf", key), strange.Cert),
			[]string{`2 "CN=strange" has a critical extension that is not understood here, 1.2.3.4, 1.2.3.5` + without}},
	})
}

func TestValidity(t *testing.T) {
	t.Parallel()
	old := kit.NewCA(t, "old", noon(), valid(-48*time.Hour, -time.Second))
	future := old.Issue(t, "leaf", testKey().Public(), valid(time.Hour, 2*time.Hour))
	const clock = ": the clock here says 2026-06-01T12:00:00Z"
	checkWanted(t, []wanted{{"both", 0, certificates(future, old.Cert), []string{
		`1 "CN=leaf" is not valid before 2026-06-01T13:00:00Z: wait until then, or set the clock that is wrong` + clock,
		`2 "CN=old" expired at 2026-06-01T11:59:59Z: ask the CA for a new one` + clock,
	}}})
}

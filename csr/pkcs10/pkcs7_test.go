package pkcs10_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// certsOnly is PKCS#7 with certificates and no signer, as openssl crl2pkcs7 makes it.
func certsOnly(t testing.TB, certificates ...*x509.Certificate) []byte {
	t.Helper()
	var content [][]byte
	for _, c := range certificates {
		content = append(content, c.Raw)
	}
	return signedData(t, tlv(0xa0, content...), tlv(0x31))
}

// signedData is a SignedData (RFC 2315 section 9.1) in a ContentInfo.
func signedData(t testing.TB, certificates, rest []byte) []byte {
	t.Helper()
	return contentInfo(t, 2, tlv(0x30, []byte{2, 1, 1}, tlv(0x31), tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 7, 1)), certificates, rest))
}

func contentInfo(t testing.TB, contentType int, content []byte) []byte {
	t.Helper()
	return tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 7, contentType), tlv(0xa0, content))
}

// keyID gives a certificate the key identifiers that CAs write.
func keyID(own, issuer string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.SubjectKeyId, c.AuthorityKeyId = []byte(own), []byte(issuer) }
}

func TestReadPKCS7(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	leaf, middle, root := g.leaf, g.middle.Cert, g.root.Cert
	all := kit.PEM(leaf, middle, root)
	// Two keys of one CA's name: the key identifiers tell which one issued the leaf.
	old, renewed := g.root.NewCA(t, "issuing", keyID("old", "")), g.root.NewCA(t, "issuing", keyID("new", ""))
	byKey := renewed.Issue(t, "leaf", testKey().Public())
	for _, c := range []struct {
		name string
		text string
		der  bool
		want string
	}{
		{"one", inBlock("PKCS7", certsOnly(t, leaf)), false, g.one},
		{"leaf first", inBlock("PKCS7", certsOnly(t, leaf, middle, root)), false, all},
		{"root first", inBlock("PKCS7", certsOnly(t, root, middle, leaf)), false, all},
		{"mixed, and twice", inBlock("PKCS7", certsOnly(t, middle, root, middle, leaf, leaf)), false, all},
		{"without the root", inBlock("PKCS7", certsOnly(t, middle, leaf)), false, g.chain},
		{"as AD CS labels it", inBlock("CERTIFICATE", certsOnly(t, root, leaf, middle)), false, all},
		{"as old tools label it", inBlock("PKCS #7 SIGNED DATA", certsOnly(t, root, leaf, middle)), false, all},
		{"as RFC 7468 labels it", inBlock("CMS", certsOnly(t, root, leaf, middle)), false, all},
		{"with a revocation list", inBlock("PKCS7", signedData(t, tlv(0xa0, middle.Raw, leaf.Raw), slices.Concat(tlv(0xa1, tlv(0x30)), tlv(0x31)))), false, g.chain},
		{"from Windows", "\ufeff" + strings.ReplaceAll(inBlock("PKCS7", certsOnly(t, middle, leaf)), "\n", "\r\n"), false, g.chain},
		{"DER", string(certsOnly(t, middle, leaf)), true, g.chain},
		{"DER of one certificate", string(leaf.Raw), true, g.one},
		{"PEM where DER is taken", g.chain, true, g.chain},
		{"PKCS#7 in PEM where DER is taken", inBlock("PKCS7", certsOnly(t, middle, leaf)), true, g.chain},
		{"a CA with a new key", inBlock("PKCS7", certsOnly(t, renewed.Cert, byKey)), false, kit.PEM(byKey, renewed.Cert)},
	} {
		chain, broken := pkcs10.ReadChain([]byte(c.text), c.der)
		if broken != nil || chain.PEM() != c.want {
			t.Errorf("%s: %+v", c.name, []pkcs10.Violation(broken))
		}
	}
	_, broken := pkcs10.ReadChain(certsOnly(t, renewed.Cert, old.Cert, byKey), true)
	checkFaults(t, broken, []fault{{rule: pkcs10.PKCS7Order, words: `"CN=issuing" and "CN=leaf" issued none of the others`}})
}

// pkcs7Cases are texts of PKCS#7 that are refused.
func pkcs7Cases(t testing.TB, g given) []textCase {
	t.Helper()
	whole := func(rule pkcs10.Rule, words string) []fault { return []fault{{rule: rule, words: words}} }
	in := func(der []byte) string { return inBlock("PKCS7", der) }
	leaf, middle, root := g.leaf, g.middle.Cert, g.root.Cert
	none, good := tlv(0x31), certsOnly(t, leaf, middle)
	negative := rebuild(t, middle, map[int][]byte{itsSerial: {2, 1, 0x9d}})
	twin := (&kit.CA{Cert: root, Key: g.root.Key, Now: noon()}).Issue(t, "middle", g.middle.Key.Public(), asCA)
	a, b := g.root.NewCA(t, "a"), g.root.NewCA(t, "b")
	circle := []*x509.Certificate{a.Issue(t, "b", b.Key.Public(), asCA), b.Issue(t, "a", a.Key.Public(), asCA)}
	indefinite := func(tag byte, content ...[]byte) []byte {
		return slices.Concat([]byte{tag, 0x80}, slices.Concat(content...), []byte{0, 0})
	}
	return []textCase{
		{"signed", in(signedData(t, tlv(0xa0, leaf.Raw), tlv(0x31, tlv(0x30, []byte{2, 1, 1})))), whole(pkcs10.SignedPKCS7, "certs-only")},
		{"signed without certificates", in(signedData(t, nil, tlv(0x31, tlv(0x30)))), whole(pkcs10.SignedPKCS7, "certs-only")},
		{"no certificate", in(signedData(t, nil, none)), whole(pkcs10.EmptyPKCS7, "without a certificate")},
		{"no certificate in the set", in(signedData(t, tlv(0xa0), none)), whole(pkcs10.EmptyPKCS7, "without a certificate")},
		{"a revocation list alone", in(signedData(t, tlv(0xa1, tlv(0x30)), none)), whole(pkcs10.EmptyPKCS7, "without a certificate")},
		{"data", in(contentInfo(t, 1, tlv(0x04))), whole(pkcs10.PKCS7Content, "with data: ")},
		{"enveloped", in(contentInfo(t, 3, tlv(0x30))), whole(pkcs10.PKCS7Content, "with enveloped data: ")},
		{"encrypted", in(contentInfo(t, 6, tlv(0x30))), whole(pkcs10.PKCS7Content, "with encrypted data: ")},
		{"another content", in(contentInfo(t, 99, tlv(0x30))), whole(pkcs10.PKCS7Content, "with content of the type 1.2.840.113549.1.7.99: ")},
		{"a certificate in the wrong label", in(leaf.Raw), whole(pkcs10.BrokenPKCS7, "it holds no content type")},
		{"nothing in it", in(nil), []fault{{rule: pkcs10.EmptyBlock, place: 1}}},
		{"cut off", in(good[:len(good)-100]), []fault{{rule: pkcs10.CutOff, place: 1, words: "bytes, and "}}},
		{"a byte too many", in(append(bytes.Clone(good), 0)), []fault{{rule: pkcs10.TrailingBytes, place: 1, words: "1 bytes"}}},
		{"no content", in(tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 7, 2))), whole(pkcs10.BrokenPKCS7, "export it again")},
		{"no signers", in(signedData(t, tlv(0xa0, leaf.Raw), nil)), whole(pkcs10.BrokenPKCS7, "export it again")},
		{"more behind the signers", in(signedData(t, tlv(0xa0, leaf.Raw), slices.Concat(none, none))), whole(pkcs10.BrokenPKCS7, "export it again")},
		{"a broken content type", in(tlv(0x30, []byte{6, 0})), whole(pkcs10.BrokenPKCS7, "export it again")},
		{"an attribute certificate", in(signedData(t, tlv(0xa0, tlv(0xa1, leaf.Raw)), none)), whole(pkcs10.BrokenPKCS7, "something else than X.509 certificates")},
		{"half a certificate", in(signedData(t, tlv(0xa0, leaf.Raw[:100]), none)), whole(pkcs10.BrokenPKCS7, "something else than X.509 certificates")},
		{"one that is refused", in(signedData(t, tlv(0xa0, leaf.Raw, negative), none)), []fault{{pkcs10.Malformed, 2, "CN=middle", "negative serial"}}},
		{"indefinite length", in(indefinite(0x30, oid(t, 1, 2, 840, 113549, 1, 7, 2), tlv(0xa0))), []fault{{rule: pkcs10.BER, place: 1, words: "openssl pkcs7"}}},
		{"indefinite length of the content", in(tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 7, 2), indefinite(0xa0, tlv(0x30)))), whole(pkcs10.BER, "openssl pkcs7")},
		{"indefinite length of the certificates", in(signedData(t, indefinite(0xa0, leaf.Raw), none)), whole(pkcs10.BER, "openssl pkcs7")},
		{"PKCS#7 beside a certificate", g.one + in(certsOnly(t, middle)), whole(pkcs10.PKCS7Beside, "alone")},
		{"PKCS#7 twice", in(good) + in(good), whole(pkcs10.PKCS7Beside, "alone")},
		{"PKCS#7 beside a private key", in(good) + block("PRIVATE KEY", secret), []fault{{rule: pkcs10.PrivateKey}}},
		{"two leaves", in(certsOnly(t, leaf, g.other, middle)), whole(pkcs10.PKCS7Order, `"CN=leaf" and "CN=other" issued none of the others`)},
		{"a root too many", in(certsOnly(t, leaf, middle, kit.NewCA(t, "proxy", noon()).Cert)), whole(pkcs10.PKCS7Order, `"CN=leaf" and "CN=proxy" issued none of the others`)},
		{"two issuers", in(certsOnly(t, leaf, middle, twin)), whole(pkcs10.PKCS7Order, `"CN=middle" and "CN=middle" both issued certificate 1`)},
		{"a circle", in(certsOnly(t, circle...)), whole(pkcs10.PKCS7Order, "each of them issued another one")},
		{"a leaf and a circle", in(certsOnly(t, append(circle, a.Issue(t, "leaf", testKey().Public()))...)), whole(pkcs10.PKCS7Order, "some issued each other")},
		{"eleven", in(certsOnly(t, longChain(t, g.root, testKey().Public())[:11]...)), []fault{{rule: pkcs10.TooMany}}},
	}
}

func TestPKCS7IsRefusedByName(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	for _, c := range pkcs7Cases(t, g) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, broken := pkcs10.ReadChain([]byte(c.text), false)
			checkFaults(t, broken, c.want)
		})
	}
	// DER says the same things.
	_, broken := pkcs10.ReadChain(signedData(t, tlv(0xa0, g.leaf.Raw), tlv(0x31, tlv(0x30))), true)
	checkFaults(t, broken, []fault{{rule: pkcs10.SignedPKCS7}})
	_, broken = pkcs10.ReadChain(g.leaf.Raw[:300], true)
	checkFaults(t, broken, []fault{{pkcs10.CutOff, 1, "CN=leaf", "and 300 are there"}})
}

// Nesting, which makes readers of BER slow, costs nothing here.
func TestPKCS7Effort(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	deep := tlv(0x30)
	for len(deep) < 1<<16 {
		deep = tlv(0x30, deep)
	}
	many := bytes.Repeat(g.leaf.Raw, 1<<20/len(g.leaf.Raw))
	var few [][]byte
	for serial := range byte(200) {
		few = append(few, rebuild(t, g.leaf, map[int][]byte{itsSerial: {2, 1, serial & 0x7f}, itsSubject: nameOf(t, 0x0c, strings.Repeat("x", 1000+int(serial)))}))
	}
	for name, der := range map[string][]byte{
		"deep": contentInfo(t, 2, deep), "deep certificates": signedData(t, tlv(0xa0, deep), tlv(0x31)), "indefinite": bytes.Repeat([]byte{0x30, 0x80}, 1<<19),
		"one certificate often": signedData(t, tlv(0xa0, many), tlv(0x31)), "many": signedData(t, tlv(0xa0, few...), tlv(0x31)),
	} {
		start := time.Now()
		_, _ = pkcs10.ReadChain(der, true)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func FuzzPKCS7(f *testing.F) {
	g := newGiven(f)
	for _, der := range [][]byte{certsOnly(f, g.leaf), certsOnly(f, g.root.Cert, g.leaf, g.middle.Cert), g.leaf.Raw} {
		f.Add(der)
	}
	for _, c := range pkcs7Cases(f, g) {
		if b, _ := pem.Decode([]byte(c.text)); b != nil {
			f.Add(b.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		checkRead(t, der, true)
		checkRead(t, []byte(inBlock("PKCS7", der)), false)
	})
}

package pkcs10_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"reflect"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// factsFixture is a leaf with every kind of name, by a CA with an Ed25519 key.
func factsFixture(t *testing.T) *x509.Certificate {
	t.Helper()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &kit.CA{Key: edwards, Now: noon()}
	root.Cert = root.Issue(t, "Edwards CA", edwards.Public(), asCA)
	return root.Issue(t, "leaf", testKey().Public(), func(c *x509.Certificate) {
		c.SerialNumber = big.NewInt(0xab12)
		c.Subject = pkix.Name{CommonName: "esx-09", Organization: []string{"Example, Ltd"}}
		c.DNSNames, c.EmailAddresses = []string{"esx-09.example.com"}, []string{"ops@example.com"}
	})
}

func TestFacts(t *testing.T) {
	t.Parallel()
	leaf := factsFixture(t)
	got := pkcs10.FactsOf(leaf)
	want := pkcs10.Facts{
		Subject: `CN=esx-09,O=Example\, Ltd`, SubjectCN: "esx-09", Issuer: "CN=Edwards CA", IssuerCN: "Edwards CA",
		Serial: "43794", Version: 3, NotBefore: noon().AddDate(-1, 0, 0), NotAfter: noon().AddDate(1, 0, 0),
		KeyAlgorithm: "ECDSA", KeyBits: 256, Curve: "P-256", PublicKey: leaf.RawSubjectPublicKeyInfo,
		SignatureAlgorithm: "Ed25519", Signature: leaf.Signature, Names: []string{"esx-09.example.com", "ops@example.com"},
		SHA256: digest(leaf.Raw),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
	stored, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var again pkcs10.Facts
	if err := json.Unmarshal(stored, &again); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("%v: %+v after a round trip", err, again)
	}
	key, err := got.Key()
	if err != nil || !kit.SameKey(key, testKey().Public()) {
		t.Errorf("key %v, %v", key, err)
	}
	if sum, err := pkcs10.KeyDigest(key); err != nil || sum != digest(leaf.RawSubjectPublicKeyInfo) {
		t.Errorf("digest %s, %v", sum, err)
	}
	if _, err := pkcs10.KeyDigest(nil); err == nil {
		t.Error("nothing has a digest")
	}
}

// Every key and every signature has a name, also where crypto/x509 knows none.
func TestFactsOfAlgorithms(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := root.Issue(t, "leaf", testKey().Public())
	type answer struct {
		Key       string
		Bits      int
		Signature string
	}
	signed := func(numbers ...int) []byte {
		return rebuild(t, leaf, map[int][]byte{itsAlgorithm: tlv(0x30, oid(t, numbers...))})
	}
	keyed := func(numbers ...int) []byte {
		return rebuild(t, leaf, map[int][]byte{itsKey: tlv(0x30, tlv(0x30, oid(t, numbers...)), tlv(0x03, make([]byte, 58)))})
	}
	for name, c := range map[string]struct {
		der  []byte
		want answer
	}{
		"RSA":           {root.Issue(t, "leaf", modulus.Public()).Raw, answer{"RSA", 2048, "ECDSA-SHA256"}},
		"Ed25519":       {root.Issue(t, "leaf", edwards).Raw, answer{"Ed25519", 256, "ECDSA-SHA256"}},
		"Ed448 issuer":  {signed(1, 3, 101, 113), answer{"ECDSA", 256, "Ed448"}},
		"SHA-3 issuer":  {signed(2, 16, 840, 1, 101, 3, 4, 3, 14), answer{"ECDSA", 256, "SHA3-256-RSA"}},
		"ML-DSA issuer": {signed(2, 16, 840, 1, 101, 3, 4, 3, 18), answer{"ECDSA", 256, "ML-DSA-65"}},
		"other issuer":  {signed(1, 2, 3, 4), answer{"ECDSA", 256, "1.2.3.4"}},
		"Ed448 key":     {keyed(1, 3, 101, 113), answer{"Ed448", 0, "ECDSA-SHA256"}},
		"other key":     {keyed(1, 2, 3, 4), answer{"1.2.3.4", 0, "ECDSA-SHA256"}},
	} {
		parsed, err := x509.ParseCertificate(c.der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := pkcs10.FactsOf(parsed)
		if got := (answer{f.KeyAlgorithm, f.KeyBits, f.SignatureAlgorithm}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// A stored certificate that crypto/x509 does not parse any more says what it can.
func TestFactsOfWhatIsRefused(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	leaf := root.Issue(t, "leaf", testKey().Public())
	negative := rebuild(t, leaf, map[int][]byte{itsSerial: {0x02, 0x01, 0x9d}, itsSubject: nameOf(t, 0x13, "Corp_Issuing CA")})
	short := negative[:len(negative)-1]
	text := kit.PEM(leaf, &x509.Certificate{Raw: negative}, &x509.Certificate{Raw: short}, &x509.Certificate{Raw: []byte("x")})
	got := pkcs10.FactsIn(text)
	if len(got) != 4 || !reflect.DeepEqual(got[0], pkcs10.FactsOf(leaf)) {
		t.Fatalf("%+v", got)
	}
	want := got[0]
	want.Subject, want.SubjectCN, want.Serial, want.SHA256 = "CN=Corp_Issuing CA", "Corp_Issuing CA", "-99", digest(negative)
	want.KeyBits, want.Curve, want.SignatureAlgorithm = 0, "", "1.2.840.10045.4.3.2"
	if !reflect.DeepEqual(got[1], want) {
		t.Errorf("%+v\nwant\n%+v", got[1], want)
	}
	if key, err := got[1].Key(); err != nil || !kit.SameKey(key, testKey().Public()) {
		t.Errorf("key %v, %v", key, err)
	}
	for i, der := range [][]byte{short, []byte("x")} {
		if got[2+i].SHA256 != digest(der) || got[2+i].Subject != "" {
			t.Errorf("%+v", got[2+i])
		}
		if _, err := got[2+i].Key(); err == nil {
			t.Error("there is a key")
		}
	}
}

// Facts cost little time whatever a certificate says, and what it says in excess is left
// out.
func TestFactsEffort(t *testing.T) {
	t.Parallel()
	leaf := kit.NewCA(t, "root", noon()).Issue(t, "leaf", testKey().Public())
	const size = 1 << 20
	attribute := tlv(0x30, oid(t, 2, 5, 4, 3), tlv(0x0c, []byte("x")))
	set := tlv(0x31, attribute)
	for name, edits := range map[string]map[int][]byte{
		"serial number":     {itsSerial: tlv(0x02, []byte{1}, make([]byte, size))},
		"names in a set":    {itsSubject: tlv(0x30, tlv(0x31, bytes.Repeat(attribute, size/len(attribute))))},
		"names in sets":     {itsSubject: tlv(0x30, bytes.Repeat(set, size/len(set)))},
		"object identifier": {itsSubject: tlv(0x30, tlv(0x31, tlv(0x30, tlv(0x06, bytes.Repeat([]byte{1}, size)), tlv(0x0c, []byte("x")))))},
	} {
		start := time.Now()
		facts := pkcs10.FactsIn(kit.PEM(&x509.Certificate{Raw: rebuild(t, leaf, edits)}))
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		if len(facts[0].Serial)+len(facts[0].Subject) > 1000 || !facts[0].NotAfter.Equal(leaf.NotAfter) {
			t.Errorf("%s: %.1000q, not after %s", name, facts[0].Subject, facts[0].NotAfter)
		}
	}
}

// Names of every kind of string can be read, and the last common name is the one.
func TestNames(t *testing.T) {
	t.Parallel()
	common := oid(t, 2, 5, 4, 3)
	for name, c := range map[string]struct {
		der  []byte
		want string
	}{
		"UTF8String":                {nameOf(t, 0x0c, "Müller"), "CN=Müller"},
		"BMPString":                 {nameOf(t, 0x1e, "\x00M\x00\xfc\xd8\x3d\xde\x00"), "CN=Mü😀"},
		"PrintableString of others": {nameOf(t, 0x13, "a_b@c"), "CN=a_b@c"},
		"T61String in Latin-1":      {nameOf(t, 0x14, "M\xfcller"), "CN=M\uFFFDller"},
		"empty":                     {tlv(0x30), ""},
		"cut off":                   {[]byte{0x30, 0x05, 0x31}, ""},
		"two in one, and one": {
			tlv(0x30, tlv(0x31, tlv(0x30, common, tlv(0x0c, []byte("a"))), tlv(0x30, common, tlv(0x0c, []byte("b")))), tlv(0x31, tlv(0x30, oid(t, 2, 5, 4, 10), tlv(0x0c, []byte("x,y"))))),
			`O=x\,y,CN=a+CN=b`,
		},
	} {
		if got := pkcs10.DistinguishedName(c.der); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A description has the subject and the names in the order in which they are encoded, a
// certificate its issuer and serial number too.
func TestDescription(t *testing.T) {
	t.Parallel()
	spec := pkcs10.Spec{
		Subject:  []pkcs10.Attribute{{Type: pkcs10.Organization, Value: "Example, Ltd"}, {Type: pkcs10.CommonName, Value: "esx-09"}, {Type: pkcs10.OrganizationalUnit, Value: "Hosts"}},
		Email:    "ops@example.com",
		AltNames: []pkcs10.AltName{{Value: "https://EXAMPLE.com/a"}, {Value: "2001:db8::1"}, {Value: "esx-09.example.com"}, {Value: "192.0.2.9"}},
	}
	_, template, err := resolve(spec)
	if err != nil {
		t.Fatal(err)
	}
	request, err := template.Sign(testKey())
	if err != nil {
		t.Fatal(err)
	}
	want := pkcs10.Description{
		Subject: `OU=Hosts,CN=esx-09,O=Example\, Ltd`, KeyAlgorithm: "ECDSA", KeyBits: 256,
		Names: []string{"ops@example.com", "https://EXAMPLE.com/a", "2001:db8::1", "esx-09.example.com", "192.0.2.9"},
	}
	if got, err := pkcs10.Describe(request); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, got, want)
	}
	certificate := kit.PEM(kit.NewCA(t, "root", noon()).Cert)
	for _, text := range []string{"", "no PEM", certificate, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"} {
		if d, err := pkcs10.Describe(text); err == nil || !reflect.DeepEqual(d, pkcs10.Description{}) {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
	for text, isRequest := range map[string]bool{request: true, certificate + request: false} {
		block, _ := pem.Decode([]byte(text))
		if sum, is := pkcs10.Digest(text); sum != digest(block.Bytes) || is != isRequest {
			t.Errorf("digest %s, %t", sum, is)
		}
	}
	if sum, is := pkcs10.Digest("no PEM"); sum != "" || is {
		t.Errorf("digest %s, %t of nothing", sum, is)
	}
}

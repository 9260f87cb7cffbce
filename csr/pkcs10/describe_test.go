package pkcs10_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"reflect"
	"strings"
	"testing"

	"crypto/x509"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

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
		Request: true, Subject: `OU=Hosts,CN=esx-09,O=Example\, Ltd`, KeyAlgorithm: "ECDSA", KeyBits: 256,
		Names: []string{"ops@example.com", "https://EXAMPLE.com/a", "2001:db8::1", "esx-09.example.com", "192.0.2.9"},
	}
	wantDescription(t, request, want)

	self, err := template.SelfSign(testKey(), x509.KeyUsageDigitalSignature, noon(), noon().AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	made, err := pkcs10.ParseCertificates(self)
	if err != nil {
		t.Fatal(err)
	}
	want.Request, want.Issuer, want.Serial = false, want.Subject, made[0].SerialNumber.Text(16)
	wantDescription(t, self, want)

	root := kit.NewCA(t, "root", noon())
	leaf := root.Issue(t, "web", testKey().Public(), func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0xab12) })
	wantDescription(t, kit.PEM(leaf, root.Cert), pkcs10.Description{
		Subject: "CN=web", Issuer: "CN=root", Serial: "ab12", KeyAlgorithm: "ECDSA", KeyBits: 256,
	})
	for _, text := range []string{"", "no PEM", kit.PEM(&x509.Certificate{Raw: []byte("x")}), "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"} {
		if d, err := pkcs10.Describe(text); err == nil || (d.Digest != "") != strings.HasPrefix(text, "-----") || d.Subject != "" {
			t.Errorf("%q: %+v, %v", text, d, err)
		}
	}
}

func wantDescription(t *testing.T, text string, want pkcs10.Description) {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	sum := sha256.Sum256(block.Bytes)
	want.Digest = hex.EncodeToString(sum[:])
	if got, err := pkcs10.Describe(text); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, got, want)
	}
}

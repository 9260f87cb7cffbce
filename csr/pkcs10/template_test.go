package pkcs10_test

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// Every attribute of a subject but the country is a UTF8String, in a CSR and in a
// self-signed certificate, whatever its characters.
func TestSubjectStringTypes(t *testing.T) {
	t.Parallel()
	var spec pkcs10.Spec
	for _, f := range []pkcs10.Field{pkcs10.Country, pkcs10.StateOrProvince, pkcs10.Locality, pkcs10.Organization, pkcs10.OrganizationalUnit, pkcs10.CommonName} {
		spec.Subject = append(spec.Subject, pkcs10.Attribute{Type: f, Value: "US"})
	}
	_, template, err := resolve(spec)
	if err != nil {
		t.Fatal(err)
	}
	text, err := template.SelfSign(testKey(), x509.KeyUsageDigitalSignature, noon(), noon())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := kit.ParseChain(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"CSR": build(t, spec).RawSubject, "certificate": chain[0].RawSubject} {
		var sequence []asn1.RawValue
		if _, err := asn1.Unmarshal(der, &sequence); err != nil || len(sequence) != len(spec.Subject) {
			t.Fatalf("%s: %d attributes, error %v", name, len(sequence), err)
		}
		for i, rdn := range sequence {
			var attribute struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			if _, err := asn1.Unmarshal(rdn.Bytes, &attribute); err != nil {
				t.Fatal(err)
			}
			want := asn1.TagUTF8String
			if spec.Subject[i].Type == pkcs10.Country {
				want = asn1.TagPrintableString
			}
			if attribute.Value.Tag != want {
				t.Errorf("%s: %s is of string type %d, want %d", name, spec.Subject[i].Type, attribute.Value.Tag, want)
			}
		}
	}
}

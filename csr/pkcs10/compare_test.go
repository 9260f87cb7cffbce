package pkcs10_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// rdn is one relative distinguished name, of pairs of type and value.
func rdn(pairs ...any) pkix.RelativeDistinguishedNameSET {
	var set pkix.RelativeDistinguishedNameSET
	for i := 0; i < len(pairs); i += 2 {
		set = append(set, pkix.AttributeTypeAndValue{Type: pairs[i].(asn1.ObjectIdentifier), Value: pairs[i+1]})
	}
	return set
}

// utf8String, ia5String and bmpString are values in string types that encoding/asn1 does not choose.
func utf8String(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)}
}

func ia5String(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)}
}

func bmpString(s string) asn1.RawValue {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r>>8), byte(r))
	}
	return asn1.RawValue{Tag: asn1.TagBMPString, Bytes: b}
}

// withSubject gives a certificate the subject of these RDNs.
func withSubject(t testing.TB, rdns ...pkix.RelativeDistinguishedNameSET) func(*x509.Certificate) {
	t.Helper()
	der, err := asn1.Marshal(pkix.RDNSequence(rdns))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) { c.RawSubject = der }
}

func objectID(arcs ...int) asn1.ObjectIdentifier { return arcs }

// askedNames is what every certificate of TestCompare answers.
func askedNames() pkcs10.Spec {
	return pkcs10.Spec{
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "DE"}, {Type: pkcs10.Organization, Value: "Müller"},
			{Type: pkcs10.OrganizationalUnit, Value: "A"}, {Type: pkcs10.OrganizationalUnit, Value: "B"},
			{Type: pkcs10.CommonName, Value: hostname},
		},
		Email:    "Ops@Example.com",
		AltNames: []pkcs10.AltName{{Value: "xn--mller-kva.example"}, {Value: "::ffff:192.0.2.1"}, {Value: "2001:db8:0::1"}, {Value: "spiffe://a/b"}},
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	ca := kit.NewCA(t, "root", noon())
	cn, o, ou, c := objectID(2, 5, 4, 3), objectID(2, 5, 4, 10), objectID(2, 5, 4, 11), objectID(2, 5, 4, 6)
	email := objectID(1, 2, 840, 113549, 1, 9, 1)
	same := []pkix.RelativeDistinguishedNameSET{rdn(c, "DE"), rdn(o, "Müller"), rdn(ou, "A"), rdn(ou, "B"), rdn(cn, hostname)}
	const missing = `subject OU "B" is missing`
	type edit = func(*x509.Certificate)
	for _, test := range []struct {
		name string
		edit edit
		want []string
	}{
		{"the same", func(*x509.Certificate) {}, nil},
		{"another order", withSubject(t, same[4], same[3], same[2], same[1], same[0]), nil},
		{"several attributes in one RDN", withSubject(t, rdn(c, "DE", o, "Müller"), rdn(ou, "A", ou, "B", cn, hostname)), nil},
		{"other string types", withSubject(t, same[0], rdn(o, bmpString("Müller")), rdn(ou, utf8String("A")), same[3], rdn(cn, utf8String(hostname))), nil},
		{"country in lower case", withSubject(t, append([]pkix.RelativeDistinguishedNameSET{rdn(c, "de")}, same[1:]...)...), nil},
		{"another organization", withSubject(t, same[0], rdn(o, "Mueller"), same[2], same[3], same[4]),
			[]string{`subject O is "Mueller", the CSR asked for "Müller"`}},
		{"organization in other case", withSubject(t, same[0], rdn(o, "MÜLLER"), same[2], same[3], same[4]),
			[]string{`subject O is "MÜLLER", the CSR asked for "Müller"`}},
		{"one OU less", withSubject(t, same[0], same[1], same[2], same[4]), []string{missing}},
		{"the same OU twice", withSubject(t, same[0], same[1], same[2], same[2], same[4]), []string{`subject OU is "A", the CSR asked for "B"`}},
		{"one OU more", withSubject(t, append(slices.Clone(same), rdn(ou, "C"))...), []string{`subject OU "C" was not asked for`}},
		{"no common name", withSubject(t, same[:4]...), []string{`subject CN "` + hostname + `" is missing`}},
		{"another host", withSubject(t, append(slices.Clone(same[:4]), rdn(cn, "esx-02.example.com"))...),
			[]string{`subject CN is "esx-02.example.com", the CSR asked for "` + hostname + `"`}},
		{"the common name as U-label", withSubject(t, append(slices.Clone(same[:4]), rdn(cn, "müller.example"))...),
			[]string{`subject CN is "müller.example", the CSR asked for "` + hostname + `"`}},
		{"an e-mail address in the subject", withSubject(t, append(slices.Clone(same), rdn(email, "ops@example.com"))...),
			[]string{`subject emailAddress "ops@example.com" was not asked for`}},
		{"an attribute without a short name", withSubject(t, append(slices.Clone(same), rdn(objectID(1, 2, 3), "x"))...), []string{`subject 1.2.3 "x" was not asked for`}},
		{"characters that would move the line", withSubject(t, append(slices.Clone(same), rdn(ou, "a\n\u202eb"))...), []string{"subject OU \"a\uFFFD\uFFFDb\" was not asked for"}},
		{"no alternative names", func(c *x509.Certificate) {
			c.DNSNames, c.EmailAddresses, c.IPAddresses, c.URIs = nil, nil, nil, nil
		}, []string{"all 5 alternative names are missing"}},
		{"DNS name in other case", func(c *x509.Certificate) { c.DNSNames = []string{"XN--MLLER-KVA.Example"} }, nil},
		{"the common name is repeated as DNS name", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, strings.ToUpper(hostname)) }, nil},
		{"another DNS name more", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "esx-02.example.com") },
			[]string{`alternative name "esx-02.example.com" was not asked for`}},
		{"a wildcard", func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} },
			[]string{`alternative name "xn--mller-kva.example" is missing`, `alternative name "*.example" was not asked for`}},
		{"another address", func(c *x509.Certificate) { c.IPAddresses[0] = net.ParseIP("192.0.2.2") },
			[]string{"alternative name 192.0.2.1 is missing", "alternative name 192.0.2.2 was not asked for"}},
		{"domain of the e-mail address in other case", func(c *x509.Certificate) { c.EmailAddresses = []string{"Ops@EXAMPLE.com"} }, nil},
		{"mailbox in other case", func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@example.com"} },
			[]string{`alternative name "Ops@Example.com" is missing`, `alternative name "ops@example.com" was not asked for`}},
		{"no e-mail address", func(c *x509.Certificate) { c.EmailAddresses = nil }, []string{`alternative name "Ops@Example.com" is missing`}},
		{"URI", func(c *x509.Certificate) { c.URIs[0].Path = "/B" },
			[]string{`alternative name "spiffe://a/b" is missing`, `alternative name "spiffe://a/B" was not asked for`}},
		{"names of other kinds", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: objectID(2, 5, 29, 17), Value: sanOf(t, c, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a}})}}
		}, []string{"alternative name of the kind [8] was not asked for"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			leaf := ca.Issue(t, "", testKey().Public(), withSubject(t, same...), func(c *x509.Certificate) {
				c.DNSNames, c.EmailAddresses = []string{"xn--mller-kva.example"}, []string{"Ops@Example.com"}
				c.IPAddresses = []net.IP{net.ParseIP("192.0.2.1").To4(), net.ParseIP("2001:db8::1")}
				c.URIs = []*url.URL{{Scheme: "spiffe", Host: "a", Path: "/b"}}
			}, test.edit)
			if got := pkcs10.Compare(askedNames(), leaf); !slices.Equal(got, test.want) {
				t.Errorf("differences\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

// sanOf is the subject alternative name of a certificate and one name more.
func sanOf(t *testing.T, c *x509.Certificate, more asn1.RawValue) []byte {
	t.Helper()
	var names []asn1.RawValue
	add := func(tag int, content []byte) {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: content})
	}
	add(2, []byte(c.DNSNames[0]))
	add(1, []byte(c.EmailAddresses[0]))
	add(7, c.IPAddresses[0].To16()) // an IPv4 address in sixteen bytes
	add(7, c.IPAddresses[1])
	add(6, []byte(c.URIs[0].String()))
	der, err := asn1.Marshal(append(names, more))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// What Compare returns goes into answers, the log and the trail.
func TestCompareIsBounded(t *testing.T) {
	t.Parallel()
	leaf := kit.NewCA(t, "root", noon()).Issue(t, strings.Repeat(`"`, 100), testKey().Public(), func(c *x509.Certificate) {
		for i := range 500 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("%d.%s.example", i, strings.Repeat("x", 60)))
		}
	})
	got := pkcs10.Compare(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: strings.Repeat(`\`, 64)}}}, leaf)
	if len(got) != 20 || got[19] != "and 482 more" {
		t.Fatalf("%d differences, the last %q", len(got), got[len(got)-1])
	}
	for _, difference := range got {
		if utf8.RuneCountInString(difference) > 200 {
			t.Errorf("%d characters: %s", utf8.RuneCountInString(difference), difference)
		}
	}
}

// TestSpecOf: a CSR made of the spec that a CSR or its certificate is read as, is the same
// CSR.
func TestSpecOf(t *testing.T) {
	t.Parallel()
	spec := pkcs10.Spec{
		Subject: []pkcs10.Attribute{{pkcs10.Organization, "Example, Ltd"}, {pkcs10.OrganizationalUnit, "a"}, {pkcs10.OrganizationalUnit, "ü"}, {pkcs10.CommonName, "esx"}, {pkcs10.Country, "US"}},
		Email:   "pki@example.com",
		AltNames: []pkcs10.AltName{
			{pkcs10.DNSName, "esx.example.com"}, {pkcs10.IPAddress, "2001:db8::1"}, {pkcs10.Mailbox, "b@example.com"},
			{pkcs10.URI, "https://example.com/a"}, {pkcs10.IPAddress, "192.0.2.1"},
		},
	}
	request := build(t, spec)
	read, leftOut, err := pkcs10.SpecOf(request.Raw)
	if err != nil || leftOut != nil || read.Email != spec.Email || !slices.Equal(read.Subject, spec.Subject) || !slices.Equal(read.AltNames, spec.AltNames) ||
		read.Algorithm != pkcs10.ECDSA || *read.KeySize != 256 { // those of the key that signs
		t.Errorf("%+v, %q, %v", read, leftOut, err)
	}
	issued := kit.NewCA(t, "ca", noon()).Issue(t, "leaf.example.com", kit.NewKey(t).Public())
	read, _, err = pkcs10.SpecOf(pemOf(issued, issued))
	if err != nil || read.Algorithm != pkcs10.ECDSA || *read.KeySize != 256 || len(read.Subject) != 1 || read.Subject[0].Value != "leaf.example.com" {
		t.Errorf("%+v, %v", read, err)
	}
	for _, text := range []string{"", "{}", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", string(pemOf(issued))[:80]} {
		if got, _, err := pkcs10.SpecOf([]byte(text)); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

// TestSpecOfLeavesOut: what has no place in a spec is named.
func TestSpecOfLeavesOut(t *testing.T) {
	t.Parallel()
	request := requestWith(t, pkix.RDNSequence{
		rdn(asn1.ObjectIdentifier{2, 5, 4, 3}, "name"), rdn(asn1.ObjectIdentifier{2, 5, 4, 5}, "serial"), rdn(asn1.ObjectIdentifier{2, 5, 4, 10}, ""),
	})
	spec, leftOut, err := pkcs10.SpecOf(request)
	if want := []string{"the subject attribute 2.5.4.5=serial", "the subject attribute 2.5.4.10="}; err != nil || !slices.Equal(leftOut, want) || len(spec.Subject) != 1 {
		t.Errorf("%+v, %q, %v", spec, leftOut, err)
	}
}

// requestWith makes a CSR with a subject that no spec asks for.
func requestWith(t testing.TB, subject pkix.RDNSequence) []byte {
	t.Helper()
	raw, err := asn1.Marshal(subject)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: raw}, kit.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// FuzzSpecOf: what is read of a CSR and accepted makes a CSR that is read as the same.
func FuzzSpecOf(f *testing.F) {
	issued := kit.NewCA(f, "ca", noon()).Issue(f, "leaf.example.com", kit.NewKey(f).Public())
	f.Add(issued.Raw)
	f.Add(pemOf(issued))
	f.Add(build(f, pkcs10.Spec{Email: "a@example.com", Subject: []pkcs10.Attribute{{pkcs10.Organization, "o"}}, AltNames: []pkcs10.AltName{{pkcs10.URI, "https://example.com/a"}}}).Raw)
	f.Fuzz(func(t *testing.T, text []byte) {
		spec, leftOut, err := pkcs10.SpecOf(text)
		if err != nil {
			if spec.KeySize != nil || spec.Subject != nil || leftOut != nil {
				t.Fatal("a spec beside an error")
			}
			return
		}
		spec.Algorithm, spec.KeySize, spec.Named = "", nil, true
		if _, _, err := resolve(spec); err != nil {
			return
		}
		again, leftOut, err := pkcs10.SpecOf(build(t, spec).Raw)
		if err != nil || leftOut != nil || len(again.Subject) != len(spec.Subject) {
			t.Fatalf("%+v is read as %+v, %q, %v", spec, again, leftOut, err)
		}
	})
}

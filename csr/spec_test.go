package csr_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-playground/validator/v10"

	"attestcsr/csr"
	"attestcsr/keystore"
)

const hostname = "esx-01.example.com"

func sizes() []int { return []int{2048, 3072, 4096} }

// violationsOf returns the broken rules of an Invalid error and fails on any other.
func violationsOf(t testing.TB, err error) []csr.Violation {
	t.Helper()
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*csr.Error](err)
	if !ok || e.Kind != csr.Invalid || len(e.Violations) == 0 {
		t.Fatalf("error %v, want kind invalid with violations", err)
	}
	return e.Violations
}

// rules is a compact form of violations: "field: rule".
func rules(vs []csr.Violation) []string {
	var s []string
	for _, v := range vs {
		s = append(s, string(v.Field)+": "+string(v.Rule))
	}
	return s
}

// testKey is one P-256 key for all tests that need no fresh one.
var testKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// build resolves and signs a spec and returns what crypto/x509 reads of it.
func build(t testing.TB, spec csr.Spec) *x509.CertificateRequest {
	t.Helper()
	_, template, err := csr.Resolve(spec, hostname, sizes()...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := template.Sign(testKey())
	if err != nil {
		t.Fatal(err)
	}
	return parseRequest(t, text)
}

func parseRequest(t testing.TB, text string) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("not one PEM block of a CSR: %q", text)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKeySize(t *testing.T) {
	t.Parallel()
	size := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		name string
		size *int64
		want int // 0: refused
	}{
		{"none", nil, 2048},
		{"2048", size(2048), 2048},
		{"3072", size(3072), 3072},
		{"4096", size(4096), 4096},
		{"zero is not none", size(0), 0},
		{"negative", size(-2048), 0},
		{"1024", size(1024), 0},
		{"2049", size(2049), 0},
		{"8192 where it is not configured", size(8192), 0},
		{"2048 in the lower 32 bits", size(1<<32 | 2048), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, _, err := csr.Resolve(csr.Spec{KeySize: c.size}, hostname, sizes()...)
			if c.want == 0 {
				vs := violationsOf(t, err)
				if len(vs) != 1 || vs[0].Field != csr.KeySize || vs[0].Rule != csr.NotAllowed || vs[0].Limit != "2048, 3072, 4096" {
					t.Fatalf("violations %+v", vs)
				}
				return
			}
			if want := (keystore.KeySpec{Algorithm: keystore.RSA, Bits: c.want}); err != nil || key != want {
				t.Fatalf("key %v, error %v, want %v", key, err, want)
			}
		})
	}
}

func TestSubjectValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		field csr.Field
		value string
		want  []csr.Rule
	}{
		{"one character", csr.CommonName, "a", nil},
		{"common name, 64 characters", csr.CommonName, strings.Repeat("a", 64), nil},
		{"common name, 65", csr.CommonName, strings.Repeat("a", 65), []csr.Rule{csr.TooLong}},
		{"64 characters of three bytes", csr.CommonName, strings.Repeat("漢", 64), nil},
		{"65 characters of three bytes", csr.CommonName, strings.Repeat("漢", 65), []csr.Rule{csr.TooLong}},
		{"organization, 64", csr.Organization, strings.Repeat("o", 64), nil},
		{"organization, 65", csr.Organization, strings.Repeat("o", 65), []csr.Rule{csr.TooLong}},
		{"unit, 64", csr.OrganizationalUnit, strings.Repeat("o", 64), nil},
		{"unit, 65", csr.OrganizationalUnit, strings.Repeat("o", 65), []csr.Rule{csr.TooLong}},
		{"locality, 128", csr.Locality, strings.Repeat("l", 128), nil},
		{"locality, 129", csr.Locality, strings.Repeat("l", 129), []csr.Rule{csr.TooLong}},
		{"state, 128", csr.StateOrProvince, strings.Repeat("s", 128), nil},
		{"state, 129", csr.StateOrProvince, strings.Repeat("s", 129), []csr.Rule{csr.TooLong}},
		{"empty", csr.Organization, "", []csr.Rule{csr.Empty}},
		{"empty common name is no default", csr.CommonName, "", []csr.Rule{csr.Empty}},
		{"empty country", csr.Country, "", []csr.Rule{csr.Empty}},
		{"blanks are kept", csr.Organization, "  two blanks  ", nil},
		{"no DN syntax", csr.Organization, `a,b+c="d"\#<e>;`, nil},
		{"umlaut", csr.Organization, "Müller & Söhne", nil},
		{"replacement character is a character", csr.Organization, "\uFFFD", nil},
		{"joiners of Persian and Indic scripts", csr.Organization, "می\u200cخواهم \u0d28\u0d4d\u200d", nil},
		{"right-to-left script", csr.Organization, "חברה", nil},
		{"NUL", csr.Organization, "a\x00b", []csr.Rule{csr.ControlCharacter}},
		{"newline", csr.CommonName, "a\nb", []csr.Rule{csr.ControlCharacter}},
		{"escape", csr.Locality, "\x1b[2J", []csr.Rule{csr.ControlCharacter}},
		{"DEL", csr.Locality, "a\x7f", []csr.Rule{csr.ControlCharacter}},
		{"C1 control", csr.Locality, "a\u009b", []csr.Rule{csr.ControlCharacter}},
		{"right-to-left override", csr.Organization, "a\u202egro", []csr.Rule{csr.ControlCharacter}},
		{"isolate", csr.Organization, "a\u2067b", []csr.Rule{csr.ControlCharacter}},
		{"line separator", csr.Organization, "a\u2028b", []csr.Rule{csr.ControlCharacter}},
		{"two rules at once", csr.Organization, strings.Repeat("a", 64) + "\n", []csr.Rule{csr.TooLong, csr.ControlCharacter}},
		{"a byte that is not UTF-8", csr.Organization, "a\xff", []csr.Rule{csr.InvalidUTF8}},
		{"surrogate as bytes", csr.Organization, "\xed\xa0\x80", []csr.Rule{csr.InvalidUTF8}},
		{"country", csr.Country, "DE", nil},
		{"country, lower case", csr.Country, "de", nil},
		{"country, mixed case", csr.Country, "dE", nil},
		{"country, three letters", csr.Country, "DEU", []csr.Rule{csr.UnknownCountry}},
		{"country, one letter", csr.Country, "D", []csr.Rule{csr.UnknownCountry}},
		{"country, not assigned", csr.Country, "XX", []csr.Rule{csr.UnknownCountry}},
		{"country, user-assigned", csr.Country, "XK", []csr.Rule{csr.UnknownCountry}},
		{"country, reserved", csr.Country, "UK", []csr.Rule{csr.UnknownCountry}},
		{"country, blank and letter", csr.Country, " D", []csr.Rule{csr.UnknownCountry}},
		{"country, two blanks", csr.Country, "  ", []csr.Rule{csr.UnknownCountry}},
		{"country, long s that folds to S", csr.Country, "uſ", []csr.Rule{csr.UnknownCountry}},
		{"country, full width", csr.Country, "ＤＥ", []csr.Rule{csr.UnknownCountry}},
		{"country, control", csr.Country, "D\n", []csr.Rule{csr.UnknownCountry}},
		{"an attribute that is none", csr.EmailAddress, "a@b", []csr.Rule{csr.NotAllowed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := csr.Resolve(csr.Spec{Subject: []csr.Attribute{{Type: c.field, Value: c.value}}}, hostname, sizes()...)
			var want []string
			for _, rule := range c.want {
				want = append(want, string(c.field)+": "+string(rule))
			}
			if got := rules(violationsOf(t, err)); !slices.Equal(got, want) {
				t.Fatalf("violations %q, want %q", got, want)
			}
		})
	}
}

func TestCountriesAreThoseOfISO3166(t *testing.T) {
	t.Parallel()
	check := validator.New()
	known := 0
	for a := 'A'; a <= 'Z'; a++ {
		for b := 'A'; b <= 'Z'; b++ {
			code := string([]rune{a, b})
			want := check.Var(code, "iso3166_1_alpha2") == nil && code != "XK" // XK is user-assigned
			_, _, err := csr.Resolve(csr.Spec{Subject: []csr.Attribute{{Type: csr.Country, Value: code}}}, hostname, sizes()...)
			if (err == nil) != want {
				t.Errorf("%s: error %v, assigned: %v", code, err, want)
			}
			if err == nil {
				known++
			}
		}
	}
	if known != 249 {
		t.Errorf("%d countries, ISO 3166-1 has assigned 249", known)
	}
}

func TestSubjectIsEncodedAsGiven(t *testing.T) {
	t.Parallel()
	r := build(t, csr.Spec{Subject: []csr.Attribute{
		{Type: csr.OrganizationalUnit, Value: "second"},
		{Type: csr.Country, Value: "de"},
		{Type: csr.OrganizationalUnit, Value: "first"},
		{Type: csr.Organization, Value: "Müller"},
		{Type: csr.Locality, Value: "a*b"},
		{Type: csr.Locality, Value: "a&b"},
		{Type: csr.StateOrProvince, Value: "Az09 '()+,-./:=?"},
	}})

	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type rdnSET []attribute
	var name []rdnSET
	if rest, err := asn1.Unmarshal(r.RawSubject, &name); err != nil || len(rest) > 0 {
		t.Fatal(err, rest)
	}
	want := []struct {
		oid   string
		tag   int
		value string
	}{
		{"2.5.4.11", asn1.TagPrintableString, "second"},
		{"2.5.4.6", asn1.TagPrintableString, "DE"},
		{"2.5.4.11", asn1.TagPrintableString, "first"},
		{"2.5.4.10", asn1.TagUTF8String, "Müller"},
		{"2.5.4.7", asn1.TagUTF8String, "a*b"},
		{"2.5.4.7", asn1.TagUTF8String, "a&b"},
		{"2.5.4.8", asn1.TagPrintableString, "Az09 '()+,-./:=?"},
		{"2.5.4.3", asn1.TagPrintableString, hostname},
	}
	if len(name) != len(want) {
		t.Fatalf("%d RDNs, want %d", len(name), len(want))
	}
	for i, w := range want {
		if len(name[i]) != 1 {
			t.Fatalf("RDN %d has %d attributes", i, len(name[i]))
		}
		a := name[i][0]
		if a.Type.String() != w.oid || a.Value.Tag != w.tag || string(a.Value.Bytes) != w.value {
			t.Errorf("RDN %d: %v tag %d %q, want %v", i, a.Type, a.Value.Tag, a.Value.Bytes, w)
		}
	}
	if len(r.Extensions) != 0 {
		t.Errorf("extensions %v without any name", r.Extensions)
	}
	if r.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		t.Errorf("signature %v", r.SignatureAlgorithm)
	}
}

func TestCommonNameStaysWhereItIs(t *testing.T) {
	t.Parallel()
	subject := []csr.Attribute{{Type: csr.CommonName, Value: "given"}, {Type: csr.Country, Value: "de"}}
	r := build(t, csr.Spec{Subject: subject})
	if got := r.Subject.ToRDNSequence().String(); r.Subject.CommonName != "given" || len(r.Subject.Names) != 2 {
		t.Errorf("subject %s", got)
	}
	if subject[0].Value != "given" || subject[1].Value != "de" {
		t.Error("the caller's subject was changed")
	}
}

// Every broken rule is reported at once, in the order of the vendor's table and
// not of the subject.
func TestAllViolationsInTableOrder(t *testing.T) {
	t.Parallel()
	zero := int64(0)
	_, _, err := csr.Resolve(csr.Spec{
		KeySize: &zero,
		Subject: []csr.Attribute{
			{Type: csr.Country, Value: "XX"},
			{Type: csr.StateOrProvince, Value: "\n"},
			{Type: csr.Locality, Value: strings.Repeat("l", 129)},
			{Type: csr.OrganizationalUnit, Value: "\xff"},
			{Type: csr.Organization, Value: ""},
			{Type: csr.CommonName, Value: ""},
		},
		Email:    "nobody",
		AltNames: []csr.AltName{{Value: ""}, {Value: "a_b"}, {Value: ""}, {Value: "x@"}},
	}, hostname, sizes()...)
	want := []string{
		"key size: not_allowed",
		"CN: empty",
		"O: empty",
		"OU: invalid_utf8",
		"L: too_long",
		"ST: control_character",
		"C: unknown_country",
		"e-mail address: not_a_mailbox",
		"subject alternative name: empty_item", // once, however many there are
		"subject alternative name: not_a_name",
		"subject alternative name: not_a_mailbox",
	}
	if got := rules(violationsOf(t, err)); !slices.Equal(got, want) {
		t.Errorf("violations\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func FuzzSubjectValue(f *testing.F) {
	for _, seed := range []string{"ACME", "", "Müller", "a\x00b", "\xff", "a\u202eb", "*", strings.Repeat("漢", 64), strings.Repeat("a", 65)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		spec := csr.Spec{Subject: []csr.Attribute{{Type: csr.CommonName, Value: value}}}
		if _, _, err := csr.Resolve(spec, hostname, sizes()...); err != nil {
			checkSentences(t, violationsOf(t, err))
			return
		}
		r := build(t, spec)
		if got := r.Subject.CommonName; got != value || len(r.Subject.Names) != 1 {
			t.Fatalf("common name %q, want %q", got, value)
		}
		if n := len([]rune(value)); n < 1 || n > 64 || strings.ContainsAny(value, "\x00\r\n\x1b\x7f\u202e") {
			t.Fatalf("%q was accepted", value)
		}
	})
}

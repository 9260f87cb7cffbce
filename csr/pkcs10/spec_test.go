package pkcs10_test

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"

	"github.com/go-playground/validator/v10"

	"attestcsr/csr/pkcs10"
)

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
			spec, _, err := resolve(pkcs10.Spec{KeySize: c.size})
			if c.want == 0 {
				vs := violationsOf(t, err)
				if len(vs) != 1 || vs[0].Field != pkcs10.KeySize || vs[0].Rule != pkcs10.NotAllowed || vs[0].Limit != "2048, 3072, 4096" {
					t.Fatalf("violations %+v", vs)
				}
				return
			}
			if err != nil || spec.Algorithm != pkcs10.RSA || *spec.KeySize != int64(c.want) {
				t.Fatalf("%s key of %d bits, error %v", spec.Algorithm, *spec.KeySize, err)
			}
		})
	}
}

func TestSubjectValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		field pkcs10.Field
		value string
		want  []pkcs10.Rule
	}{
		{"one character", pkcs10.CommonName, "a", nil},
		{"common name, 64 characters", pkcs10.CommonName, strings.Repeat("a", 64), nil},
		{"common name, 65", pkcs10.CommonName, strings.Repeat("a", 65), []pkcs10.Rule{pkcs10.TooLong}},
		{"64 characters of three bytes", pkcs10.CommonName, strings.Repeat("漢", 64), nil},
		{"65 characters of three bytes", pkcs10.CommonName, strings.Repeat("漢", 65), []pkcs10.Rule{pkcs10.TooLong}},
		{"organization, 64", pkcs10.Organization, strings.Repeat("o", 64), nil},
		{"organization, 65", pkcs10.Organization, strings.Repeat("o", 65), []pkcs10.Rule{pkcs10.TooLong}},
		{"unit, 64", pkcs10.OrganizationalUnit, strings.Repeat("o", 64), nil},
		{"unit, 65", pkcs10.OrganizationalUnit, strings.Repeat("o", 65), []pkcs10.Rule{pkcs10.TooLong}},
		{"locality, 128", pkcs10.Locality, strings.Repeat("l", 128), nil},
		{"locality, 129", pkcs10.Locality, strings.Repeat("l", 129), []pkcs10.Rule{pkcs10.TooLong}},
		{"state, 128", pkcs10.StateOrProvince, strings.Repeat("s", 128), nil},
		{"state, 129", pkcs10.StateOrProvince, strings.Repeat("s", 129), []pkcs10.Rule{pkcs10.TooLong}},
		{"empty", pkcs10.Organization, "", []pkcs10.Rule{pkcs10.Empty}},
		{"empty common name is no default", pkcs10.CommonName, "", []pkcs10.Rule{pkcs10.Empty}},
		{"empty country", pkcs10.Country, "", []pkcs10.Rule{pkcs10.Empty}},
		{"blanks are kept", pkcs10.Organization, "  two blanks  ", nil},
		{"no DN syntax", pkcs10.Organization, `a,b+c="d"\#<e>;`, nil},
		{"umlaut", pkcs10.Organization, "Müller & Söhne", nil},
		{"replacement character is a character", pkcs10.Organization, "\uFFFD", nil},
		{"joiners of Persian and Indic scripts", pkcs10.Organization, "می\u200cخواهم \u0d28\u0d4d\u200d", nil},
		{"right-to-left script", pkcs10.Organization, "חברה", nil},
		{"NUL", pkcs10.Organization, "a\x00b", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"newline", pkcs10.CommonName, "a\nb", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"escape", pkcs10.Locality, "\x1b[2J", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"DEL", pkcs10.Locality, "a\x7f", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"C1 control", pkcs10.Locality, "a\u009b", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"right-to-left override", pkcs10.Organization, "a\u202egro", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"isolate", pkcs10.Organization, "a\u2067b", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"line separator", pkcs10.Organization, "a\u2028b", []pkcs10.Rule{pkcs10.ControlCharacter}},
		{"two rules at once", pkcs10.Organization, strings.Repeat("a", 64) + "\n", []pkcs10.Rule{pkcs10.TooLong, pkcs10.ControlCharacter}},
		{"a byte that is not UTF-8", pkcs10.Organization, "a\xff", []pkcs10.Rule{pkcs10.InvalidUTF8}},
		{"surrogate as bytes", pkcs10.Organization, "\xed\xa0\x80", []pkcs10.Rule{pkcs10.InvalidUTF8}},
		{"country", pkcs10.Country, "DE", nil},
		{"country, lower case", pkcs10.Country, "de", nil},
		{"country, mixed case", pkcs10.Country, "dE", nil},
		{"country, three letters", pkcs10.Country, "DEU", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, one letter", pkcs10.Country, "D", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, not assigned", pkcs10.Country, "XX", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, user-assigned", pkcs10.Country, "XK", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, reserved", pkcs10.Country, "UK", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, blank and letter", pkcs10.Country, " D", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, two blanks", pkcs10.Country, "  ", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, long s that folds to S", pkcs10.Country, "uſ", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, full width", pkcs10.Country, "ＤＥ", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"country, control", pkcs10.Country, "D\n", []pkcs10.Rule{pkcs10.UnknownCountry}},
		{"an attribute that is none", pkcs10.EmailAddress, "a@b", []pkcs10.Rule{pkcs10.NotAllowed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := resolve(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: c.field, Value: c.value}}})
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
			_, _, err := resolve(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.Country, Value: code}}})
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
	r := build(t, pkcs10.Spec{Subject: []pkcs10.Attribute{
		{Type: pkcs10.OrganizationalUnit, Value: "second"},
		{Type: pkcs10.Country, Value: "de"},
		{Type: pkcs10.OrganizationalUnit, Value: "first"},
		{Type: pkcs10.Organization, Value: "Müller"},
		{Type: pkcs10.Locality, Value: "a*b"},
		{Type: pkcs10.Locality, Value: "a&b"},
		{Type: pkcs10.StateOrProvince, Value: "Az09 '()+,-./:=?"},
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
	subject := []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "given"}, {Type: pkcs10.Country, Value: "de"}}
	r := build(t, pkcs10.Spec{Subject: subject})
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
	_, _, err := resolve(pkcs10.Spec{
		KeySize: &zero,
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "XX"},
			{Type: pkcs10.StateOrProvince, Value: "\n"},
			{Type: pkcs10.Locality, Value: strings.Repeat("l", 129)},
			{Type: pkcs10.OrganizationalUnit, Value: "\xff"},
			{Type: pkcs10.Organization, Value: ""},
			{Type: pkcs10.CommonName, Value: ""},
		},
		Email:    "nobody",
		AltNames: []pkcs10.AltName{{Value: ""}, {Value: "a_b"}, {Value: ""}, {Value: "x@"}},
	})
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
		spec := pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: value}}}
		if _, _, err := resolve(spec); err != nil {
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

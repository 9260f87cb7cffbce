package pkcs10_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-playground/validator/v10"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// Generated specs, which the handler's tests judge, try sizes, subjects of every
// script and the bounds; here is what they do not.
func TestSubjectValues(t *testing.T) {
	t.Parallel()
	for rule, values := range map[pkcs10.Rule][]string{
		"": {
			"  two blanks  ", `a,b+c="d"\#<e>;`, "می\u200cخواهم \u0d28\u0d4d\u200d", "חברה", strings.Repeat("漢", 64),
		},
		pkcs10.TooLong: {strings.Repeat("漢", 65)},
		pkcs10.Empty:   {""},
		pkcs10.ControlCharacter: {
			"a\x00b", "a\nb", "\x1b[2J", "a\x7f", "a\u009b", "a\u202egro", "a\u2067b", "a\u2028b",
		},
		pkcs10.LostText:    {"\uFFFD", "M\uFFFDller"}, // what a client writes that cannot read its own file
		pkcs10.InvalidUTF8: {"a\xff", "\xed\xa0\x80"},
	} {
		for _, value := range values {
			for _, field := range []pkcs10.Field{pkcs10.CommonName, pkcs10.Organization} {
				_, _, err := resolve(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: field, Value: value}}})
				if vs := violationsOf(t, err); rule == "" && err != nil || rule != "" && (len(vs) != 1 || vs[0].Field != field || vs[0].Rule != rule) {
					t.Errorf("%s %q: violations %+v, want %q", field, value, vs, rule)
				}
			}
		}
	}
	for _, country := range []string{"DEU", "D", "XK", "UK", " D", "  ", "uſ", "ＤＥ", "D\n"} {
		_, _, err := resolve(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.Country, Value: country}}})
		if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Rule != pkcs10.UnknownCountry {
			t.Errorf("%q: violations %+v", country, vs)
		}
	}
	_, _, err := resolve(pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.EmailAddress, Value: "a@b"}}})
	if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Rule != pkcs10.NotAllowed {
		t.Errorf("an attribute that is none: %+v", vs)
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
	if got := kit.Rules(violationsOf(t, err)); !slices.Equal(got, want) {
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
			kit.CheckSentences(t, violationsOf(t, err))
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

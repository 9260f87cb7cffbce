package pkcs10_test

import (
	"strings"
	"testing"

	"attestcsr/csr/pkcs10"
)

// TestRefusalNamesTheBrokenPart has the mistakes that people make with names. The rule
// stays the one for the kind, since clients may depend on it.
func TestRefusalNamesTheBrokenPart(t *testing.T) {
	t.Parallel()
	const one = "must be one name, without blanks, commas and semicolons"
	for _, c := range []struct {
		kind  pkcs10.AltNameKind
		rule  pkcs10.Rule
		parts map[string]string // by value
	}{
		{pkcs10.ByContent, pkcs10.NotAName, map[string]string{
			"a_b.example.com":               "must not have an underscore in a DNS name",
			"esx-01.example.com.":           "must not end with a dot",
			".example.com":                  "must not begin with a dot",
			"example..com":                  "must not have two dots in a row in a DNS name",
			"*.example.com":                 "must not have a wildcard in a DNS name",
			"bücher.example":                "must be in ASCII, as xn--bcher-kva.example",
			"BÜCHER。example":                "must be in ASCII, as xn--bcher-kva.example",
			"\u202abücher.example":          "must not have control or text direction characters",
			"bü cher.example":               one,
			"ü" + strings.Repeat("a", 64):   "must be in ASCII",
			"DNS:esx-01.example.com":        `must be without "DNS:" before it`,
			"dns.1 = a.example.com":         `must be without "dns.1 =" before it`,
			"IP:192.0.2.1":                  `must be without "IP:" before it`,
			"IP Address:192.0.2.1":          `must be without "IP Address:" before it`,
			"URI:https://example.com":       `must be without "URI:" before it`,
			" esx-01.example.com":           "must not have blanks at its ends",
			"esx-01.example.com\n":          "must not have blanks at its ends",
			`"esx-01.example.com"`:          "must not have quotation marks around it",
			"a.example.com,b.example.com":   one,
			"a.example.com; b.example.com":  one,
			"a.example.com b.example.com":   one,
			"a.example.com\nDNS:b.example":  one,
			"[2001:db8::1]":                 "must not have brackets around an IP address",
			"10.0.0.1/24":                   "must be one address, without a prefix length",
			"10.0.0.1/255.255.255.0":        "must be one address, without a prefix length",
			"2001:db8::/32":                 "must be one address, without a prefix length",
			"2001:db8::1::2":                "must be a well-formed IPv6 address (RFC 4291)",
			"esx-01.example.com:443":        "must not have a port",
			"192.0.2.1:443":                 "must not have a port",
			"[2001:db8::1]:443":             "must not have a port",
			"dns:53":                        "must not have a port",
			"010.0.0.1":                     "must not have leading zeros in an IPv4 address",
			"10.0.0.300":                    "must have numbers from 0 to 255 in an IPv4 address",
			"127.1":                         "must have four numbers in an IPv4 address",
			"10.0.0.1.":                     "must not end with a dot",
			"example.123":                   "must not have a last label of digits alone in a DNS name",
			"12345":                         "must not have a last label of digits alone in a DNS name",
			label63 + "a.example":           "must have at most 63 characters in each label of a DNS name",
			"-a.example.com":                "must not have a hyphen at the beginning or end of a label",
			"a-.example.com":                "must not have a hyphen at the beginning or end of a label",
			"example.com/path":              `must not have "/" in a DNS name`,
			"host:https":                    `must not have ":" in a DNS name`,
			"a\x00b":                        "must not have control or text direction characters",
			"b\uFFFDcher.example":           "must not have U+FFFD, which stands for text that was lost",
			"\xff":                          "must be valid UTF-8",
			"1x://example.com":              `must not have ":" in a DNS name`,
			strings.Repeat("1.", 100) + "_": "must not have an underscore in a DNS name",
		}},
		{pkcs10.ByContent, pkcs10.NotAnIPAddress, map[string]string{
			"fe80::1%eth0": "must not have a zone in an IP address",
		}},
		{pkcs10.ByContent, pkcs10.NotAURI, map[string]string{
			"https://":                             "must have a host after ://",
			"https:///x":                           "must have a host after ://",
			"https://:443/":                        "must have a host after ://",
			"https://u@/":                          "must have a host after ://",
			"file:///etc/passwd":                   "must have a host after ://",
			"https://example.com/a b":              "must not have blanks: %20 stands for one",
			"https://a.example, https://b.example": one,
			"https://a.example,b.example/":         one,
			"https://a_b/":                         "must not have an underscore in a DNS name",
			"https://10.0.0.300/":                  "must have numbers from 0 to 255 in an IPv4 address",
			"https://2001:db8::1/":                 "must have brackets around an IPv6 address",
			"https://[192.0.2.1]/":                 "must have an IPv6 address without zone in the brackets",
			"https://[fe80::1%25eth0]/":            "must have an IPv6 address without zone in the brackets",
			"https://a@b@example.com/":             "must have at most one @ before the host",
			"https://example.com:80a/":             "must have at most five digits as port",
			"https://bücher.example/x":             "must be in ASCII, as xn--bcher-kva.example",
			"https://example.com/ü":                "must be in ASCII, with other characters percent-encoded",
			"https://example.com/%zz":              "must have two hexadecimal digits after each %",
			"https://example.com/#a#b":             "must have at most one #",
			"https://example.com/<x>":              "must have only the characters of a URI (RFC 3986), others percent-encoded",
			`https://x\@example.com/`:              "must have only the characters of a URI (RFC 3986), others percent-encoded",
			"https://" + dns253 + "b/":             "must have at most 253 characters in a DNS name",
			"spiffe://a_b..c/x":                    "must not have two dots in a row in a DNS name",
			"urn:x":                                "must be a URN like urn:namespace:name (RFC 8141)",
		}},
		{pkcs10.ByContent, pkcs10.NotAMailbox, map[string]string{
			"mailto:ops@example.com":   `must be without "mailto:" before it`,
			"email:ops@example.com":    `must be without "email:" before it`,
			"esx.example.com,ops@b.io": one,
		}},
		{pkcs10.Mailbox, pkcs10.NotAMailbox, map[string]string{
			"ops":                      "must have an @ and a domain",
			"@example.com":             "must have a local part before the @",
			"ops@":                     "must have a domain after the @",
			"Ops <ops@example.com>":    "must be the address alone, without a name and angle brackets",
			"a@example.com,b@x.io":     one,
			"a b@example.com":          one,
			"a@b@example.com":          "must have one @",
			"a..b@example.com":         "must not have a dot at the ends of the part before the @, nor two in a row",
			"a.@example.com":           "must not have a dot at the ends of the part before the @, nor two in a row",
			"ops(x)@example.com":       "must have only letters, digits, dots and !#$%&'*+-/=?^_`{|}~ before the @",
			`"a"b"@example.com`:        "must have a well-formed quoted string before the @ (RFC 5321)",
			"müller@example.com":       "must be in ASCII before the @",
			"ops@bücher.example":       "must be in ASCII, as xn--bcher-kva.example",
			"a@example.com.":           "must not end with a dot",
			"a@ex_ample.com":           "must not have an underscore in a DNS name",
			"a@192.0.2.1":              "must have brackets around an IP address after the @",
			"a@[2001:db8::1]":          "must have in brackets an IPv4 address, or IPv6: and an IPv6 address",
			label63 + "aa@example.com": "must have at most 64 characters before the @",
		}},
		{pkcs10.DNSName, pkcs10.NotADNSName, map[string]string{
			"192.0.2.1":           "must be a DNS name and not an IP address",
			"ops@example.com":     "must be a DNS name and not an e-mail address",
			"https://example.com": "must be a DNS name and not a URI",
			"*.example.com":       "must not have a wildcard in a DNS name",
			"[192.0.2.1]":         "must not have brackets around an IP address",
		}},
		{pkcs10.IPAddress, pkcs10.NotAnIPAddress, map[string]string{
			"example.com": "must be an IP address without zone or prefix length",
			"010.1.1.1":   "must not have leading zeros in an IPv4 address",
			"10.0.0.0/8":  "must be one address, without a prefix length",
			"[::1]":       "must not have brackets around an IP address",
		}},
		{pkcs10.URI, pkcs10.NotAURI, map[string]string{
			"example.com": "must be a URI: a scheme, :// and a host, or a URN",
		}},
	} {
		for value, want := range c.parts {
			wantSentence(t, pkcs10.Spec{AltNames: []pkcs10.AltName{{Kind: c.kind, Value: value}}}, c.rule, want)
		}
	}
}

func TestRefusalOfACountry(t *testing.T) {
	t.Parallel()
	const (
		twoLetters = "must be the two letters of ISO 3166-1 alpha-2, like DE, not the name of a country"
		assigned   = "must be a code that ISO 3166-1 alpha-2 assigns to a country"
	)
	for _, c := range []struct{ value, want string }{
		{"UK", "must be GB, the code of ISO 3166-1 alpha-2"},
		{"uk", "must be GB, the code of ISO 3166-1 alpha-2"},
		{"DEU", "must be DE, the code of ISO 3166-1 alpha-2"},
		{"USA", "must be US, the code of ISO 3166-1 alpha-2"},
		{"Germany", twoLetters},
		{"D", twoLetters},
		{"ＤＥ", twoLetters},
		{"U.S.", twoLetters},
		{"uſ", twoLetters},
		{" DE", "must not have blanks at its ends"},
		{"D\n", "must not have blanks at its ends"},
		{"XK", assigned},
		{"EU", assigned},
		{"D1", assigned},
	} {
		wantSentence(t, subject(pkcs10.Country, c.value), pkcs10.UnknownCountry, c.want)
	}
}

// wantSentence expects that the spec breaks one rule, and that the sentence ends so.
func wantSentence(t *testing.T, spec pkcs10.Spec, rule pkcs10.Rule, end string) {
	t.Helper()
	_, _, err := resolve(spec)
	if vs := violationsOf(t, err); len(vs) != 1 || vs[0].Rule != rule || !strings.HasSuffix(vs[0].Describe("f"), `" `+end) {
		t.Errorf("%+v: %+v, want %s: %s", spec, vs, rule, end)
	}
}

// A trust domain may have underscores; a host of another scheme may not.
func TestSPIFFE(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"spiffe://my_domain/x", "SPIFFE://_x.example/", "spiffe://trust_domain.example/ns/a_b"} {
		if got := resultOf(t, pkcs10.AltName{Value: id}); got != "6:"+id {
			t.Errorf("%s: %s", id, got)
		}
	}
	for _, id := range []string{"spiffe:///x", "spiffe://a_b./x", "spiffe://a_..b/x", "spiffes://a_b/"} {
		if got := resultOf(t, pkcs10.AltName{Value: id}); got != string(pkcs10.NotAURI) {
			t.Errorf("%s: %s", id, got)
		}
	}
}

package pkcs10_test

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr/pkcs10"
)

// namesOf returns the names of the extension in their order, as "tag:value".
func namesOf(t testing.TB, r *x509.CertificateRequest) []string {
	t.Helper()
	if len(r.Extensions) == 0 {
		return nil
	}
	extension := r.Extensions[0]
	if !extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) || extension.Critical || len(r.Extensions) > 1 {
		t.Fatalf("extensions %+v, want a subject alternative name that is not critical", r.Extensions)
	}
	var raw []asn1.RawValue
	if rest, err := asn1.Unmarshal(extension.Value, &raw); err != nil || len(rest) > 0 {
		t.Fatal(err, rest)
	}
	var names []string
	for _, n := range raw {
		value := string(n.Bytes)
		if n.Tag == 7 {
			addr, ok := netip.AddrFromSlice(n.Bytes)
			if !ok {
				t.Fatalf("IP address of %d bytes", len(n.Bytes))
			}
			value = addr.String()
		}
		names = append(names, fmt.Sprintf("%d:%s", n.Tag, value))
	}
	return names
}

func TestAltNameByContent(t *testing.T) {
	t.Parallel()
	label63 := strings.Repeat("a", 63)
	dns253 := strings.Join([]string{label63, label63, label63, strings.Repeat("b", 61)}, ".")
	uri := func(n int) string { return "https://h/" + strings.Repeat("p", n-len("https://h/")) }
	for _, c := range []struct {
		name, value, want string // want is "tag:value", or the rule
	}{
		{"DNS name", "esx-01.example.com", "2:esx-01.example.com"},
		{"case is kept", "ESX-01.Example.COM", "2:ESX-01.Example.COM"},
		{"one label", "localhost", "2:localhost"},
		{"digits first", "3com.example", "2:3com.example"},
		{"punycode", "xn--mller-kva.example", "2:xn--mller-kva.example"},
		{"label of 63", label63 + ".example", "2:" + label63 + ".example"},
		{"label of 64", label63 + "a.example", "not_a_name"},
		{"DNS name of 253", dns253, "2:" + dns253},
		{"DNS name of 254", dns253 + "b", "too_long"},
		{"final dot", "example.com.", "not_a_name"},
		{"first dot", ".example.com", "not_a_name"},
		{"two dots", "example..com", "not_a_name"},
		{"wildcard", "*.example.com", "not_a_name"},
		{"underscore", "a_b.example.com", "not_a_name"},
		{"hyphen first", "-a.example.com", "not_a_name"},
		{"hyphen last", "a-.example.com", "not_a_name"},
		{"last label all digits", "example.123", "not_a_name"},
		{"address with a byte too large", "10.0.0.300", "not_a_name"},
		{"short IPv4", "127.1", "not_a_name"},
		{"leading zero in IPv4", "010.0.0.1", "not_a_name"},
		{"hex", "0x7f000001", "2:0x7f000001"},
		{"blank", " ", "not_a_name"},
		{"blank at the end", "example.com ", "not_a_name"},
		{"NUL", "example.com\x00.evil.test", "not_a_name"},
		{"newline", "example.com\nDNS:evil.test", "not_a_name"},
		{"comma", "example.com,DNS:evil.test", "not_a_name"},
		{"umlaut", "müller.example", "not_a_name"},
		{"full stop of another script", "example。com", "not_a_name"},
		{"not UTF-8", "\xff\xfe", "not_a_name"},
		{"empty", "", "empty_item"},
		{"host and port", "esx-01.example.com:443", "not_a_name"},
		{"localhost and port", "localhost:8080", "not_a_name"},
		{"no scheme", "//example.com", "not_a_name"},

		{"IPv4", "192.0.2.1", "7:192.0.2.1"},
		{"IPv6", "2001:db8::1", "7:2001:db8::1"},
		{"IPv6, long", "2001:0DB8:0:0:0:0:0:1", "7:2001:db8::1"},
		{"IPv4 in IPv6", "::ffff:192.0.2.1", "7:192.0.2.1"},
		{"zone", "fe80::1%eth0", "not_an_ip_address"},
		{"IPv4 prefix", "192.0.2.0/24", "not_a_name"},
		{"IPv6 prefix", "2001:db8::/32", "not_a_name"},
		{"brackets", "[2001:db8::1]", "not_a_name"},
		{"IPv4 and port", "192.0.2.1:443", "not_a_name"},

		{"e-mail", "ops@example.com", "1:ops@example.com"},
		{"e-mail, bad", "ops@", "not_a_mailbox"},
		{"e-mail after mailto:", "mailto:ops@example.com", "not_a_mailbox"},

		{"https", "https://example.com/a/b?c=d#e", "6:https://example.com/a/b?c=d#e"},
		{"no rewriting", "HTTPS://Example.COM:0443/%7Ea/../b", "6:HTTPS://Example.COM:0443/%7Ea/../b"},
		{"spiffe", "spiffe://example.org/ns/prod", "6:spiffe://example.org/ns/prod"},
		{"URI with user", "ssh://git@example.com/x", "6:ssh://git@example.com/x"},
		{"URI with IPv4", "https://192.0.2.1/", "6:https://192.0.2.1/"},
		{"URI with IPv6", "https://[2001:db8::1]:8443/", "6:https://[2001:db8::1]:8443/"},
		{"URI of 2048", uri(2048), "6:" + uri(2048)},
		{"URI of 2049", uri(2049), "too_long"},
		{"URI without host", "https://", "not_a_uri"},
		{"URI without host but path", "file:///etc/passwd", "not_a_uri"},
		{"URI with a bad host", "https://a_b/", "not_a_uri"},
		{"URI with a bad address", "https://10.0.0.300/", "not_a_uri"},
		{"URI with brackets round IPv4", "https://[192.0.2.1]/", "not_a_uri"},
		{"URI with an open bracket", "https://[2001:db8::1/", "not_a_uri"},
		{"URI with a zone", "https://[fe80::1%25eth0]/", "not_a_uri"},
		{"URI with two users", "https://good@evil@example.com/", "not_a_uri"},
		{"URI with a bad port", "https://example.com:80a/", "not_a_uri"},
		{"URI with a blank", "https://example.com/a b", "not_a_uri"},
		{"URI with a bad escape", "https://example.com/%zz", "not_a_uri"},
		{"URI with a cut escape", "https://example.com/%4", "not_a_uri"},
		{"URI with a backslash", `https://example.com\@evil.test/`, "not_a_uri"},
		{"URI with two fragments", "https://example.com/#a#b", "not_a_uri"},
		{"URI with umlaut", "https://example.com/ü", "not_a_uri"},
		{"URI with NUL", "https://example.com/\x00", "not_a_uri"},
		{"scheme that begins with a digit", "1x://example.com", "not_a_name"},
		{"URN", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "6:urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"},
		{"URN in upper case", "URN:ISBN:0451450523", "6:URN:ISBN:0451450523"},
		{"URN with an @", "urn:example:a@b", "6:urn:example:a@b"},
		{"URN without name", "urn:uuid:", "not_a_uri"},
		{"URN without namespace", "urn::x", "not_a_uri"},
		{"URN, namespace of one letter", "urn:x:y", "not_a_uri"},
		{"URN alone", "urn:", "not_a_uri"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := pkcs10.Spec{AltNames: []pkcs10.AltName{{Value: c.value}}}
			_, _, err := resolve(spec)
			var got string
			if err != nil {
				vs := violationsOf(t, err)
				if len(vs) != 1 || vs[0].Field != pkcs10.SubjectAltName {
					t.Fatalf("violations %+v", vs)
				}
				got = string(vs[0].Rule)
			} else {
				got = strings.Join(namesOf(t, build(t, spec)), " ")
			}
			if got != c.want {
				t.Fatalf("%q: %s, want %s", c.value, got, c.want)
			}
		})
	}
}

func TestAltNameOfGivenKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		given pkcs10.AltName
		want  string
	}{
		{"DNS name", pkcs10.AltName{Kind: pkcs10.DNSName, Value: "example.com"}, "2:example.com"},
		{"an address is no DNS name", pkcs10.AltName{Kind: pkcs10.DNSName, Value: "192.0.2.1"}, "not_a_dns_name"},
		{"an e-mail address is no DNS name", pkcs10.AltName{Kind: pkcs10.DNSName, Value: "a@example.com"}, "not_a_dns_name"},
		{"IP address", pkcs10.AltName{Kind: pkcs10.IPAddress, Value: "::1"}, "7:::1"},
		{"a DNS name is no address", pkcs10.AltName{Kind: pkcs10.IPAddress, Value: "example.com"}, "not_an_ip_address"},
		{"mailbox", pkcs10.AltName{Kind: pkcs10.Mailbox, Value: "a@example.com"}, "1:a@example.com"},
		{"a DNS name is no mailbox", pkcs10.AltName{Kind: pkcs10.Mailbox, Value: "example.com"}, "not_a_mailbox"},
		{"URI", pkcs10.AltName{Kind: pkcs10.URI, Value: "x://y"}, "6:x://y"},
		{"a DNS name is no URI", pkcs10.AltName{Kind: pkcs10.URI, Value: "example.com"}, "not_a_uri"},
		{"empty", pkcs10.AltName{Kind: pkcs10.IPAddress}, "empty_item"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := pkcs10.Spec{AltNames: []pkcs10.AltName{c.given}}
			_, _, err := resolve(spec)
			if vs := violationsOf(t, err); vs != nil {
				if string(vs[0].Rule) != c.want || len(vs) != 1 {
					t.Fatalf("violations %+v, want %s", vs, c.want)
				}
				return
			}
			if got := strings.Join(namesOf(t, build(t, spec)), " "); got != c.want {
				t.Fatalf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestMailbox(t *testing.T) {
	t.Parallel()
	local64 := strings.Repeat("l", 64)
	whole254 := local64 + "@" + strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 61)
	for _, c := range []struct {
		name, value string
		want        pkcs10.Rule
	}{
		{"plain", "ops@example.com", ""},
		{"every atom character", "!#$%&'*+-/=?^_`{|}~aZ09@example.com", ""},
		{"dots", "a.b.c@example.com", ""},
		{"one label", "root@localhost", ""},
		{"quoted", `"a b"@example.com`, ""},
		{"quoted pair", `"a\"b\\"@example.com`, ""},
		{"quoted at", `"a@b"@example.com`, ""},
		{"IPv4 literal", "ops@[192.0.2.1]", ""},
		{"IPv6 literal", "ops@[IPv6:2001:db8::1]", ""},
		{"local part of 64", local64 + "@example.com", ""},
		{"254 in all", whole254, ""},
		{"local part of 65", local64 + "l@example.com", pkcs10.NotAMailbox},
		{"255 in all", whole254 + "c", pkcs10.TooLong},
		{"no at", "example.com", pkcs10.NotAMailbox},
		{"no local part", "@example.com", pkcs10.NotAMailbox},
		{"no domain", "ops@", pkcs10.NotAMailbox},
		{"two ats", "a@b@example.com", pkcs10.NotAMailbox},
		{"dot first", ".a@example.com", pkcs10.NotAMailbox},
		{"dot last", "a.@example.com", pkcs10.NotAMailbox},
		{"two dots", "a..b@example.com", pkcs10.NotAMailbox},
		{"blank", "a b@example.com", pkcs10.NotAMailbox},
		{"blank around", " a@example.com", pkcs10.NotAMailbox},
		{"display name", "Ops <ops@example.com>", pkcs10.NotAMailbox},
		{"comment", "ops(x)@example.com", pkcs10.NotAMailbox},
		{"non-ASCII local part", "müller@example.com", pkcs10.NotAMailbox},
		{"non-ASCII domain", "a@müller.example", pkcs10.NotAMailbox},
		{"final dot", "a@example.com.", pkcs10.NotAMailbox},
		{"underscore in domain", "a@ex_ample.com", pkcs10.NotAMailbox},
		{"address as domain", "a@192.0.2.1", pkcs10.NotAMailbox},
		{"IPv6 without its tag", "a@[2001:db8::1]", pkcs10.NotAMailbox},
		{"IPv4 with the tag", "a@[IPv6:192.0.2.1]", pkcs10.NotAMailbox},
		{"literal with a zone", "a@[IPv6:fe80::1%eth0]", pkcs10.NotAMailbox},
		{"open literal", "a@[192.0.2.1", pkcs10.NotAMailbox},
		{"empty literal", "a@[]", pkcs10.NotAMailbox},
		{"open quote", `"a@example.com`, pkcs10.NotAMailbox},
		{"quote inside", `"a"b"@example.com`, pkcs10.NotAMailbox},
		{"escape at the end of the quote", `"a\"@example.com`, pkcs10.NotAMailbox},
		{"NUL", "a\x00@example.com", pkcs10.NotAMailbox},
		{"header injection", "a@example.com\r\nBcc: b@example.com", pkcs10.NotAMailbox},
		{"control in quotes", "\"a\tb\"@example.com", pkcs10.NotAMailbox},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			spec := pkcs10.Spec{Email: c.value}
			_, _, err := resolve(spec)
			var want []string
			if c.want != "" {
				want = []string{string(pkcs10.EmailAddress) + ": " + string(c.want)}
			}
			if got := rules(violationsOf(t, err)); !slices.Equal(got, want) {
				t.Fatalf("violations %q, want %q", got, want)
			}
			if err == nil {
				if got := namesOf(t, build(t, spec)); !slices.Equal(got, []string{"1:" + c.value}) {
					t.Fatalf("names %q", got)
				}
			}
		})
	}
}

func TestAltNamesKeepOrderAndLoseDuplicates(t *testing.T) {
	t.Parallel()
	r := build(t, pkcs10.Spec{
		Email: "Ops@example.com",
		AltNames: []pkcs10.AltName{
			{Value: "b.example.com"}, {Value: "https://example.com/Path"}, {Value: "192.0.2.7"},
			{Value: "a.example.com"}, {Value: "B.EXAMPLE.com"}, {Value: "ops@EXAMPLE.com"},
			{Value: "HTTPS://example.com/path"}, {Value: "2001:DB8::1"}, {Value: "2001:db8:0::1"},
			{Value: "::ffff:192.0.2.7"}, {Value: "dev@example.com"}, {Value: "a.example.com"},
		},
	})
	want := []string{
		"1:Ops@example.com", "2:b.example.com", "6:https://example.com/Path", "7:192.0.2.7",
		"2:a.example.com", "7:2001:db8::1", "1:dev@example.com",
	}
	if got := namesOf(t, r); !slices.Equal(got, want) {
		t.Errorf("names\n%q\nwant\n%q", got, want)
	}
	if len(r.Subject.Names) != 1 {
		t.Errorf("subject %s: the e-mail address belongs among the names", r.Subject)
	}
}

func TestAltNameCount(t *testing.T) {
	t.Parallel()
	names := make([]pkcs10.AltName, 101)
	for i := range names {
		names[i].Value = fmt.Sprintf("h%d.example.com", i)
	}
	r := build(t, pkcs10.Spec{Email: "ops@example.com", AltNames: names[:100]})
	if got := len(namesOf(t, r)); got != 101 {
		t.Errorf("%d names, want 100 and the e-mail address", got)
	}
	names[7].Value = "not a name" // not reported: too many are not looked at
	_, _, err := resolve(pkcs10.Spec{AltNames: names})
	want := pkcs10.Violation{Field: pkcs10.SubjectAltName, Rule: pkcs10.TooMany, Limit: "100"}
	if vs := violationsOf(t, err); !slices.Equal(vs, []pkcs10.Violation{want}) {
		t.Errorf("violations %+v, want %+v", vs, want)
	}
}

func FuzzAltName(f *testing.F) {
	for _, seed := range []string{
		"example.com", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:1.2.3.4", "a@b", `"a@b"@c`, "a@[IPv6:::1]",
		"https://u@h:1/p?q#f", "https://[::1]:443/", "urn:uuid:x", "urn:", "x://", "10.0.0.300", "*.example.com",
		"a\x00b", "ü.example", "host:443", "", "-", "https://h/%zz", "%", "https://h:/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, kind := range []pkcs10.AltNameKind{pkcs10.ByContent, pkcs10.DNSName, pkcs10.IPAddress, pkcs10.Mailbox, pkcs10.URI} {
			spec := pkcs10.Spec{AltNames: []pkcs10.AltName{{Kind: kind, Value: value}, {Kind: kind, Value: value}}}
			if _, _, err := resolve(spec); err != nil {
				checkSentences(t, violationsOf(t, err))
				continue
			}
			// What is accepted is read back by crypto/x509, is one name, and
			// is the bytes that were given.
			names := namesOf(t, build(t, spec))
			if len(names) != 1 {
				t.Fatalf("%q: names %q", value, names)
			}
			tag, got, _ := strings.Cut(names[0], ":")
			if tag == "7" {
				if addr, err := netip.ParseAddr(value); err != nil || addr.Unmap().String() != got {
					t.Fatalf("%q: address %s", value, got)
				}
			} else if got != value {
				t.Fatalf("%q: name %q", value, got)
			}
			for _, c := range []byte(value) {
				if c < ' ' || c > '~' {
					t.Fatalf("%q was accepted", value)
				}
			}
		}
	})
}

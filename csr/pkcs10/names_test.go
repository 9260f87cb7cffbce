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
	"attestcsr/test/kit"
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

// resultOf is what becomes of one name: "tag:value", or the rule that it breaks.
func resultOf(t *testing.T, name pkcs10.AltName) string {
	t.Helper()
	spec := pkcs10.Spec{AltNames: []pkcs10.AltName{name}}
	if _, _, err := resolve(spec); err != nil {
		vs := violationsOf(t, err)
		kit.CheckSentences(t, vs)
		if len(vs) != 1 || vs[0].Field != pkcs10.SubjectAltName {
			t.Fatalf("violations %+v", vs)
		}
		return string(vs[0].Rule)
	}
	return strings.Join(namesOf(t, build(t, spec)), " ")
}

const (
	label63 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	dns253  = label63 + "." + label63 + "." + label63 + "." + "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// altNamesByContent are names by the tag that they get, or by the rule that they
// break.
func altNamesByContent() map[string][]string {
	uri := func(n int) string { return "https://h/" + strings.Repeat("p", n-len("https://h/")) }
	return map[string][]string{
		"1": {"ops@example.com"},
		"2": {"esx-01.example.com", "ESX-01.Example.COM", "localhost", "3com.example", "xn--mller-kva.example", label63 + ".example", dns253, "0x7f000001"},
		"6": {
			"https://example.com/a/b?c=d#e", "HTTPS://Example.COM:0443/%7Ea/../b", "spiffe://example.org/ns/prod", "ssh://git@example.com/x",
			"https://192.0.2.1/", "https://[2001:db8::1]:8443/", uri(2048), "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "URN:ISBN:0451450523", "urn:example:a@b",
		},
		"7": {"192.0.2.1", "2001:db8::1"},
		"not_a_name": {
			label63 + "a.example", "example.com.", ".example.com", "example..com", "*.example.com", "a_b.example.com", "-a.example.com", "a-.example.com",
			"example.123", "10.0.0.300", "127.1", "010.0.0.1", " ", "example.com ", "example.com\x00.evil.test", "example.com\nDNS:evil.test",
			"example.com,DNS:evil.test", "müller.example", "example。com", "\xff\xfe", "esx-01.example.com:443", "localhost:8080", "//example.com",
			"192.0.2.0/24", "2001:db8::/32", "[2001:db8::1]", "192.0.2.1:443", "1x://example.com",
		},
		"too_long":          {dns253 + "b", uri(2049)},
		"empty_item":        {""},
		"not_an_ip_address": {"fe80::1%eth0"},
		"not_a_mailbox":     {"ops@", "mailto:ops@example.com"},
		"not_a_uri": {
			"https://", "file:///etc/passwd", "https://a_b/", "https://10.0.0.300/", "https://[192.0.2.1]/", "https://[2001:db8::1/", "https://[fe80::1%25eth0]/",
			"https://good@evil@example.com/", "https://example.com:80a/", "https://example.com/a b", "https://example.com/%zz", "https://example.com/%4",
			`https://example.com\@evil.test/`, "https://example.com/#a#b", "https://example.com/ü", "https://example.com/\x00",
			"urn:uuid:", "urn::x", "urn:x:y", "urn:",
		},
	}
}

func TestAltNameByContent(t *testing.T) {
	t.Parallel()
	for want, values := range altNamesByContent() {
		for _, value := range values {
			wanted := want
			if len(want) == 1 { // a tag
				wanted += ":" + value
			}
			if got := resultOf(t, pkcs10.AltName{Value: value}); got != wanted {
				t.Errorf("%q: %s, want %s", value, got, wanted)
			}
		}
	}
	for value, want := range map[string]string{"2001:0DB8:0:0:0:0:0:1": "7:2001:db8::1", "::ffff:192.0.2.1": "7:192.0.2.1"} {
		if got := resultOf(t, pkcs10.AltName{Value: value}); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestAltNameOfGivenKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind        pkcs10.AltNameKind
		value, want string
	}{
		{pkcs10.DNSName, "example.com", "2:example.com"},
		{pkcs10.DNSName, "192.0.2.1", "not_a_dns_name"},
		{pkcs10.DNSName, "a@example.com", "not_a_dns_name"},
		{pkcs10.IPAddress, "::1", "7:::1"},
		{pkcs10.IPAddress, "example.com", "not_an_ip_address"},
		{pkcs10.IPAddress, "", "empty_item"},
		{pkcs10.Mailbox, "a@example.com", "1:a@example.com"},
		{pkcs10.Mailbox, "example.com", "not_a_mailbox"},
		{pkcs10.URI, "x://y", "6:x://y"},
		{pkcs10.URI, "example.com", "not_a_uri"},
	} {
		if got := resultOf(t, pkcs10.AltName{Kind: c.kind, Value: c.value}); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.kind, c.value, got, c.want)
		}
	}
}

func TestMailbox(t *testing.T) {
	t.Parallel()
	local64 := strings.Repeat("l", 64)
	whole254 := local64 + "@" + strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 61)
	for rule, values := range map[pkcs10.Rule][]string{
		"": {
			"ops@example.com", "!#$%&'*+-/=?^_`{|}~aZ09@example.com", "a.b.c@example.com", "root@localhost", `"a b"@example.com`, `"a\"b\\"@example.com`,
			`"a@b"@example.com`, "ops@[192.0.2.1]", "ops@[IPv6:2001:db8::1]", local64 + "@example.com", whole254,
		},
		pkcs10.TooLong: {whole254 + "c"},
		pkcs10.NotAMailbox: {
			local64 + "l@example.com", "example.com", "@example.com", "ops@", "a@b@example.com", ".a@example.com", "a.@example.com", "a..b@example.com",
			"a b@example.com", " a@example.com", "Ops <ops@example.com>", "ops(x)@example.com", "müller@example.com", "a@müller.example", "a@example.com.",
			"a@ex_ample.com", "a@192.0.2.1", "a@[2001:db8::1]", "a@[IPv6:192.0.2.1]", "a@[IPv6:fe80::1%eth0]", "a@[192.0.2.1", "a@[]", `"a@example.com`,
			`"a"b"@example.com`, `"a\"@example.com`, "a\x00@example.com", "a@example.com\r\nBcc: b@example.com", "\"a\tb\"@example.com",
		},
	} {
		for _, value := range values {
			spec := pkcs10.Spec{Email: value}
			_, _, err := resolve(spec)
			vs := violationsOf(t, err)
			switch {
			case rule != "" && (len(vs) != 1 || vs[0].Field != pkcs10.EmailAddress || vs[0].Rule != rule):
				t.Errorf("%q: violations %+v, want %s", value, vs, rule)
			case rule == "" && (err != nil || !slices.Equal(namesOf(t, build(t, spec)), []string{"1:" + value})):
				t.Errorf("%q: error %v, or another name", value, err)
			}
		}
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
				kit.CheckSentences(t, violationsOf(t, err))
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

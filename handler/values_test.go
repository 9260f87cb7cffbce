package handler_test

import (
	"fmt"
	"net"
	"strings"
)

// attribute is the value of an attribute and how it is encoded; bound 0 is a
// country.
func (g generator) attribute(bound int) (value, encoded string) {
	if bound == 0 {
		value = pick(g, "DE", "us", "gB", "Jp", "ZA", "io", "ax")
		return value, strings.ToUpper(value)
	}
	value = g.text(bound)
	return value, value
}

// text is 1 to bound characters, of any script and as hostile as is allowed.
func (g generator) text(bound int) string {
	n := pick(g, 1, 2, bound-1, bound, bound, 1+g.IntN(bound), 1+g.IntN(bound))
	switch g.IntN(8) {
	case 0:
		return g.chars(n, func() rune { return rune("abcXYZ019 '()+,-./:=?"[g.IntN(21)]) }) // PrintableString
	case 1:
		return g.chars(n, func() rune { return rune(0x20 + g.IntN(0x5f)) })
	case 2:
		return g.chars(n, func() rune {
			return pick(g, '"', '\\', ',', '+', '=', '<', '>', ';', '#', ' ', '/', '*', '@', '&', '%', '$', '`', '{')
		})
	case 3: // blanks at the ends, and what begins a hexadecimal value in RFC 4514
		inner := g.chars(max(0, n-2), func() rune { return rune('a' + g.IntN(26)) })
		return cut(pick(g, " ", "#", "  ", `\`)+inner+pick(g, " ", `\`, "="), n)
	case 4: // what is shown as one character and is many
		return cut(strings.Repeat(pick(g, "e\u0301", "👩\u200d🔬", "🇩🇪", "\u0d28\u0d4d\u200d", "☺\ufe0f", "a\u0345\u0300"), n), n)
	case 5:
		return g.chars(n, func() rune { return pick(g, 'א', 'ש', 'ع', 'م', '0', 'a', ' ', '\u0651', '\u200c') }) // right-to-left scripts
	case 6:
		return g.chars(n, func() rune {
			return pick(g, 'ſ', 'K', 'İ', 'ß', '\u00ad', '\u00a0', '\u3000', '\ufeff', '\ufffe', '\uffff', '\ue000', '\U0001fffe', '\U000e0041', '\U0010ffff', '\u0301', '\u200b', '。')
		})
	}
	return g.chars(n, g.character)
}

func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}

func (g generator) chars(n int, one func() rune) string {
	r := make([]rune, n)
	for i := range r {
		r[i] = one()
	}
	return string(r)
}

// character is any of Unicode, in all planes and all lengths of UTF-8, that does
// not mislead.
func (g generator) character() rune {
	for {
		r := pick(g, rune(g.IntN(0x80)), rune(g.IntN(0x800)), rune(g.IntN(0x10000)), rune(g.IntN(0x110000)))
		if (r < 0xd800 || r > 0xdfff) && !strings.ContainsRune(misleading(), r) {
			return r
		}
	}
}

func misleadingSpans() [][2]rune {
	return [][2]rune{{0, 0x1f}, {0x7f, 0x9f}, {0x61c, 0x61c}, {0x200e, 0x200f}, {0x2028, 0x2029}, {0x202a, 0x202e}, {0x2066, 0x2069}, {0xfffd, 0xfffd}}
}

// misleading lists the characters that a subject may not hold: C0, DEL and C1,
// those that change the direction of text (the property Bidi_Control), the separators of
// lines and paragraphs, and what stands for a character that was lost.
func misleading() string {
	var all []rune
	for _, span := range misleadingSpans() {
		for r := span[0]; r <= span[1]; r++ {
			all = append(all, r)
		}
	}
	return string(all)
}

// badAttribute is a value that breaks a rule.
func (g generator) badAttribute(bound int) string {
	if bound == 0 {
		return pick(g, "XX", "UK", "U", "USA", "uſ", " D", "D ", "ＤＥ", "D\n", "\x00\x00", "XK", "EU")
	}
	switch g.IntN(4) {
	case 0:
		return g.chars(bound+1, g.character)
	case 1:
		return ""
	case 2:
		return strings.Repeat("l", 5000)
	}
	span := pick(g, misleadingSpans()...)
	inner := []rune(g.text(bound))
	inner[g.IntN(len(inner))] = span[0] + rune(g.IntN(int(span[1]-span[0])+1))
	return string(inner)
}

func (g generator) label(n int) string {
	const inner = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	b := make([]byte, n)
	for i := range b {
		b[i] = inner[g.IntN(len(inner))]
	}
	for _, end := range []int{0, n - 1} {
		b[end] = inner[g.IntN(52)] // a letter
	}
	// Of ACE labels only what is in the list of whole names: random ones are none.
	if len(b) > 3 && b[2] == '-' && b[3] == '-' {
		b[2] = 'x'
	}
	return string(b)
}

func (g generator) dnsName() string {
	switch g.IntN(8) {
	case 0:
		return strings.Join([]string{g.label(63), g.label(63), g.label(63), g.label(61)}, ".") // 253
	case 1:
		return strings.Repeat("a.", 126) + "b" // 253, of the most labels
	case 2:
		return pick(g, "xn--mller-kva.example", "XN--MLLER-KVA.Example", "xn--maana-pta.com", "localhost", "3com.example", "0x7f000001", "1.2.3.4a", "a--b.example")
	}
	labels := make([]string, 1+g.IntN(4))
	for i := range labels {
		labels[i] = g.label(pick(g, 1, 2, 63, 1+g.IntN(20)))
	}
	if name := strings.Join(labels, "."); len(name) <= 253 {
		return name
	}
	return labels[0]
}

func (g generator) badDNSName() string {
	if g.oneIn(4) { // one more than there may be: in all, or in a label
		return pick(g, strings.Repeat("a.", 126)+"bc", g.label(64)+".example")
	}
	return pick(g, "*.example.com", "example.com.", ".example.com", "a..b", "-a.example", "a-.example", "a_b.example", "10.0.0.300", "example.123",
		"host:443", "a b", " a", "a\x00b", "a\nb", "müller.example", "example。com", "[::1]", "192.0.2.0/24", "a,DNS:b", "\u202ea")
}

func (g generator) dnsAltName() (string, wantedName) {
	name := g.dnsName()
	return name, wantedName{dnsTag, name}
}

// address is an IP address in one of its spellings.
func (g generator) address() (string, wantedName) {
	if g.oneIn(3) {
		ip := net.IPv4(byte(g.IntN(256)), byte(g.IntN(256)), byte(g.IntN(256)), byte(g.IntN(256))).To4()
		text := ip.String()
		if g.oneIn(3) { // mapped into IPv6 it is the same address
			text = pick(g, "::ffff:", "0:0:0:0:0:FFFF:") + text
		}
		return text, wantedName{ipTag, string(ip)}
	}
	ip := make(net.IP, 16)
	for i := range ip {
		ip[i] = byte(g.IntN(256)) * byte(g.IntN(2))
	}
	ip[0] |= 0x20 // not one that is mapped
	var groups [8]string
	for i := range groups {
		groups[i] = fmt.Sprintf("%x", int(ip[2*i])<<8|int(ip[2*i+1]))
	}
	full := strings.Join(groups[:], ":")
	dotted := strings.Join(groups[:6], ":") + ":" + ip[12:].String()
	return pick(g, full, strings.ToUpper(full), ip.String(), dotted), wantedName{ipTag, string(ip)}
}

func (g generator) mailbox() string {
	atom := g.chars(1+g.IntN(20), func() rune {
		return pick(g, 'a', 'Z', '0', '!', '#', '$', '%', '&', '\'', '*', '+', '-', '/', '=', '?', '^', '_', '`', '{', '|', '}', '~')
	})
	quotedPart := g.chars(1+g.IntN(20), func() rune { return pick(g, 'a', ' ', ',', '@', ':', ';', '<', '>', '(', '.', '#') })
	domain := g.label(63) + "." + g.label(63) + "." + g.label(61)
	switch g.IntN(8) {
	case 0:
		return `"` + quotedPart + pick(g, "", `\"`, `\\`) + `"@` + g.label(3) + ".example"
	case 1:
		return strings.Repeat("l", 64) + "@" + domain // 254
	case 2:
		return atom + pick(g, "@[192.0.2.1]", "@[IPv6:2001:db8::1]", "@[ipv6:::]")
	case 3:
		return atom + "." + atom + "@localhost"
	}
	return atom + "@" + g.label(1+g.IntN(10)) + ".example"
}

func (g generator) badMailbox() string {
	if g.oneIn(4) { // 65 before the @, or 255 in all
		return pick(g, strings.Repeat("l", 65)+"@b.c", strings.Repeat("l", 64)+"@"+strings.Repeat("a.", 94)+"bb")
	}
	return pick(g, "nobody", "@example.com", "a@", "a@b@c", ".a@b.c", "a b@c.d", "müller@example.com", "a@müller.example", "a@10.0.0.1", "a@b.c\r\nBcc: x@y.z",
		"a\x00@b.c", "Ops <a@b.c>", "a@[fe80::1]", "a@b.c,d@e.f", `"a@b.c`)
}

func (g generator) uri() string {
	odd := g.chars(g.IntN(30), func() rune {
		return pick(g, 'a', '/', '?', '-', '.', '_', '~', '!', '$', '&', '\'', '(', ')', '*', '+', ',', ';', '=', ':', '@')
	})
	switch g.IntN(8) {
	case 0:
		return "urn:" + g.label(32) + ":a" + odd
	case 1:
		return pick(g, "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "URN:ISBN:0451450523", "urn:oid:1.3.6.1")
	case 2:
		return "https://h/" + strings.Repeat("p", 2048-len("https://h/"))
	case 3:
		return "https://[2001:db8::1]:443/" + odd
	case 4:
		return "https://us%65r:p,w@192.0.2.1:0/" + odd + "#frag/?"
	}
	return pick(g, "https", "HTTP", "spiffe", "a+b-c.d") + "://" + g.label(1+g.IntN(20)) + ".example" + pick(g, "", "/", "/%7Ea/../b", "?q,DNS:evil.test", "/"+odd)
}

// altName is a name of any kind that is told by its content.
func (g generator) altName() (string, wantedName) {
	switch g.IntN(4) {
	case 0:
		return g.dnsAltName()
	case 1:
		return g.address()
	case 2:
		value := g.mailbox()
		return value, wantedName{mailTag, value}
	}
	value := g.uri()
	return value, wantedName{uriTag, value}
}

func (g generator) badAltName() string {
	bad := g.badMailbox()
	if !strings.Contains(bad, "@") { // which would be a DNS name
		bad = ""
	}
	return pick(g, g.badDNSName(), bad, "", "https://", "file:///etc/passwd", "https://a_b/", "https://10.0.0.300/", "https://example.com/a b", "https://example.com/%zz",
		`https://example.com\@evil.test/`, "https://example.com/ü", "https://h/"+strings.Repeat("p", 2039), "urn:", "urn:x:y", "urn:"+g.label(33)+":a", "fe80::1%eth0")
}

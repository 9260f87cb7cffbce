package pkcs10

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// flaw says what is wrong with a name that was refused, as what follows "must" in a
// sentence. It does not decide whether a name is accepted: resolve has done so. It is
// empty where nothing better can be said than the whole rule. The caller has bounded the
// length of the name.
func (a AltName) flaw() string {
	kind := cmp.Or(a.Kind, kindOf(a.Value))
	if text := cmp.Or(textFlaw(a.Value), severalFlaw(kind, a.Value)); text != "" {
		return text
	}
	switch kind {
	case Mailbox:
		return mailboxFlaw(a.Value)
	case URI:
		return uriFlaw(a.Value)
	case IPAddress:
		return addressFlaw(a.Value)
	}
	if a.Kind == DNSName {
		switch kindOf(a.Value) {
		case IPAddress:
			return "be a DNS name and not an IP address"
		case Mailbox:
			return "be a DNS name and not an e-mail address"
		case URI:
			return "be a DNS name and not a URI"
		}
	}
	return cmp.Or(addressFlaw(a.Value), dnsNameFlaw(a.Value))
}

// textFlaw finds what has no place in a name of any kind.
func textFlaw(s string) string {
	label := labelOf(s)
	switch {
	case !utf8.ValidString(s):
		return "be valid UTF-8"
	case strings.ContainsRune(s, unicode.ReplacementChar):
		return "not have U+FFFD, which stands for text that was lost"
	case strings.TrimSpace(s) != s:
		return "not have blanks at its ends"
	case len(s) > 1 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0]:
		return "not have quotation marks around it"
	case label != "":
		return "be without " + strconv.Quote(label) + " before it"
	}
	return ""
}

// labelOf returns what OpenSSL, certreq and others want before a name: "DNS:", "IP:" or
// "DNS.1 =". It is empty for a name without that.
func labelOf(s string) string {
	i := strings.IndexAny(s, ":=")
	if i < 0 || strings.HasPrefix(s[i+1:], "//") || all(s[i+1:], isDigit) {
		return "" // a URI, or a host and a port
	}
	switch strings.ToLower(strings.TrimRight(s[:i], "0123456789. ")) {
	case "dns", "dnsname", "ip", "ip address", "ipaddress", "uri", "url", "email", "e-mail", "mail", "mailto", "rfc", "rfc822name", "dirname", "othername", "rid", "upn":
		return s[:i+1]
	}
	return ""
}

// severalFlaw finds several names in one text.
func severalFlaw(kind AltNameKind, s string) string {
	const one = "be one name, without blanks, commas and semicolons"
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' || unicode.IsSpace(r) })
	switch several := len(parts) > 1; {
	case kind == Mailbox && strings.ContainsAny(s, `"<`):
		return ""
	case kind != URI && several:
		return one
	case several: // a path may have commas and semicolons
		_, authority, rest := cutURI(s)
		if strings.Contains(rest, "://") || strings.ContainsAny(authority, ",;") {
			return one
		}
	}
	if strings.ContainsFunc(s, IsControlOrBidi) {
		return "not have control or text direction characters"
	}
	return ""
}

func addressFlaw(s string) string {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		return "not have brackets around an IP address"
	}
	if address, _, ok := strings.Cut(s, "/"); ok && isAddress(address) {
		return "be one address, without a prefix length"
	}
	if isAddress(s) {
		return "not have a zone in an IP address"
	}
	if host, port, ok := cutPort(s); ok && port != "" && all(port, isDigit) && (strings.HasSuffix(host, "]") || !strings.Contains(host, ":")) {
		return "not have a port"
	}
	if strings.Count(s, ":") > 1 && all(s, func(c byte) bool { return isHex(c) || c == ':' || c == '.' }) {
		return "be a well-formed IPv6 address (RFC 4291)"
	}
	numbers := strings.Split(s, ".")
	if len(numbers) == 1 || !all(s, func(c byte) bool { return isDigit(c) || c == '.' }) || strings.Contains("."+s+".", "..") {
		return ""
	}
	if len(numbers) != 4 {
		return "have four numbers in an IPv4 address"
	}
	for _, n := range numbers {
		if n[0] == '0' && n != "0" {
			return "not have leading zeros in an IPv4 address"
		}
	}
	return "have numbers from 0 to 255 in an IPv4 address"
}

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func dnsNameFlaw(s string) string {
	switch {
	case strings.Contains(s, "*"):
		return "not have a wildcard in a DNS name"
	case strings.Contains(s, "_"):
		return "not have an underscore in a DNS name"
	case !isASCII(s):
		// The Lookup profile maps as browsers do, so that the form is the one that
		// clients ask for.
		if ascii, err := idna.Lookup.ToASCII(s); err == nil && isDNSName(ascii) {
			return "be in ASCII, as " + ascii
		}
		return "be in ASCII"
	case strings.HasSuffix(s, "."):
		return "not end with a dot"
	case strings.HasPrefix(s, "."):
		return "not begin with a dot"
	case strings.Contains(s, ".."):
		return "not have two dots in a row in a DNS name"
	case len(s) > maxDNSName:
		return "have at most " + strconv.Itoa(maxDNSName) + " characters in a DNS name"
	}
	for label := range strings.SplitSeq(s, ".") {
		switch foreign := strings.IndexFunc(label, func(r rune) bool { return !isLabel(string(r)) && r != '-' }); {
		case foreign >= 0:
			return "not have " + strconv.Quote(label[foreign:foreign+1]) + " in a DNS name"
		case len(label) > maxDNSLabel:
			return "have at most " + strconv.Itoa(maxDNSLabel) + " characters in each label of a DNS name"
		case !isLabel(label):
			return "not have a hyphen at the beginning or end of a label"
		}
	}
	return "not have a last label of digits alone in a DNS name"
}

func mailboxFlaw(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "have an @ and a domain"
	}
	local, domain := s[:at], s[at+1:]
	switch {
	case strings.HasSuffix(s, ">"):
		return "be the address alone, without a name and angle brackets"
	case local == "":
		return "have a local part before the @"
	case domain == "":
		return "have a domain after the @"
	case len(local) > maxLocalPart:
		return "have at most " + strconv.Itoa(maxLocalPart) + " characters before the @"
	case !isASCII(local):
		return "be in ASCII before the @"
	case isQuotedString(local) || isDotString(local):
	case strings.HasPrefix(local, `"`):
		return "have a well-formed quoted string before the @ (RFC 5321)"
	case strings.Contains(local, "@"):
		return "have one @"
	case strings.Contains("."+local+".", ".."):
		return "not have a dot at the ends of the part before the @, nor two in a row"
	default:
		return "have only letters, digits, dots and !#$%&'*+-/=?^_`{|}~ before the @"
	}
	switch {
	case strings.HasPrefix(domain, "["):
		return "have in brackets an IPv4 address, or IPv6: and an IPv6 address"
	case isAddress(domain):
		return "have brackets around an IP address after the @"
	}
	return dnsNameFlaw(domain)
}

func uriFlaw(s string) string {
	if hasURNScheme(s) {
		return "be a URN like urn:namespace:name (RFC 8141)"
	}
	scheme, authority, rest := cutURI(s)
	switch {
	case !isScheme(scheme) || !strings.Contains(s, "://"): // the kind was given
		return ""
	case strings.ContainsFunc(s, unicode.IsSpace):
		return "not have blanks: %20 stands for one"
	case !isAuthority(authority):
		return authorityFlaw(authority)
	}
	return uriTextFlaw(rest)
}

func authorityFlaw(s string) string {
	user, host, hasUser := strings.Cut(s, "@")
	if !hasUser {
		user, host = "", s
	}
	if address, err := netip.ParseAddr(host); err == nil && address.Is6() {
		return "have brackets around an IPv6 address"
	}
	host, port, _ := cutPort(host)
	switch {
	case strings.Contains(host, "@"):
		return "have at most one @ before the host"
	case !isURIText(user):
		return uriTextFlaw(user)
	case !all(port, isDigit) || len(port) > 5:
		return "have at most five digits as port"
	case host == "":
		return "have a host after ://"
	case strings.HasPrefix(host, "["):
		return "have an IPv6 address without zone in the brackets"
	}
	return cmp.Or(addressFlaw(host), dnsNameFlaw(host))
}

func uriTextFlaw(s string) string {
	switch {
	case !isASCII(s):
		return "be in ASCII, with other characters percent-encoded"
	case strings.Count(s, "#") > 1:
		return "have at most one #"
	case isURIText(strings.ReplaceAll(s, "%", "")):
		return "have two hexadecimal digits after each %"
	}
	return "have only the characters of a URI (RFC 3986), others percent-encoded"
}

func isASCII(s string) bool { return all(s, func(c byte) bool { return c < utf8.RuneSelf }) }

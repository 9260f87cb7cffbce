package pkcs10

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of names, in characters unless they say otherwise.
const (
	defaultAltNames = 100 // entries
	maxMailbox      = 254 // RFC 5321 section 4.5.3.1.3, without the angle brackets
	maxLocalPart    = 64  // RFC 5321 section 4.5.3.1.1
	maxDNSName      = 253 // RFC 1035 section 2.3.4, as text
	maxDNSLabel     = 63  // RFC 1035 section 2.3.4
	maxURI          = 2048
	maxURNNamespace = 32 // RFC 8141 section 2
)

// AltName is one subject alternative name. With the kind ByContent, the value decides:
// with a scheme and "://", or "urn:", it is a URI; with an @ an e-mail address; if it
// can be read as an IP address, that; else a DNS name.
type AltName struct {
	Kind  AltNameKind `json:"kind,omitzero"`
	Value string      `json:"value"`
}

// AltNameKind is the kind of a subject alternative name. It is part of the stored
// format.
type AltNameKind string

// The kinds of names. RFC 5280 section 4.2.1.6 has more; nobody asks for them.
const (
	ByContent AltNameKind = ""
	DNSName   AltNameKind = "dns"
	IPAddress AltNameKind = "ip"
	Mailbox   AltNameKind = "email"
	URI       AltNameKind = "uri"
)

// The context-specific tags of GeneralName, RFC 5280 section 4.2.1.6.
const (
	tagRFC822Name = 1
	tagDNSName    = 2
	tagURI        = 6
	tagIPAddress  = 7
)

// generalName is a name as it is encoded.
type generalName struct {
	tag   uint8
	bytes string
}

// generalNames returns the names of the extension in order, the e-mail address first,
// and reports the rules that they break.
func (s Spec) generalNames(broken *Violations) []generalName {
	var names []generalName
	seen := map[generalName]bool{}
	add := func(field Field, a AltName) {
		name, broke := a.resolve()
		if broke != nil {
			broke.Field = field
			broken.Add(*broke)
			return
		}
		folded := name
		if name.tag != tagIPAddress {
			folded.bytes = strings.ToLower(name.bytes)
		}
		if !seen[folded] {
			seen[folded] = true
			names = append(names, name)
		}
	}

	if s.Email != "" {
		add(EmailAddress, AltName{Mailbox, s.Email})
	}
	if limit := cmp.Or(s.MaxAltNames, defaultAltNames); len(s.AltNames) > limit {
		broken.Add(Violation{Field: SubjectAltName, Rule: TooMany, Limit: strconv.Itoa(limit)})
		return names
	}
	for _, a := range s.AltNames {
		add(SubjectAltName, a)
	}
	return names
}

// resolve returns the name as it is encoded, or the rule that it breaks.
func (a AltName) resolve() (generalName, *Violation) {
	kind, otherwise := a.Kind, NotADNSName
	if kind == ByContent {
		kind, otherwise = kindOf(a.Value), NotAName
	}
	switch {
	case a.Value == "":
		return generalName{}, &Violation{Rule: EmptyItem}
	case kind == Mailbox:
		return a.ia5(tagRFC822Name, maxMailbox, isMailbox, NotAMailbox)
	case kind == URI:
		return a.ia5(tagURI, maxURI, isURI, NotAURI)
	case kind == IPAddress:
		addr, err := netip.ParseAddr(a.Value)
		if err != nil || addr.Zone() != "" {
			return generalName{}, &Violation{Rule: NotAnIPAddress, Value: a.Value, Limit: a.flaw()}
		}
		// Verifiers treat an IPv4 address mapped into IPv6 as the IPv4 address.
		return generalName{tagIPAddress, string(addr.Unmap().AsSlice())}, nil
	}
	return a.ia5(tagDNSName, maxDNSName, isDNSName, otherwise)
}

// ia5 returns a name whose encoding is its text. The length is checked first: it bounds
// the time of the other checks.
func (a AltName) ia5(tag uint8, bound int, ok func(string) bool, otherwise Rule) (generalName, *Violation) {
	if n := len(a.Value); n > bound {
		return generalName{}, &Violation{Rule: TooLong, Value: a.Value, Limit: strconv.Itoa(bound), Cause: "it has " + strconv.Itoa(n) + " bytes"}
	}
	if !ok(a.Value) {
		return generalName{}, &Violation{Rule: otherwise, Value: a.Value, Limit: a.flaw()}
	}
	return generalName{tag, a.Value}, nil
}

func kindOf(value string) AltNameKind {
	scheme, _, hasAuthority := strings.Cut(value, "://")
	switch {
	case hasAuthority && isScheme(scheme), hasURNScheme(value):
		return URI
	case strings.Contains(value, "@"):
		return Mailbox
	}
	if _, err := netip.ParseAddr(value); err == nil {
		return IPAddress
	}
	return DNSName
}

// isDNSName follows RFC 1123 section 2.1: letters, digits and inner hyphens. It refuses
// a last label of digits alone: such a text is an IPv4 address, or a wrong one.
func isDNSName(s string) bool {
	if len(s) > maxDNSName {
		return false
	}
	var last string
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) || len(label) > maxDNSLabel {
			return false
		}
		last = label
	}
	return !all(last, isDigit)
}

// isLabel: letters, digits and inner hyphens.
func isLabel(s string) bool {
	return s != "" && s[0] != '-' && s[len(s)-1] != '-' &&
		all(s, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '-' })
}

// isMailbox follows the Mailbox of RFC 5321 section 4.1.2 without source routes
// and without address literals of kinds that nobody has registered.
func isMailbox(s string) bool {
	// A quoted local part may hold an @, a domain never does.
	at := strings.LastIndexByte(s, '@')
	if at < 0 || at > maxLocalPart {
		return false
	}
	local, domain := s[:at], s[at+1:]
	if !isDotString(local) && !isQuotedString(local) {
		return false
	}
	if literal, ok := strings.CutPrefix(domain, "["); ok {
		literal, ok = strings.CutSuffix(literal, "]")
		return ok && isAddressLiteral(literal)
	}
	return isDNSName(domain)
}

func isAddressLiteral(s string) bool {
	const tag = "IPv6:"
	six := len(s) > len(tag) && strings.EqualFold(s[:len(tag)], tag)
	if six {
		s = s[len(tag):]
	}
	addr, err := netip.ParseAddr(s)
	return err == nil && addr.Zone() == "" && addr.Is6() == six
}

func isDotString(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" || !all(atom, func(c byte) bool {
			return isLetter(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
		}) {
			return false
		}
	}
	return true
}

func isQuotedString(s string) bool {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return false
	}
	escaped := false
	for _, c := range []byte(s[1 : len(s)-1]) {
		if c < ' ' || c > '~' || c == '"' && !escaped {
			return false
		}
		escaped = c == '\\' && !escaped
	}
	return !escaped
}

// isURI takes the URIs of RFC 3986 that have a host, which RFC 5280 section
// 4.2.1.6 wants to be a domain name or an IP address, and URNs.
func isURI(s string) bool {
	if hasURNScheme(s) {
		namespace, specific, ok := strings.Cut(s[len("urn:"):], ":")
		return ok && isLabel(namespace) && len(namespace) >= 2 && len(namespace) <= maxURNNamespace &&
			specific != "" && strings.IndexByte("/?#", specific[0]) < 0 && isURIText(specific)
	}
	scheme, authority, rest := cutURI(s)
	return isScheme(scheme) && isAuthority(authority) && isURIText(rest)
}

// cutURI splits a URI before its ://, and before its path, query or fragment. In a SPIFFE
// ID, whose trust domain may have underscores (SPIFFE-ID section 2.1), it replaces those
// by letters: the authority is for checks alone.
func cutURI(s string) (scheme, authority, rest string) {
	scheme, authority, _ = strings.Cut(s, "://")
	if i := strings.IndexAny(authority, "/?#"); i >= 0 {
		authority, rest = authority[:i], authority[i:]
	}
	if strings.EqualFold(scheme, "spiffe") {
		authority = strings.ReplaceAll(authority, "_", "x")
	}
	return scheme, authority, rest
}

// isAuthority: RFC 3986 section 3.2, with at most one @ and a host.
func isAuthority(s string) bool {
	if user, host, ok := strings.Cut(s, "@"); ok {
		if !isURIText(user) {
			return false
		}
		s = host
	}
	if host, port, ok := cutPort(s); ok {
		if !all(port, isDigit) || len(port) > 5 {
			return false
		}
		s = host
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return ok && err == nil && addr.Is6() && addr.Zone() == ""
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Is4()
	}
	return isDNSName(s)
}

// cutPort splits at the last colon outside of brackets.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.IndexByte(s[i:], ']') >= 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// isURIText: the characters of path, query and fragment (RFC 3986 appendix A),
// with at most one #.
func isURIText(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case isLetter(c), isDigit(c), strings.IndexByte("-._~!$&'()*+,;=:@/?#", c) >= 0:
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			i += 2
		default:
			return false
		}
	}
	return strings.Count(s, "#") <= 1
}

func isScheme(s string) bool {
	return s != "" && isLetter(s[0]) && all(s, func(c byte) bool {
		return isLetter(c) || isDigit(c) || c == '+' || c == '-' || c == '.'
	})
}

func hasURNScheme(s string) bool {
	return len(s) >= len("urn:") && strings.EqualFold(s[:len("urn:")], "urn:")
}

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isHex(c byte) bool    { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

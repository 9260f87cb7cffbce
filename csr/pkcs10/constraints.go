package pkcs10

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// unjudged returns why a path cannot be judged: crypto/x509 leaves out some of what
// OpenSSL checks. No path is accepted that OpenSSL refuses.
func unjudged(path []*x509.Certificate) string {
	for i, c := range path {
		for _, id := range []asn1.ObjectIdentifier{
			{1, 3, 6, 1, 5, 5, 7, 1, 7}, {1, 3, 6, 1, 5, 5, 7, 1, 8}, // IP addresses and AS numbers, RFC 3779
			{1, 3, 6, 1, 5, 5, 7, 1, 14}, // proxy certificates, RFC 3820
		} {
			if extension(c, id) != nil {
				return "it has the extension " + id.String() + ", which is not judged here"
			}
		}
		constraints := extension(c, asn1.ObjectIdentifier{2, 5, 29, 30})
		if i == 0 || constraints == nil {
			continue
		}
		kinds, ok := constrainedKinds(constraints)
		if !ok {
			return quoted(DistinguishedName(c.RawSubject)) + " has name constraints that are not judged here"
		}
		for _, below := range path[:i] {
			if why := unjudgedNames(c, kinds, below); why != "" {
				return why
			}
		}
	}
	return ""
}

// unjudgedNames is unjudged for the names of one certificate and the constraints of a CA
// above it.
func unjudgedNames(ca *x509.Certificate, kinds []uint8, below *x509.Certificate) string {
	for _, n := range subjectAltNames(below) {
		if n.tag == 0 && slices.Contains(kinds, tagRFC822Name) {
			return "an alternative name of the kind otherName cannot be held to constraints of e-mail addresses"
		}
	}
	// crypto/x509 permits the hosts below a host too. RFC 5280 section 4.2.1.10 does not.
	for _, u := range below.URIs {
		if !permits(ca.PermittedURIDomains, strings.ToLower(u.Hostname())) {
			return "the URI " + quoted(u.String()) + " is not permitted"
		}
	}
	for _, address := range below.EmailAddresses {
		if !permits(ca.PermittedEmailAddresses, address) {
			return "the e-mail address " + quoted(address) + " is not permitted"
		}
	}
	return ""
}

// permits reports whether a host, or the address or the host of a mailbox, is one of those
// that are permitted. A name with a period first stands for the hosts below it.
func permits(permitted []string, name string) bool {
	host := strings.ToLower(name[strings.LastIndexByte(name, '@')+1:])
	return len(permitted) == 0 || slices.ContainsFunc(permitted, func(p string) bool {
		switch {
		case strings.Contains(p, "@"):
			at := strings.LastIndexByte(p, '@')
			return strings.HasPrefix(name, p[:at+1]) && strings.EqualFold(p[at+1:], host)
		case strings.HasPrefix(p, "."):
			return strings.HasSuffix(host, strings.ToLower(p)) && len(host) > len(p)
		}
		return strings.EqualFold(p, host)
	})
}

// constrainedKinds reads the kinds of names that name constraints (RFC 5280 section
// 4.2.1.10) are about. It is not ok if crypto/x509 does not know one of them.
func constrainedKinds(extension []byte) (kinds []uint8, ok bool) {
	value, body := cryptobyte.String(extension), cryptobyte.String(nil)
	if !value.ReadASN1(&body, cbasn1.SEQUENCE) {
		return nil, false
	}
	for !body.Empty() {
		var subtrees, subtree, base cryptobyte.String
		var tag cbasn1.Tag
		if !body.ReadAnyASN1(&subtrees, &tag) {
			return nil, false
		}
		for !subtrees.Empty() {
			// After the base, minimum and maximum would follow. Nobody may use them.
			if !subtrees.ReadASN1(&subtree, cbasn1.SEQUENCE) || !subtree.ReadAnyASN1(&base, &tag) || !subtree.Empty() {
				return nil, false
			}
			kind := uint8(tag) & 0x1f
			if !slices.Contains([]uint8{tagRFC822Name, tagDNSName, tagURI, tagIPAddress}, kind) {
				return nil, false
			}
			kinds = append(kinds, kind)
		}
	}
	return kinds, true
}

// withSubjectNames returns a certificate that has its e-mail addresses and host names of
// the subject among the alternative names too: name constraints are for them as well, and
// crypto/x509 does not look there. As with OpenSSL, common names count only for a leaf
// without DNS names.
func withSubjectNames(c *x509.Certificate) *x509.Certificate {
	with, more := *c, false
	for _, n := range c.Subject.Names {
		value, _ := n.Value.(string)
		switch attributeLabel(n.Type) {
		case "emailAddress":
			with.EmailAddresses, more = append(slices.Clip(with.EmailAddresses), value), true
		case string(CommonName):
			if len(c.DNSNames) == 0 && !c.IsCA && strings.Contains(value, ".") && all(value, isHostCharacter) {
				with.DNSNames, more = append(slices.Clip(with.DNSNames), value), true
			}
		}
	}
	if !more {
		return c
	}
	if extension(c, oidSubjectAltName()) == nil { // crypto/x509 looks for it
		with.Extensions = append(slices.Clip(with.Extensions), pkix.Extension{Id: oidSubjectAltName()})
	}
	return &with
}

func isHostCharacter(c byte) bool {
	return isLetter(c) || isDigit(c) || c == '-' || c == '_' || c == '.'
}

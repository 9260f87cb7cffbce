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
		if id := undecodable(c); id != nil {
			return quoted(DistinguishedName(c.RawSubject)) + " has an extension that cannot be decoded, " + id.String()
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

// undecodable returns the identifier of an extension that crypto/x509 does not decode, or
// not all of it, and that OpenSSL cannot decode.
func undecodable(c *x509.Certificate) asn1.ObjectIdentifier {
	for _, e := range c.Extensions {
		value := cryptobyte.String(e.Value)
		var content cryptobyte.String
		ok := true
		switch {
		case e.Id.Equal(oidKeyUsage()):
			ok = c.KeyUsage != 0 // RFC 5280 section 4.2.1.3: at least one
		case e.Id.Equal(oidSubjectAltName()):
			ok = value.ReadASN1(&content, cbasn1.SEQUENCE) && areGeneralNames(content)
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 31}):
			ok = areDistributionPoints(value)
		case e.Id.Equal(asn1.ObjectIdentifier{2, 16, 840, 1, 113730, 1, 1}): // Netscape certificate type
			var bits asn1.BitString
			ok = value.ReadASN1BitString(&bits) && value.Empty()
		}
		if !ok {
			return e.Id
		}
	}
	return nil
}

// areGeneralNames decodes GeneralNames (RFC 5280 section 4.2.1.6) of the kinds that are in
// use.
func areGeneralNames(list cryptobyte.String) bool {
	for !list.Empty() {
		var name, value cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&name, &tag) {
			return false
		}
		switch tag {
		case contextTag(tagRFC822Name), contextTag(tagDNSName), contextTag(tagURI), contextTag(tagIPAddress):
		case contextTag(0).Constructed(): // otherName
			var id asn1.ObjectIdentifier
			if !name.ReadASN1ObjectIdentifier(&id) || !name.ReadASN1(&value, contextTag(0).Constructed()) || !name.Empty() ||
				!value.ReadAnyASN1(&name, &tag) || !value.Empty() {
				return false
			}
		case contextTag(4).Constructed(): // directoryName
			var rdns pkix.RDNSequence
			if rest, err := asn1.Unmarshal(name, &rdns); err != nil || len(rest) > 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// areDistributionPoints decodes CRLDistributionPoints (RFC 5280 section 4.2.1.13) with full
// names.
func areDistributionPoints(value cryptobyte.String) bool {
	var list, point, names cryptobyte.String
	if !value.ReadASN1(&list, cbasn1.SEQUENCE) || !value.Empty() {
		return false
	}
	for !list.Empty() {
		if !list.ReadASN1(&point, cbasn1.SEQUENCE) || !point.ReadASN1(&names, contextTag(0).Constructed()) || !names.ReadASN1(&names, contextTag(0).Constructed()) ||
			!areGeneralNames(names) || !point.Empty() {
			return false
		}
	}
	return true
}

// unjudgedNames is unjudged for the names of one certificate and the constraints of a CA
// above it.
func unjudgedNames(ca *x509.Certificate, kinds []uint8, below *x509.Certificate) string {
	if !hasPlainMailboxes(below) {
		return "an e-mail address in the subject is no IA5String and cannot be held to name constraints"
	}
	for _, n := range subjectAltNames(below) {
		if n.tag == 0 && slices.Contains(kinds, tagRFC822Name) {
			return "an alternative name of the kind otherName cannot be held to constraints of e-mail addresses"
		}
	}
	// crypto/x509 permits the hosts below a host too. RFC 5280 section 4.2.1.10 does not.
	for _, u := range below.URIs {
		if len(ca.PermittedURIDomains) > 0 && u.User != nil || !permits(ca.PermittedURIDomains, u.Hostname()) {
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

// hasPlainMailboxes reports whether the e-mail addresses of the subject, if there are any,
// are of the string type that RFC 5280 section 4.1.2.6 wants. crypto/x509 drops the type.
func hasPlainMailboxes(c *x509.Certificate) bool {
	type attributesSET []struct { // the name makes it a SET for encoding/asn1
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	var rdns []attributesSET
	if _, err := asn1.Unmarshal(c.RawSubject, &rdns); err != nil {
		return false
	}
	for _, rdn := range rdns {
		for _, a := range rdn {
			if attributeLabel(a.Type) == "emailAddress" && a.Value.Tag != asn1.TagIA5String {
				return false
			}
		}
	}
	return true
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

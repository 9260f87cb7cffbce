package pkcs10

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	maxDifferences = 20
	maxDifference  = 200 // characters
)

// Compare says in words how the subject and the alternative names of a certificate differ
// from what a spec asks for. CAs write the same name in more than one way: the order of
// attributes and names, string types, the letter case of countries, DNS names and the
// domain of an address, and an alternative name that repeats the common name are no
// differences.
func Compare(spec Spec, leaf *x509.Certificate) []string {
	found := append(compareSubjects(spec.Subject, leaf.Subject.Names), compareNames(spec, leaf)...)
	for i, difference := range found {
		if text := []rune(difference); len(text) > maxDifference {
			found[i] = string(text[:maxDifference-1]) + "…"
		}
	}
	if len(found) > maxDifferences {
		more := len(found) - maxDifferences + 1
		found = append(found[:maxDifferences-1:maxDifferences-1], fmt.Sprintf("and %d more", more))
	}
	return found
}

// compareSubjects compares attribute by attribute. Several of one type, such as OU, are
// compared as a set.
func compareSubjects(asked []Attribute, names []pkix.AttributeTypeAndValue) (differences []string) {
	type attributes struct{ asked, got []string }
	var order []string
	byType := map[string]*attributes{}
	of := func(label string) *attributes {
		if byType[label] == nil {
			byType[label] = &attributes{}
			order = append(order, label)
		}
		return byType[label]
	}
	for _, a := range asked {
		values := of(string(a.Type))
		values.asked = append(values.asked, a.Value)
	}
	for _, n := range names {
		values, value := of(attributeLabel(n.Type)), fmt.Sprint(n.Value)
		fold := func(askedValue string) bool {
			return askedValue == value || attributeLabel(n.Type) == string(Country) && upperASCII(askedValue) == upperASCII(value)
		}
		if i := slices.IndexFunc(values.asked, fold); i >= 0 {
			values.asked = slices.Delete(values.asked, i, i+1)
		} else {
			values.got = append(values.got, value)
		}
	}
	for _, label := range order {
		values := byType[label]
		for i := range max(len(values.asked), len(values.got)) {
			switch {
			case i >= len(values.got):
				differences = append(differences, fmt.Sprintf("subject %s %s is missing", label, quoted(values.asked[i])))
			case i >= len(values.asked):
				differences = append(differences, fmt.Sprintf("subject %s %s was not asked for", label, quoted(values.got[i])))
			default:
				differences = append(differences, fmt.Sprintf("subject %s is %s, the CSR asked for %s", label, quoted(values.got[i]), quoted(values.asked[i])))
			}
		}
	}
	return differences
}

// attributeLabel is the short name of an attribute, or its identifier.
func attributeLabel(oid asn1.ObjectIdentifier) string {
	for _, f := range []Field{CommonName, Organization, OrganizationalUnit, Locality, StateOrProvince, Country} {
		if known, _, _ := attributeType(f); known.Equal(oid) {
			return string(f)
		}
	}
	switch id := oid.String(); id {
	case "1.2.840.113549.1.9.1":
		return "emailAddress"
	case "0.9.2342.19200300.100.1.25":
		return "DC"
	case "2.5.4.5":
		return "serialNumber"
	default:
		return id
	}
}

// compareNames compares the alternative names as a set.
func compareNames(spec Spec, leaf *x509.Certificate) (differences []string) {
	var broken Violations // none: the spec was resolved
	spec.MaxAltNames = max(len(spec.AltNames), 1)
	asked := spec.generalNames(&broken)
	got := subjectAltNames(leaf)
	if len(got) == 0 && len(asked) > 1 {
		return []string{fmt.Sprintf("all %d alternative names are missing", len(asked))}
	}
	contains := func(names []generalName, n generalName) bool {
		return slices.ContainsFunc(names, func(o generalName) bool { return n.fold() == o.fold() })
	}
	for _, n := range asked {
		if !contains(got, n) {
			differences = append(differences, "alternative name "+n.label()+" is missing")
		}
	}
	for _, a := range spec.Subject {
		if a.Type == CommonName {
			if n, broke := (AltName{Value: a.Value}).resolve(); broke == nil {
				asked = append(asked, n)
			}
		}
	}
	for _, n := range got {
		if !contains(asked, n) {
			differences = append(differences, "alternative name "+n.label()+" was not asked for")
		}
	}
	return differences
}

// subjectAltNames reads the alternative names of a certificate, of all kinds.
func subjectAltNames(c *x509.Certificate) (names []generalName) {
	eachAltName(c.Extensions, func(tag cbasn1.Tag, content cryptobyte.String) {
		n := generalName{uint8(tag) & 0x1f, string(content)}
		if addr, ok := netip.AddrFromSlice(content); ok && n.tag == tagIPAddress {
			n.bytes = string(addr.Unmap().AsSlice())
		}
		names = append(names, n)
	})
	return names
}

// fold returns the name in lower case where its letter case does not count.
func (n generalName) fold() generalName {
	switch n.tag {
	case tagDNSName:
		n.bytes = strings.ToLower(n.bytes)
	case tagRFC822Name:
		at := strings.LastIndexByte(n.bytes, '@') + 1
		n.bytes = n.bytes[:at] + strings.ToLower(n.bytes[at:])
	}
	return n
}

// label is the name as a person reads it.
func (n generalName) label() string {
	switch n.tag {
	case tagIPAddress:
		if addr, ok := netip.AddrFromSlice([]byte(n.bytes)); ok {
			return addr.String()
		}
	case tagRFC822Name, tagDNSName, tagURI:
		return quoted(n.bytes)
	}
	return "of the kind [" + strconv.Itoa(int(n.tag)) + "]"
}

// quoted is for text from a certificate.
func quoted(value string) string { return strconv.Quote(printable(value)) }

// SpecOf returns what would ask for another certificate like this one: the subject, the
// names, and the kind and size of the key of a CSR or of the first certificate, in PEM or
// DER. leftOut says what a Spec has no place for. Nothing is judged: neither signatures nor
// dates, nor whether anybody would accept the Spec. The caller bounds the size of the text.
func SpecOf(text []byte) (spec Spec, leftOut []string, err error) {
	der := text
	if block, _ := pem.Decode(text); block != nil {
		der = block.Bytes
	}
	var subject pkix.Name
	var extensions []pkix.Extension
	var public crypto.PublicKey
	if r, err := x509.ParseCertificateRequest(der); err == nil {
		subject, extensions, public = r.Subject, r.Extensions, r.PublicKey
	} else if c, err := x509.ParseCertificate(der); err == nil {
		subject, extensions, public = c.Subject, c.Extensions, c.PublicKey
	} else {
		return Spec{}, nil, errors.New("it has neither a CSR nor a certificate, in PEM or DER")
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		spec.Algorithm, spec.KeySize = RSA, new(int64(key.N.BitLen()))
	case *ecdsa.PublicKey:
		spec.Algorithm, spec.KeySize = ECDSA, new(int64(key.Params().BitSize))
	default:
		leftOut = append(leftOut, fmt.Sprintf("a key of the type %T", public))
	}
	for _, a := range subject.Names {
		value, isText := a.Value.(string)
		field, known := fieldOf(a.Type)
		if !isText || !known || value == "" {
			leftOut = append(leftOut, fmt.Sprintf("the subject attribute %s=%v", a.Type, a.Value))
			continue
		}
		spec.Subject = append(spec.Subject, Attribute{field, value})
	}
	eachAltName(extensions, func(tag cbasn1.Tag, content cryptobyte.String) {
		name := AltName{Value: string(content)}
		switch tag {
		case contextTag(tagRFC822Name):
			if spec.Email == "" {
				spec.Email = name.Value
				return
			}
			name.Kind = Mailbox
		case contextTag(tagDNSName):
			name.Kind = DNSName
		case contextTag(tagURI):
			name.Kind = URI
		case contextTag(tagIPAddress):
			address, ok := netip.AddrFromSlice(content)
			if !ok {
				leftOut = append(leftOut, "an address of a wrong length")
				return
			}
			name = AltName{IPAddress, address.String()}
		default:
			leftOut = append(leftOut, fmt.Sprintf("an alternative name of the kind [%d]", tag&0x1f))
			return
		}
		spec.AltNames = append(spec.AltNames, name)
	})
	return spec, leftOut, nil
}

// fieldOf is the field of a subject attribute.
func fieldOf(oid asn1.ObjectIdentifier) (Field, bool) {
	for _, f := range []Field{CommonName, Organization, OrganizationalUnit, Locality, StateOrProvince, Country} {
		if known, _, _ := attributeType(f); known.Equal(oid) {
			return f, true
		}
	}
	return "", false
}

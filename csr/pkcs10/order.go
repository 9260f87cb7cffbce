package pkcs10

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The rules for how the certificates of a chain belong together.
const (
	BrokenChain  Rule = "broken_chain"
	WrongOrder   Rule = "wrong_order"
	Surplus      Rule = "surplus_certificate"
	NameEncoding Rule = "name_encoding"
	NotACA       Rule = "not_a_ca"
	IssuerUsage  Rule = "issuer_key_usage"
	PathLength   Rule = "path_length"
	BadSignature Rule = "bad_signature"
)

// ownKey is the limit of BadSignature for a self-signed certificate.
const ownKey = "its own key"

// orderRule is encodingRule for the rules of this file.
func orderRule(v Violation) (Check, string) {
	switch v.Rule {
	case BrokenChain:
		return CheckOrder, "must be followed by its issuer, " + strconv.Quote(v.Limit) + ": send that certificate after it, or leave out all that follow"
	case WrongOrder:
		return CheckOrder, "chain is not in order (leaf first, each followed by its issuer): send the certificates in the order " + v.Limit
	case Surplus:
		return CheckOrder, "has issued none of the others: leave it out"
	case NameEncoding:
		return CheckOrder, "has the name of its issuer in other string types than " + v.Limit + " has it, and both must be the same bytes: " +
			"ask the CA to issue it again, or leave out what follows"
	case NotACA:
		return CheckOrder, "is not the certificate of a CA (basicConstraints with cA TRUE) and cannot be an issuer: send the CA's own certificate, or leave it out"
	case IssuerUsage:
		return CheckOrder, "must have keyCertSign among its key usages, as every issuer: send the CA's own certificate, or leave it out"
	case PathLength:
		return CheckOrder, "allows at most " + v.Limit + " CA certificates between itself and the leaf (path length), and there are more"
	case BadSignature:
		reason := ": it is damaged, or its issuer is another one of the same name"
		if v.Limit == ownKey {
			reason = ", since it is self-signed: it is damaged"
		}
		return CheckOrder, "must have a signature that verifies with " + v.Limit + reason
	}
	return "", ""
}

// checkOrder checks whether each certificate can be issued by the next one, by all but its
// signature.
func (j *judgement) checkOrder() {
	complete := true
	for i := range j.chain[1:] {
		complete = complete && j.linked(i)
	}
	if !complete {
		j.findOrder()
	}
	between := 0 // CA certificates between the leaf and the issuer that are not self-issued
	for i, issuer := range j.chain {
		if i == 0 || !j.linked(i-1) {
			between = 0
			continue
		}
		switch {
		case !issuer.isIssuer():
			j.report(NotACA, i, "", "")
		case !mayUse(issuer.Certificate, x509.KeyUsageCertSign):
			j.report(IssuerUsage, i, "", "")
		case issuer.BasicConstraintsValid && issuer.MaxPathLen >= 0 && between > issuer.MaxPathLen:
			j.report(PathLength, i, strconv.Itoa(issuer.MaxPathLen), "")
		}
		if !bytes.Equal(issuer.RawSubject, issuer.RawIssuer) { // RFC 5280 section 4.2.1.9
			between++
		}
	}
}

// linked reports whether the next certificate has the name of this one's issuer.
func (j *judgement) linked(i int) bool {
	return !j.chain[i].surplus && !j.chain[i+1].surplus && bytes.Equal(j.chain[i].RawIssuer, j.chain[i+1].RawSubject)
}

// findOrder reports what is wrong with the order of the chain. It goes by names and key
// identifiers.
func (j *judgement) findOrder() {
	for i := range j.chain {
		m := &j.chain[i]
		m.subject, m.issuer = DistinguishedName(m.RawSubject), DistinguishedName(m.RawIssuer)
	}
	walk := j.walkFromLeaf()
	last := walk[len(walk)-1]
	if len(walk) < len(j.chain) && !j.chain[last].selfSigned {
		j.report(BrokenChain, last, printable(j.chain[last].issuer), "")
	} else {
		for i := range j.chain {
			if !slices.Contains(walk, i) {
				j.chain[i].surplus = true
				j.report(Surplus, i, "", "")
			}
		}
	}
	if !slices.IsSorted(walk) {
		j.broken.Add(Violation{Field: CertificateChain, Rule: WrongOrder, Limit: places(walk)})
		return
	}
	for n, issuer := range walk[1:] {
		if child := walk[n]; !bytes.Equal(j.chain[child].RawIssuer, j.chain[issuer].RawSubject) {
			j.report(NameEncoding, child, "certificate "+strconv.Itoa(issuer+1), "")
		}
	}
}

// walkFromLeaf is walk from the only certificate that is no CA. If that is not clear, it is
// from the first one, or from wherever the longest walk over the first one begins.
func (j *judgement) walkFromLeaf() []int {
	isLeaf := func(m member) bool { return !m.isIssuer() }
	if leaf := slices.IndexFunc(j.chain, isLeaf); leaf >= 0 && !slices.ContainsFunc(j.chain[leaf+1:], isLeaf) {
		return j.walk(leaf)
	}
	longest := j.walk(0)
	for start := range j.chain {
		if walk := j.walk(start); slices.Contains(walk, 0) && len(walk) > len(longest) {
			longest = walk
		}
	}
	return longest
}

// walk goes from a certificate to its issuer, and so on, and returns the indexes.
func (j *judgement) walk(start int) []int {
	walk := []int{start}
	for at := start; !j.chain[at].selfSigned; at = walk[len(walk)-1] {
		next, best := -1, 0
		for i := range j.chain {
			if slices.Contains(walk, i) {
				continue
			}
			if fit := j.likelihood(at, i); fit > best || fit == best && fit > 0 && i == at+1 {
				next, best = i, fit
			}
		}
		if next < 0 {
			break
		}
		walk = append(walk, next)
	}
	return walk
}

// likelihood says how likely one certificate is the issuer of another: not at all (0), by
// a name that is written in other string types or belongs to another key (1), by the name
// (2), by name and key identifier (3).
func (j *judgement) likelihood(child, issuer int) int {
	c, of := &j.chain[child], &j.chain[issuer]
	switch {
	case c.issuer != of.subject:
		return 0
	case !bytes.Equal(c.RawIssuer, of.RawSubject), c.authority.isNot(of.Certificate):
		return 1
	case len(c.authority.keyID) > 0 && bytes.Equal(c.authority.keyID, of.SubjectKeyId):
		return 3
	}
	return 2
}

// places lists indexes as places, counted from 1.
func places(indexes []int) string {
	var all []string
	for _, i := range indexes {
		all = append(all, strconv.Itoa(i+1))
	}
	return strings.Join(all, ", ")
}

// checkSignatures checks each signature with the key of the next certificate, and that of
// a self-signed one with its own. What depends on a certificate that may not sign, or on an
// algorithm that was refused, is not checked.
func (j *judgement) checkSignatures() {
	for i, c := range j.chain {
		issuer, of := i+1, "the key of certificate "+strconv.Itoa(i+2)
		switch {
		case i < len(j.chain)-1:
			if !j.linked(i) || !j.chain[issuer].isIssuer() {
				continue
			}
		case c.selfSigned && !j.Anchors.hasRoot(c.Certificate):
			issuer, of = i, ownKey
		default:
			continue
		}
		if !j.chain[issuer].sound || c.SignatureAlgorithm == x509.UnknownSignatureAlgorithm || isWeak(c.SignatureAlgorithm) {
			continue
		}
		switch j.verify(c.Certificate, j.chain[issuer].Certificate) {
		case bad:
			var cause string
			if c.authority.isNot(j.chain[issuer].Certificate) {
				cause = "the key identifiers differ too"
			}
			j.report(BadSignature, i, of, cause)
		case unchecked:
			j.report(TooCostly, i, "", "")
			return
		case verified:
		}
	}
}

// member is a certificate of a chain, with what is asked of it more than once.
type member struct {
	*x509.Certificate
	authority       authority
	selfSigned      bool   // so it says; its signature may contradict it
	sound           bool   // signatures may be checked with its key
	surplus         bool   // it does not belong to the chain
	subject, issuer string // as DistinguishedName writes them, once the order is sought
}

func memberOf(c *x509.Certificate) member {
	m := member{Certificate: c, authority: authorityOf(c), sound: keyFloor(c) == nil}
	// A CA that changes its key names itself as issuer, with the old key.
	m.selfSigned = bytes.Equal(c.RawSubject, c.RawIssuer) && !m.authority.isNot(c)
	return m
}

// isIssuer: a CA says so (RFC 5280 section 4.2.1.9). Roots of version 1 could not.
func (m *member) isIssuer() bool {
	return m.BasicConstraintsValid && m.IsCA || m.Version < 3 && m.selfSigned
}

// authority is what a certificate says of its issuer beside the name: the extension
// authority key identifier (RFC 5280 section 4.2.1.1). crypto/x509 reads its first part.
type authority struct {
	keyID, name, serial []byte
	malformed           bool
}

func authorityOf(c *x509.Certificate) authority {
	var a authority
	value := cryptobyte.String(extension(c, asn1.ObjectIdentifier{2, 5, 29, 35}))
	if len(value) == 0 {
		return a
	}
	var body, keyID, names, serial cryptobyte.String
	a.malformed = !value.ReadASN1(&body, cbasn1.SEQUENCE) || !value.Empty() ||
		!body.ReadOptionalASN1(&keyID, nil, contextTag(0)) ||
		!body.ReadOptionalASN1(&names, nil, contextTag(1).Constructed()) ||
		!body.ReadOptionalASN1(&serial, nil, contextTag(2)) || !body.Empty()
	a.keyID, a.serial = keyID, serial
	for !names.Empty() && !a.malformed {
		var name cryptobyte.String
		var tag cbasn1.Tag
		a.malformed = !names.ReadAnyASN1(&name, &tag)
		if tag == contextTag(4).Constructed() && a.name == nil { // the first directory name counts
			a.name = name
		}
	}
	return a
}

// isNot reports whether the authority is another certificate than this one.
func (a authority) isNot(issuer *x509.Certificate) bool {
	return a.malformed ||
		len(a.keyID) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(a.keyID, issuer.SubjectKeyId) ||
		len(a.name) > 0 && !bytes.Equal(a.name, issuer.RawIssuer) ||
		len(a.serial) > 0 && !bytes.Equal(a.serial, integer(issuer))
}

// integer is the content of the encoded serial number.
func integer(c *x509.Certificate) []byte {
	var raw asn1.RawValue
	if der, err := asn1.Marshal(c.SerialNumber); err == nil {
		_, _ = asn1.Unmarshal(der, &raw) // it was just encoded
	}
	return raw.Bytes
}

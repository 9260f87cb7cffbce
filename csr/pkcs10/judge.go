package pkcs10

import (
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"
)

// Criteria are what a certificate chain is held to.
type Criteria struct {
	Now time.Time
	Use Use // what the leaf is for
	// DER takes a chain in DER beside PEM.
	DER bool
	// Anchors, where there are any, are what the chain has to lead to.
	Anchors *Anchors
}

// Use is what the leaf of a chain is for.
type Use int

// The uses.
const (
	Signing   Use = iota // no CA; digitalSignature among its key usages, if it has any
	EndEntity            // no CA
	Authority            // a CA: cA TRUE, and keyCertSign among its key usages, if it has any
)

// Accepted is a chain that was accepted.
type Accepted struct {
	Chain Chain // as it was sent, without duplicates; PKCS#7 in order
	// Beyond is what the path to an anchor needed beside Chain, the anchor last. It is
	// empty without anchors, and where Chain holds the anchor.
	Beyond Chain
	// Anchored: the chain was checked against an anchor.
	Anchored bool
}

// maxAhead is how far a certificate's notBefore may lie in the future: the clocks of the
// CA and of this machine differ.
const maxAhead = 5 * time.Minute

// The rules for dates and uses of the certificates of a chain.
const (
	NotYetValid       Rule = "not_yet_valid"
	Expired           Rule = "expired"
	KeyUsage          Rule = "key_usage"
	LeafIsCA          Rule = "leaf_is_ca"
	NotAnAuthority    Rule = "not_an_authority"
	CriticalExtension Rule = "critical_extension"
)

// useRule is encodingRule for the rules of this file.
func useRule(v Violation) (Check, string) {
	switch v.Rule {
	case NotYetValid:
		return CheckValidity, "is not valid before " + v.Limit + ": wait until then, or set the clock that is wrong"
	case Expired:
		return CheckValidity, "expired at " + v.Limit + ": ask the CA for a new one"
	case KeyUsage:
		return CheckUse, "must have " + v.Limit + " among its key usages"
	case LeafIsCA:
		return CheckUse, "is the certificate of a CA (cA TRUE), where that of a host is wanted: ask the CA to issue it with another template"
	case NotAnAuthority:
		return CheckUse, "must be the certificate of a CA (basicConstraints with cA TRUE), as its CSR asks: ask the CA to issue it with another template"
	case CriticalExtension:
		return CheckUse, "has a critical extension that is not understood here, " + v.Limit + ": ask the CA for a certificate without it"
	}
	return "", ""
}

// Accept reads a chain and checks everything about it but whether it is what was asked
// for: the caller compares key and names. The caller bounds the size of the text. It
// returns every rule that is broken, and of what could be read the chain.
func Accept(text []byte, c Criteria) (Accepted, Violations) {
	chain, broken := ReadChain(text, c.DER)
	if len(broken) > 0 {
		return Accepted{}, broken
	}
	return c.judge(chain)
}

// judgement is the state of judging one chain.
type judgement struct {
	Criteria
	chain  []member
	broken Violations
	work   work
}

// judge checks a chain that could be read, against everything but what was asked for.
func (c Criteria) judge(chain Chain) (Accepted, Violations) {
	j := &judgement{Criteria: c, work: work{left: maxWork}}
	for _, certificate := range chain {
		j.chain = append(j.chain, memberOf(certificate))
	}
	j.checkAlgorithms()
	j.checkOrder()
	j.checkValidity()
	j.checkUse()
	accepted := Accepted{Chain: chain}
	var unanchored *Violation
	if c.Anchors != nil && len(j.broken) == 0 {
		accepted.Anchored = true
		accepted.Beyond, unanchored = j.anchor()
	}
	// The signatures on the path to the anchor are checked by now. A bad one is the
	// reason for a path that fails.
	j.checkSignatures()
	if unanchored != nil && len(j.broken) == 0 {
		j.broken.Add(*unanchored)
	}
	if len(j.broken) > 0 {
		slices.SortStableFunc(j.broken, func(a, b Violation) int {
			return cmp.Compare(slices.Index(Checks(), a.Check()), slices.Index(Checks(), b.Check()))
		})
		return Accepted{Chain: chain}, j.broken
	}
	return accepted, nil
}

// report adds a violation of the certificate at an index of the chain.
func (j *judgement) report(rule Rule, index int, limit, cause string) {
	j.broken.Add(Violation{Field: CertificateChain, Rule: rule, Place: index + 1, Value: DistinguishedName(j.chain[index].RawSubject), Limit: limit, Cause: cause})
}

func (j *judgement) checkValidity() {
	clock := "the clock here says " + j.Now.UTC().Format(time.RFC3339)
	for i, c := range j.chain {
		if c.NotBefore.After(j.Now.Add(maxAhead)) {
			j.report(NotYetValid, i, c.NotBefore.UTC().Format(time.RFC3339), clock)
		}
		if c.NotAfter.Before(j.Now) {
			j.report(Expired, i, c.NotAfter.UTC().Format(time.RFC3339), clock)
		}
	}
}

// checkUse checks what the leaf may be used for. Extended key usages are not judged:
// nobody has said what an attestation certificate has there.
func (j *judgement) checkUse() {
	for i, c := range j.chain {
		if len(c.UnhandledCriticalExtensions) > 0 {
			j.report(CriticalExtension, i, identifiers(c.UnhandledCriticalExtensions), "")
		}
	}
	if slices.ContainsFunc(j.broken, func(v Violation) bool { return v.Rule == WrongOrder || v.Rule == Surplus && v.Place == 1 }) {
		return // the first certificate is not the leaf
	}
	leaf := j.chain[0].Certificate
	isCA := leaf.BasicConstraintsValid && leaf.IsCA
	switch {
	case j.Use == Authority && !isCA:
		j.report(NotAnAuthority, 0, "", "")
	case j.Use == Authority && !mayUse(leaf, x509.KeyUsageCertSign):
		j.report(KeyUsage, 0, "keyCertSign", "")
	case j.Use != Authority && isCA:
		j.report(LeafIsCA, 0, "", "")
	case j.Use == Signing && !mayUse(leaf, x509.KeyUsageDigitalSignature):
		j.report(KeyUsage, 0, "digitalSignature", "")
	}
}

// mayUse: a certificate without key usages may be used for everything (RFC 5280 section
// 4.2.1.3). One whose extension is empty may be used for nothing.
func mayUse(c *x509.Certificate, usage x509.KeyUsage) bool {
	return c.KeyUsage&usage != 0 || extension(c, oidKeyUsage()) == nil
}

// oidKeyUsage: RFC 5280 section 4.2.1.3.
func oidKeyUsage() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 15} }

// extension returns the value of an extension, or nil.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range c.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// identifiers lists at most five.
func identifiers(ids []asn1.ObjectIdentifier) string {
	var all []string
	for _, id := range ids[:min(len(ids), 5)] {
		all = append(all, printable(id.String()))
	}
	return strings.Join(all, ", ")
}

package pkcs10

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxAnchorText = 1 << 20 // bytes
	maxAnchors    = 1000
)

// Anchors are the certificates that the operator trusts: roots, which are self-signed, and
// others that help to build a path to one.
type Anchors struct {
	certificates []*x509.Certificate // in the order of the file
	roots        map[*x509.Certificate]bool
}

// ParseAnchors reads trust anchors in PEM. The error is for the operator.
func ParseAnchors(text []byte) (*Anchors, error) {
	if len(text) > maxAnchorText {
		return nil, fmt.Errorf("trust anchors: the text is longer than %d bytes", maxAnchorText)
	}
	begins := bytes.Count(text, []byte("-----BEGIN"))
	anchors := &Anchors{roots: map[*x509.Certificate]bool{}}
	rest := bytes.TrimPrefix(text, []byte("\ufeff")) // Windows editors write it
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			// encoding/pem skips what it cannot read.
			if n <= begins {
				return nil, fmt.Errorf("trust anchors: there are %d PEM blocks, and %d can be read: one is cut off or has bad base64", begins, n-1)
			}
			break
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("trust anchors: PEM block %d is %s, want %s", n, quoted(block.Type), blockCertificate)
		}
		if n > maxAnchors {
			return nil, fmt.Errorf("trust anchors: there are more than %d certificates", maxAnchors)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust anchors: certificate %d: %w", n, err)
		}
		anchors.certificates = append(anchors.certificates, c)
		if m := memberOf(c); m.selfSigned && signedBy(c, c) {
			anchors.roots[c] = true
		}
	}
	if len(anchors.roots) == 0 {
		return nil, errors.New("trust anchors: there is no self-signed certificate, so no chain can end here: add the root of the CA")
	}
	return anchors, nil
}

// hasRoot reports whether a certificate is one of the roots.
func (a *Anchors) hasRoot(c *x509.Certificate) bool {
	if a == nil {
		return false
	}
	for root := range a.roots {
		if root.Equal(c) {
			return true
		}
	}
	return false
}

// maxPath bounds the certificates of a path, anchors and all.
const maxPath = 20

// The rules for the path to a trust anchor.
const (
	NoAnchor       Rule = "no_anchor"
	UntrustedRoot  Rule = "untrusted_root"
	UnusableAnchor Rule = "unusable_anchor"
	NameConstraint Rule = "name_constraint"
	BadPath        Rule = "bad_path"
)

// anchorRule is encodingRule for the rules of this file.
func anchorRule(v Violation) (Check, string) {
	switch v.Rule {
	case NoAnchor:
		return CheckAnchor, "leads to no trust anchor: its issuer " + strconv.Quote(v.Limit) + " was neither sent nor is it a trust anchor; send it too, or have it made one"
	case UntrustedRoot:
		return CheckAnchor, "is self-signed and no trust anchor: use a CA that leads to a trust anchor, or have this one made one"
	case UnusableAnchor:
		return CheckAnchor, "is among the trust anchors and cannot be used, tell the operator: it " + v.Limit
	case NameConstraint:
		return CheckAnchor, "has a name that a CA above it may not certify (name constraints)"
	case BadPath:
		return CheckAnchor, "has no valid path to the trust anchor " + strconv.Quote(v.Limit)
	}
	return "", ""
}

// anchor looks for the path from the leaf to a trust anchor and has crypto/x509 validate
// it. It returns what the path needs beside the chain, or the rule that is broken.
func (j *judgement) anchor() (Chain, *Violation) {
	path, broke := j.path()
	if broke != nil {
		return nil, broke
	}
	var beyond Chain
	for _, c := range path {
		if !slices.ContainsFunc(j.chain, func(m member) bool { return m.Equal(c) }) {
			beyond = append(beyond, c)
			if broke := j.unusable(c); broke != nil {
				return nil, broke
			}
		}
	}
	if cause := unjudged(path); cause != "" {
		return nil, j.badPath(path, cause)
	}
	return beyond, j.validate(path)
}

// path goes from the leaf to a trust anchor as OpenSSL does: an issuer among the trust
// anchors comes before one that was sent, once one of them is on the path no other is
// asked for, and nothing is tried twice. So what OpenSSL would not find is not found here.
// Signatures are not checked yet.
func (j *judgement) path() ([]*x509.Certificate, *Violation) {
	at := j.chain[0]
	path, trusted := []*x509.Certificate{at.Certificate}, false
	for !j.Anchors.hasRoot(at.Certificate) {
		next := j.issuerOf(&at, j.Anchors.certificates)
		switch {
		case at.selfSigned:
			return nil, j.onPath(UntrustedRoot, at.Certificate, "")
		case next != nil:
			trusted = true
		case !trusted:
			next = j.issuerOf(&at, j.unused(path))
		}
		if next == nil || len(path) == maxPath {
			return nil, j.onPath(NoAnchor, at.Certificate, printable(DistinguishedName(at.RawIssuer)))
		}
		if sent := slices.IndexFunc(j.chain, func(m member) bool { return m.Equal(next) }); sent >= 0 {
			next = j.chain[sent].Certificate // its signature is checked once
		}
		path, at = append(path, next), memberOf(next)
	}
	return path, nil
}

// unused returns what was sent and is not on the path yet.
func (j *judgement) unused(path []*x509.Certificate) (rest []*x509.Certificate) {
	for _, m := range j.chain {
		if !slices.ContainsFunc(path, m.Equal) {
			rest = append(rest, m.Certificate)
		}
	}
	return rest
}

// issuerOf returns the first certificate that can have issued another one and is valid
// now. When none is valid, it is the one that was so last.
func (j *judgement) issuerOf(m *member, candidates []*x509.Certificate) (found *x509.Certificate) {
	for _, c := range candidates {
		if !bytes.Equal(c.RawSubject, m.RawIssuer) || m.authority.isNot(c) || authorityOf(c).malformed || !fits(m.SignatureAlgorithm, c.PublicKey) {
			continue
		}
		if now := j.pathTime(); !now.Before(c.NotBefore) && !now.After(c.NotAfter) {
			return c
		}
		if found == nil || c.NotAfter.After(found.NotAfter) {
			found = c
		}
	}
	return found
}

// fits reports whether a signature algorithm is one of a key's kind.
func fits(algorithm x509.SignatureAlgorithm, key any) bool {
	name := algorithm.String()
	switch key.(type) {
	case *rsa.PublicKey:
		return strings.Contains(name, "-RSA")
	case *ecdsa.PublicKey:
		return strings.HasPrefix(name, "ECDSA-")
	case ed25519.PublicKey:
		return algorithm == x509.PureEd25519
	}
	return false
}

// pathTime is when a path has to be valid: now, or from when on the leaf is valid, which
// is at most maxAhead later.
func (j *judgement) pathTime() time.Time {
	if leaf := j.chain[0]; leaf.NotBefore.After(j.Now) {
		return leaf.NotBefore
	}
	return j.Now
}

// onPath is a violation of a certificate of the path. One that was not sent has no place.
func (j *judgement) onPath(rule Rule, c *x509.Certificate, limit string) *Violation {
	place := slices.IndexFunc(j.chain, func(m member) bool { return m.Equal(c) }) + 1
	return &Violation{Field: CertificateChain, Rule: rule, Place: place, Value: DistinguishedName(c.RawSubject), Limit: limit}
}

// unusable holds a certificate of the anchors to what those that are sent are held to.
func (j *judgement) unusable(c *x509.Certificate) *Violation {
	m, now := memberOf(c), j.pathTime()
	var flaw *Violation
	switch root := j.Anchors.roots[c]; {
	case !m.sound:
		flaw = keyFloor(c)
	case !root && isWeak(c.SignatureAlgorithm):
		flaw = &Violation{Rule: WeakSignature, Limit: c.SignatureAlgorithm.String()}
	case !root && c.SignatureAlgorithm == x509.UnknownSignatureAlgorithm:
		flaw = &Violation{Rule: UnsupportedSignature, Limit: unknownSignature(c)}
	case now.After(c.NotAfter):
		flaw = &Violation{Rule: Expired, Limit: c.NotAfter.UTC().Format(time.RFC3339)}
	case now.Before(c.NotBefore):
		flaw = &Violation{Rule: NotYetValid, Limit: c.NotBefore.UTC().Format(time.RFC3339)}
	case !m.isIssuer():
		flaw = &Violation{Rule: NotACA}
	case !mayUse(c, x509.KeyUsageCertSign):
		flaw = &Violation{Rule: IssuerUsage}
	case len(c.UnhandledCriticalExtensions) > 0:
		flaw = &Violation{Rule: CriticalExtension, Limit: identifiers(c.UnhandledCriticalExtensions)}
	default:
		return nil
	}
	return j.onPath(UnusableAnchor, c, flaw.predicate())
}

// validate has crypto/x509 validate a path, and notes the signatures that were checked.
func (j *judgement) validate(path []*x509.Certificate) *Violation {
	anchor := path[len(path)-1]
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: j.pathTime(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	options.Roots.AddCert(anchor)
	for _, c := range path[1:max(1, len(path)-1)] {
		options.Intermediates.AddCert(withSubjectNames(c))
	}
	for _, c := range path {
		// For OpenSSL a certificate is over when the second of its notAfter begins.
		if !j.pathTime().Truncate(time.Second).Before(c.NotAfter) {
			return j.onPath(Expired, c, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	if j.work.left -= worstCost(path, nil, j.work.left); j.work.left < 0 {
		return j.onPath(TooCostly, path[0], "")
	}
	_, err := withSubjectNames(path[0]).Verify(options)
	if err == nil {
		for i, c := range path[1:] {
			j.work.note([2]*x509.Certificate{path[i], c}, verified)
		}
		return nil
	}
	if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is && invalid.Reason == x509.CANotAuthorizedForThisName {
		broke := j.onPath(NameConstraint, path[0], "")
		broke.Cause = invalid.Detail
		return broke
	}
	if unknown, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		// Its issuer is on the path, so the signature is bad. Those between certificates
		// that were sent are told by checkSignatures.
		return j.onPath(BadSignature, unknown.Cert, "the key of the trust anchor "+strconv.Quote(printable(DistinguishedName(unknown.Cert.RawIssuer))))
	}
	return j.badPath(path, strings.TrimPrefix(err.Error(), "x509: "))
}

// badPath is the violation of a path that is not valid, for a cause.
func (j *judgement) badPath(path []*x509.Certificate, cause string) *Violation {
	broke := j.onPath(BadPath, path[0], printable(DistinguishedName(path[len(path)-1].RawSubject)))
	broke.Cause = cause
	return broke
}

// worstCost is what crypto/x509 spends on a path when every signature verifies: it tries
// every certificate of the right name, and goes on from each. Beyond the limit it stops.
func worstCost(path []*x509.Certificate, tried []int, limit int) int {
	at, total := path[0], 0
	if len(tried) > 0 {
		at = path[tried[len(tried)-1]]
	}
	for i, c := range path {
		if i == 0 || slices.Contains(tried, i) || !bytes.Equal(c.RawSubject, at.RawIssuer) || total > limit {
			continue
		}
		total += cost(c.PublicKey)
		if i < len(path)-1 {
			total += worstCost(path, append(slices.Clone(tried), i), limit-total)
		}
	}
	return total
}

package pkcs10

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"strconv"
	"time"
)

const (
	// maxAhead is how far a certificate's notBefore may lie in the future: the
	// clocks of the CA and of this machine differ.
	maxAhead = 5 * time.Minute
	// maxIssuerKey is the largest RSA key in bits that a signature is checked with.
	maxIssuerKey = 16384
)

// The rules that a certificate chain can break once it is read.
const (
	BrokenChain   Rule = "broken_chain"
	WeakSignature Rule = "weak_signature"
	NotYetValid   Rule = "not_yet_valid"
	Expired       Rule = "expired"
	KeyUsage      Rule = "key_usage"
	KeyTooLarge   Rule = "key_too_large"
)

// chainRule is encodingRule for the rules of this file.
func chainRule(v Violation) (Check, string) {
	switch v.Rule {
	case BrokenChain:
		return CheckOrder, "must be issued by the certificate that follows it (leaf first)"
	case WeakSignature:
		return CheckAlgorithms, "must not be signed with " + v.Limit
	case NotYetValid:
		return CheckValidity, "is not valid before " + v.Limit
	case Expired:
		return CheckValidity, "expired at " + v.Limit
	case KeyUsage:
		return CheckUse, "must have " + v.Limit + " among its key usages"
	case KeyTooLarge:
		return CheckAlgorithms, "must not have a key of more than " + v.Limit + " bits"
	}
	return "", ""
}

// judge checks a chain that could be read, against everything but what was asked for.
func (c Criteria) judge(chain Chain) (Accepted, Violations) {
	var broken Violations
	report := func(rule Rule, place int, limit string) {
		broken.Add(Violation{Field: CertificateChain, Rule: rule, Place: place + 1, Value: chain[place].Subject.String(), Limit: limit})
	}
	for i, cert := range chain {
		if cert.NotBefore.After(c.Now.Add(maxAhead)) {
			report(NotYetValid, i, cert.NotBefore.UTC().Format(time.RFC3339))
		}
		if cert.NotAfter.Before(c.Now) {
			report(Expired, i, cert.NotAfter.UTC().Format(time.RFC3339))
		}
		if i+1 == len(chain) {
			break
		}
		issuer := chain[i+1]
		if key, ok := issuer.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxIssuerKey {
			report(KeyTooLarge, i+1, strconv.Itoa(maxIssuerKey))
			continue
		}
		err := cert.CheckSignatureFrom(issuer)
		if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); weak {
			report(WeakSignature, i, cert.SignatureAlgorithm.String())
		} else if err != nil || !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
			report(BrokenChain, i, "")
		}
	}
	var usage x509.KeyUsage
	usageName := "digitalSignature"
	switch c.Use {
	case Signing:
		usage = x509.KeyUsageDigitalSignature
	case Authority:
		usage, usageName = x509.KeyUsageCertSign, "keyCertSign"
	}
	// A certificate without key usages may be used for everything (RFC 5280 section
	// 4.2.1.3).
	if has := chain.Leaf().KeyUsage; has != 0 && has&usage != usage {
		report(KeyUsage, 0, usageName)
	}
	if len(broken) > 0 {
		return Accepted{}, broken
	}
	return Accepted{Chain: chain}, nil
}

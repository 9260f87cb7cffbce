package pkcs10

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

const (
	maxChain = 10
	// maxAhead is how far a certificate's notBefore may lie in the future: the
	// clocks of the CA and of this machine differ.
	maxAhead = 5 * time.Minute
	// maxIssuerKey is the largest RSA key in bits that a signature is checked with.
	// The time grows with the square of the size, and a request has room for hundreds
	// of thousands of bits.
	maxIssuerKey = 16384
)

// Chain is one to ten certificates, the leaf first.
type Chain []*x509.Certificate

// Leaf returns the certificate that the others vouch for.
func (c Chain) Leaf() *x509.Certificate { return c[0] }

// PEM returns the chain as PEM, with nothing of the text it was read from.
func (c Chain) PEM() string {
	var b strings.Builder
	for _, cert := range c {
		b.WriteString(encodePEM(blockCertificate, cert.Raw))
	}
	return b.String()
}

// AcceptChain reads a chain in PEM, the leaf first, and checks what can be checked
// without a trust anchor: each certificate is issued by the next one, all are valid
// now, and the leaf has the key usage, if it has any. The caller bounds the size of the
// text and compares the leaf's key. The error is Violations.
func AcceptChain(text []byte, now time.Time, usage x509.KeyUsage) (Chain, error) {
	c, rule := parseChain(text)
	if rule != "" {
		broken := Violation{Field: CertificateChain, Rule: rule}
		if rule == TooMany {
			broken.Limit = strconv.Itoa(maxChain)
		}
		return nil, Violations{broken}.Err()
	}

	var broken Violations
	report := func(rule Rule, cert *x509.Certificate, limit string) {
		broken.Add(Violation{CertificateChain, rule, cert.Subject.String(), limit})
	}
	for i, cert := range c {
		if cert.NotBefore.After(now.Add(maxAhead)) {
			report(NotYetValid, cert, cert.NotBefore.UTC().Format(time.RFC3339))
		}
		if cert.NotAfter.Before(now) {
			report(Expired, cert, cert.NotAfter.UTC().Format(time.RFC3339))
		}
		if i+1 == len(c) {
			break
		}
		issuer := c[i+1]
		if key, ok := issuer.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxIssuerKey {
			report(KeyTooLarge, issuer, strconv.Itoa(maxIssuerKey))
			continue
		}
		err := cert.CheckSignatureFrom(issuer)
		if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); weak {
			report(WeakSignature, cert, cert.SignatureAlgorithm.String())
		} else if err != nil || !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
			report(BrokenChain, cert, "")
		}
	}
	// A certificate without key usages may be used for everything (RFC 5280 section
	// 4.2.1.3).
	if has := c.Leaf().KeyUsage; has != 0 && has&usage != usage {
		report(KeyUsage, c.Leaf(), usageName(usage))
	}
	if err := broken.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// usageName is the name of a key usage that AcceptChain is asked for, as RFC 5280
// section 4.2.1.3 has it.
func usageName(usage x509.KeyUsage) string {
	if usage == x509.KeyUsageCertSign {
		return "keyCertSign"
	}
	return "digitalSignature"
}

// parseChain reads the CERTIFICATE blocks of a text, or returns the rule that is
// broken. encoding/pem would skip what it cannot read: a private key beside the
// certificate, or an intermediate that was cut off.
func parseChain(text []byte) (Chain, Rule) {
	var (
		c       Chain
		body    []byte
		inBlock bool
	)
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		begin, end := bytes.Contains(line, []byte("-----BEGIN")), bytes.Contains(line, []byte("-----END"))
		switch {
		case begin && !inBlock:
			if string(line) != "-----BEGIN "+blockCertificate+"-----" {
				return nil, boundaryRule(line)
			}
			if len(c) == maxChain {
				return nil, TooMany
			}
			inBlock, body = true, body[:0]
		case end && inBlock && string(line) == "-----END "+blockCertificate+"-----":
			cert, err := parseCertificate(body)
			if err != nil {
				return nil, Malformed
			}
			c, inBlock = append(c, cert), false
		case begin || end:
			return nil, Malformed
		case inBlock:
			body = append(body, line...)
		}
	}
	switch {
	case inBlock:
		return nil, Malformed
	case len(c) == 0:
		return nil, NoCertificate
	}
	return c, ""
}

// boundaryRule tells a well-formed block of another type from a broken line.
func boundaryRule(line []byte) Rule {
	label, begins := bytes.CutPrefix(line, []byte("-----BEGIN "))
	label, ends := bytes.CutSuffix(label, []byte("-----"))
	if begins && ends && len(label) > 0 && !bytes.Contains(label, []byte("-")) {
		return ForeignBlock
	}
	return Malformed
}

func parseCertificate(base64Text []byte) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.Strict().AppendDecode(nil, base64Text)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

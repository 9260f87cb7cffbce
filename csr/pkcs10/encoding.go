package pkcs10

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"strconv"
)

const maxChain = 10

// The rules for the encoding of a certificate chain.
const (
	NoCertificate Rule = "no_certificate"
	ForeignBlock  Rule = "foreign_block"
	Malformed     Rule = "malformed"
)

// encodingRule says which check a rule of this file belongs to, and in a predicate what it
// asks for. Both are empty for other rules.
func encodingRule(v Violation) (Check, string) {
	switch v.Rule {
	case NoCertificate:
		return CheckEncoding, "must have at least one PEM block of type CERTIFICATE"
	case ForeignBlock:
		return CheckEncoding, "must have PEM blocks of type CERTIFICATE only"
	case Malformed:
		return CheckEncoding, "must be well-formed PEM of X.509 certificates"
	}
	return "", ""
}

// ReadChain reads a certificate chain, the leaf first, as a caller sends it. With
// der, DER is taken too. The caller bounds the size of the text.
func ReadChain(text []byte, der bool) (Chain, Violations) {
	c, rule := parseChain(text)
	if rule == "" {
		return c, nil
	}
	broken := Violation{Field: CertificateChain, Rule: rule}
	if rule == TooMany {
		broken.Limit = strconv.Itoa(maxChain)
	}
	return nil, Violations{broken}
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

package pkcs10

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The rules for what is in a block: its DER, and whether that is a certificate.
const (
	NotDER        Rule = "not_der"
	BER           Rule = "ber"
	TrailingBytes Rule = "trailing_bytes"
	Malformed     Rule = "malformed"
)

// derRule is encodingRule for the rules of this file.
func derRule(v Violation) (Check, string) {
	switch v.Rule {
	case NotDER:
		return CheckEncoding, "is base64 of something else than DER: send the certificate that the CA issued"
	case BER:
		return CheckEncoding, "is BER with an indefinite length and must be DER: convert it with openssl x509 or openssl pkcs7 -print_certs"
	case TrailingBytes:
		return CheckEncoding, "has " + v.Limit + " after its end: put each certificate into a block of its own"
	case Malformed:
		return CheckEncoding, "is refused by crypto/x509, the CA has to issue another one"
	}
	return "", ""
}

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

// readDER reads what a block of a label holds.
func (r *chainReader) readDER(der []byte, label string) {
	v, content := readEnvelope(der)
	switch {
	case v != nil:
		r.reportBlock(*v)
	case content.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER):
		r.pkcs7 = true
		r.readPKCS7(content)
	case label != blockCertificate:
		r.report(Violation{Rule: BrokenPKCS7, Cause: "it holds no content type"})
		r.count()
	default:
		r.readCertificate(der)
	}
}

// readCertificate adds a certificate, unless the same one was added before.
func (r *chainReader) readCertificate(der []byte) {
	if r.seen[string(der)] {
		return
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[string(der)] = true
	if r.place == maxChain {
		r.count()
		return
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		r.reportBlock(refused(der, err))
		return
	}
	r.chain = append(r.chain, certificate)
	r.count()
}

// readEnvelope returns the content of the one SEQUENCE that a block has to hold, or what
// is wrong with it.
func readEnvelope(der []byte) (*Violation, cryptobyte.String) {
	if len(der) < 2 || der[0] != byte(cbasn1.SEQUENCE) {
		return &Violation{Rule: NotDER}, nil
	}
	if der[1] == 0x80 {
		return &Violation{Rule: BER}, nil
	}
	header, length := 2, int(der[1])
	if length > 0x80 {
		header += length - 0x80
		if header > 6 || header > len(der) {
			return &Violation{Rule: NotDER}, nil
		}
		length = 0
		for _, b := range der[2:header] {
			length = length<<8 | int(b)
		}
	}
	content := cryptobyte.String(der[header:min(len(der), header+length)])
	if what := privateKeyIn(content); what != "" {
		return &Violation{Rule: PrivateKey, Limit: what}, nil
	}
	switch n := len(der) - header - length; {
	case n < 0:
		return &Violation{Rule: CutOff, Value: subjectOf(der), Cause: fmt.Sprintf("its DER is %d bytes, and %d are there", header+length, len(der))}, nil
	case n > 0:
		return &Violation{Rule: TrailingBytes, Limit: fmt.Sprintf("%d bytes", n), Value: outline(der).Subject}, nil
	}
	return nil, content
}

// privateKeyIn recognises a private key under another label, or its beginning, by the
// version number and what follows it.
func privateKeyIn(content []byte) string {
	for what, begins := range map[string]string{
		"PKCS#1":  "\x02\x01\x00\x02",
		"PKCS#8":  "\x02\x01\x00\x30",
		"SEC 1":   "\x02\x01\x01\x04",
		"PKCS#12": "\x02\x01\x03\x30",
	} {
		if bytes.HasPrefix(content, []byte(begins)) {
			return what
		}
	}
	return ""
}

// refused says what is in the place of a certificate that cannot be parsed.
func refused(der []byte, err error) Violation {
	if _, requestErr := x509.ParseCertificateRequest(der); requestErr == nil {
		return Violation{Rule: RequestBlock}
	}
	if _, listErr := x509.ParseRevocationList(der); listErr == nil {
		return Violation{Rule: ForeignBlock, Limit: "a revocation list"}
	}
	if _, keyErr := x509.ParsePKIXPublicKey(der); keyErr == nil {
		return Violation{Rule: ForeignBlock, Limit: "a public key"}
	}
	return Violation{Rule: Malformed, Value: outline(der).Subject, Cause: err.Error()}
}

// ParseCertificates reads a chain in PEM that was accepted or made here.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse the certificate: %w", err)
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return chain, nil
}

// ParseRequest reads a certification request in PEM that was made here.
func ParseRequest(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != BlockRequest {
		return nil, errors.New("there is no CSR")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the CSR: %w", err)
	}
	return r, nil
}

// PublicKey returns the key of a CSR, or of the leaf of a chain, in PEM.
func PublicKey(text string) (crypto.PublicKey, error) {
	if strings.HasPrefix(text, "-----BEGIN "+BlockRequest) {
		request, err := ParseRequest(text)
		if err != nil {
			return nil, err
		}
		return request.PublicKey, nil
	}
	chain, err := ParseCertificates(text)
	if err != nil {
		return nil, err
	}
	return chain[0].PublicKey, nil
}

// SameKey reports whether two public keys are the same. It compares keys, not
// their encodings, because a CA may encode the parameters in another way.
func SameKey(a, b crypto.PublicKey) bool {
	equal, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && equal.Equal(b)
}

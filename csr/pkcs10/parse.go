package pkcs10

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

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

package kit

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
)

// PEM returns certificates as PEM, in the order that is given.
func PEM(certificates ...*x509.Certificate) string {
	var text strings.Builder
	for _, c := range certificates {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text.String()
}

// ParseCSR reads a text that is one CSR, and verifies its signature.
func ParseCSR(text string) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, fmt.Errorf("not one CSR: %q", text)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = request.CheckSignature()
	}
	return request, err
}

// ParseChain reads a text of certificates and nothing else.
func ParseChain(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	block, rest := pem.Decode([]byte(text))
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a block of the type %s", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 || len(rest) > 0 {
		return nil, fmt.Errorf("not certificates alone: %q", text)
	}
	return chain, nil
}

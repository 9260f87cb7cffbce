package pkcs10

import (
	"crypto/x509"
	"strings"
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

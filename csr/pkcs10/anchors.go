package pkcs10

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
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

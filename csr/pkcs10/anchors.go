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
	roots        int
}

// ParseAnchors reads trust anchors in PEM. The error is for the operator.
func ParseAnchors(text []byte) (*Anchors, error) {
	if len(text) > maxAnchorText {
		return nil, fmt.Errorf("trust anchors: the text is longer than %d bytes", maxAnchorText)
	}
	begins := bytes.Count(text, []byte("-----BEGIN"))
	anchors := &Anchors{}
	rest := bytes.TrimPrefix(text, []byte("\ufeff")) // Windows editors write it
	for n := 1; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			// encoding/pem skips what it cannot read.
			if n <= begins {
				return nil, fmt.Errorf("trust anchors: PEM block %d, or one before it, is cut off or is no base64", n)
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
		if isSelfSigned(c) {
			anchors.roots++
		}
	}
	if anchors.roots == 0 {
		return nil, errors.New("trust anchors: there is no self-signed certificate, so no chain could end at one. Add the root of the CA")
	}
	return anchors, nil
}

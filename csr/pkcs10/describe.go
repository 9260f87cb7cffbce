package pkcs10

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Description is what a CSR, or the leaf of a chain, says.
type Description struct {
	Request      bool     // it is a CSR
	Digest       string   // SHA-256 of the DER, in hexadecimal
	Subject      string   // as DistinguishedName writes it
	Names        []string // the subject alternative names of the kinds that AltName has, in their order
	KeyAlgorithm string
	KeyBits      int
	Issuer       string // of a certificate, as DistinguishedName writes it
	Serial       string // of a certificate, in hexadecimal
}

// Describe reads the first block of a PEM text that was accepted or made here. With an
// error it returns the digest, if there is a block.
func Describe(text string) (Description, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return Description{}, errors.New("there is no PEM block")
	}
	sum := sha256.Sum256(block.Bytes)
	d := Description{Request: block.Type == BlockRequest, Digest: hex.EncodeToString(sum[:])}
	if d.Request {
		r, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return d, fmt.Errorf("parse the CSR: %w", err)
		}
		d.Subject, d.Names = DistinguishedName(r.RawSubject, r.Subject), altNames(r.Extensions)
		d.KeyAlgorithm, d.KeyBits = r.PublicKeyAlgorithm.String(), KeyBits(r.PublicKey)
		return d, nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return d, fmt.Errorf("parse the certificate: %w", err)
	}
	d.Subject, d.Names = DistinguishedName(c.RawSubject, c.Subject), altNames(c.Extensions)
	d.KeyAlgorithm, d.KeyBits = c.PublicKeyAlgorithm.String(), KeyBits(c.PublicKey)
	d.Issuer, d.Serial = DistinguishedName(c.RawIssuer, c.Issuer), c.SerialNumber.Text(16)
	return d, nil
}

// DistinguishedName writes a name as RFC 4514 does, with its attributes in their
// encoded order. pkix.Name.String sorts them.
func DistinguishedName(der []byte, parsed pkix.Name) string {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return parsed.String()
	}
	return rdns.String()
}

// KeyBits is the size of a public key: of the modulus or of the curve. It is 0 for a key
// of another kind.
func KeyBits(key crypto.PublicKey) int {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen()
	case *ecdsa.PublicKey:
		return key.Params().BitSize
	}
	return 0
}

// altNames reads the subject alternative names. crypto/x509 sorts them by kind and
// rewrites URIs.
func altNames(extensions []pkix.Extension) (names []string) {
	for _, e := range extensions {
		value, list := cryptobyte.String(e.Value), cryptobyte.String(nil)
		if !e.Id.Equal(oidSubjectAltName()) || !value.ReadASN1(&list, cbasn1.SEQUENCE) {
			continue
		}
		var name cryptobyte.String
		var tag cbasn1.Tag
		for list.ReadAnyASN1(&name, &tag) {
			switch tag {
			case cbasn1.Tag(tagRFC822Name).ContextSpecific(), cbasn1.Tag(tagDNSName).ContextSpecific(), cbasn1.Tag(tagURI).ContextSpecific():
				names = append(names, string(name))
			case cbasn1.Tag(tagIPAddress).ContextSpecific():
				if address, ok := netip.AddrFromSlice(name); ok {
					names = append(names, address.String())
				}
			}
		}
	}
	return names
}

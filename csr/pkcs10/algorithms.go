package pkcs10

import (
	"bytes"
	"crypto"
	"crypto/md5" //nolint:gosec // a root's signature under its own key proves nothing, whatever its hash
	"crypto/rsa"
	"crypto/x509"
)

// isSelfSigned reports whether the signature of a certificate verifies under its own key.
// A certificate with its own name as issuer need not be: anybody can write a name.
func isSelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && verifiesUnder(c, c)
}

// verifiesUnder checks the signature of a certificate with the key of an issuer. It takes
// MD5 and SHA-1 too, for the signatures of roots under themselves, which prove nothing:
// the caller refuses them elsewhere.
func verifiesUnder(c, issuer *x509.Certificate) bool {
	if c.SignatureAlgorithm == x509.MD5WithRSA { // crypto/x509 always refuses it
		key, isRSA := issuer.PublicKey.(*rsa.PublicKey)
		sum := md5.Sum(c.RawTBSCertificate) //nolint:gosec // as above
		return isRSA && rsa.VerifyPKCS1v15(key, crypto.MD5, sum[:], c.Signature) == nil
	}
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

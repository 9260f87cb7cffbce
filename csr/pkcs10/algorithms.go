package pkcs10

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/md5" //nolint:gosec // a root's signature under its own key proves nothing, whatever its hash
	"crypto/rsa"
	"crypto/x509"
	"strconv"
)

const (
	minRSA      = 2048 // bits
	maxRSA      = 8192
	minCurve    = 256
	maxExponent = 65537 // a larger one makes a check of a signature slow, and CAs have none

	// maxWork bounds the checks of signatures for one chain, in the costs of cost: 30
	// of the common kinds, and at most 20 ms on a slow processor.
	maxWork = 30
)

// The rules for the algorithms of a chain.
const (
	WeakSignature        Rule = "weak_signature"
	UnsupportedSignature Rule = "unsupported_signature"
	UnsupportedKey       Rule = "unsupported_key"
	KeyTooLarge          Rule = "key_too_large"
	KeyTooSmall          Rule = "key_too_small"
	KeyExponent          Rule = "key_exponent"
	TooCostly            Rule = "too_costly"
)

// algorithmRule is encodingRule for the rules of this file.
func algorithmRule(v Violation) (Check, string) {
	switch v.Rule {
	case WeakSignature:
		return CheckAlgorithms, "must not be signed with " + v.Limit + ": ask the CA to sign with SHA-256"
	case UnsupportedSignature:
		return CheckAlgorithms, "is signed with the algorithm " + v.Limit + ", which is not supported: use a CA that signs with RSA, ECDSA or Ed25519"
	case UnsupportedKey:
		return CheckAlgorithms, "has a key of the algorithm " + v.Limit + ", which is not supported: use RSA, ECDSA (P-256, P-384, P-521) or Ed25519"
	case KeyTooLarge:
		return CheckAlgorithms, "must not have a key of more than " + v.Limit + " bits"
	case KeyTooSmall:
		return CheckAlgorithms, "must have a key of at least " + v.Limit + " bits"
	case KeyExponent:
		return CheckAlgorithms, "must have an odd RSA exponent from 3 to " + v.Limit
	case TooCostly:
		return CheckOrder, "cannot be checked at once: the chain has too many large keys, or too many certificates of one name; " +
			"leave out certificates from the end"
	}
	return "", ""
}

// checkAlgorithms holds every certificate to the floors, whether or not its issuer is
// there to check the signature.
func (j *judgement) checkAlgorithms() {
	for i, c := range j.chain {
		if broke := keyFloor(c.Certificate); broke != nil {
			j.report(broke.Rule, i, broke.Limit, "")
		}
		switch {
		case c.SignatureAlgorithm == x509.UnknownSignatureAlgorithm:
			// A certificate that signs itself has the algorithm of its key, which is told.
			if c.sound || !c.selfSigned {
				j.report(UnsupportedSignature, i, unknownSignature(c.Certificate), "")
			}
		case isWeak(c.SignatureAlgorithm):
			// Nobody relies on what a root says of itself. A root is the last one.
			if i < len(j.chain)-1 || !c.sound || !c.selfSigned || j.verify(c.Certificate, c.Certificate) != verified {
				j.report(WeakSignature, i, c.SignatureAlgorithm.String(), "")
			}
		}
	}
}

// unknownSignature names an algorithm that crypto/x509 does not know. It knows RSASSA-PSS
// with common parameters alone.
func unknownSignature(c *x509.Certificate) string {
	name := FactsOf(c).SignatureAlgorithm
	if name == "RSA-PSS" {
		name += " with other parameters than SHA-256, SHA-384 or SHA-512 for everything and a salt as long as the hash"
	}
	return name
}

func isWeak(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// keyFloor returns the rule that the key of a certificate breaks, with its limit.
func keyFloor(c *x509.Certificate) *Violation {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		switch bits := key.N.BitLen(); {
		case bits > maxRSA:
			return &Violation{Rule: KeyTooLarge, Limit: strconv.Itoa(maxRSA)}
		case bits < minRSA:
			return &Violation{Rule: KeyTooSmall, Limit: strconv.Itoa(minRSA)}
		case key.E < 3 || key.E > maxExponent || key.E%2 == 0:
			return &Violation{Rule: KeyExponent, Limit: strconv.Itoa(maxExponent)}
		}
		return nil
	case *ecdsa.PublicKey:
		if key.Params().BitSize < minCurve {
			return &Violation{Rule: KeyTooSmall, Limit: strconv.Itoa(minCurve)}
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return &Violation{Rule: UnsupportedKey, Limit: FactsOf(c).KeyAlgorithm}
}

// work is what checks of signatures may still cost, and what they found.
type work struct {
	left  int
	found map[[2]*x509.Certificate]signature
}

// signature is what is known of a signature.
type signature int

const (
	unchecked signature = iota // there was no work left
	verified
	bad
)

// cost is what a check of a signature costs, in units of 0.6 ms on a slow processor. See
// docs/performance.md.
func cost(key crypto.PublicKey) int {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() > 4096 {
			return 4
		}
	case *ecdsa.PublicKey:
		switch bits := key.Params().BitSize; {
		case bits > 384:
			return 7
		case bits > 256:
			return 2
		}
	}
	return 1
}

// verify checks once whether a certificate is signed with the key of an issuer, which is
// held to keyFloor.
func (j *judgement) verify(c, issuer *x509.Certificate) signature {
	pair := [2]*x509.Certificate{c, issuer}
	if found, known := j.work.found[pair]; known {
		return found
	}
	if j.work.left -= cost(issuer.PublicKey); j.work.left < 0 {
		return unchecked
	}
	found := bad
	if signedBy(c, issuer) {
		found = verified
	}
	j.work.note(pair, found)
	return found
}

func (w *work) note(pair [2]*x509.Certificate, found signature) {
	if w.found == nil {
		w.found = map[[2]*x509.Certificate]signature{}
	}
	w.found[pair] = found
}

// signedBy checks the signature of a certificate with the key of an issuer. It takes MD5
// and SHA-1 too, for the signatures of roots under themselves: others are refused before.
func signedBy(c, issuer *x509.Certificate) bool {
	if c.SignatureAlgorithm == x509.MD5WithRSA { // crypto/x509 always refuses it
		key, isRSA := issuer.PublicKey.(*rsa.PublicKey)
		sum := md5.Sum(c.RawTBSCertificate) //nolint:gosec // as above
		return isRSA && rsa.VerifyPKCS1v15(key, crypto.MD5, sum[:], c.Signature) == nil
	}
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

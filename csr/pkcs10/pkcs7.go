package pkcs10

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The rules for PKCS#7, of which only the form that carries certificates is taken.
const (
	BrokenPKCS7  Rule = "broken_pkcs7"
	SignedPKCS7  Rule = "signed_pkcs7"
	PKCS7Content Rule = "pkcs7_content"
	EmptyPKCS7   Rule = "empty_pkcs7"
	PKCS7Beside  Rule = "pkcs7_beside"
	PKCS7Order   Rule = "pkcs7_order"
)

// pkcs7Rule is encodingRule for the rules of this file.
func pkcs7Rule(v Violation) (Check, string) {
	switch v.Rule {
	case BrokenPKCS7:
		return CheckEncoding, "is broken PKCS#7: export it again, or send PEM"
	case SignedPKCS7:
		return CheckEncoding, "is signed PKCS#7: send the certs-only form, or PEM (openssl pkcs7 -print_certs)"
	case PKCS7Content:
		return CheckEncoding, "is PKCS#7 with " + v.Limit + ": send the certs-only form, or PEM"
	case EmptyPKCS7:
		return CheckEncoding, "is PKCS#7 without a certificate: export it with the certificates"
	case PKCS7Beside:
		return CheckEncoding, "must be PKCS#7 alone or PEM certificates alone: send one of them"
	case PKCS7Order:
		return CheckEncoding, "is PKCS#7 whose certificates are not one chain: send the leaf and its issuers only, or PEM, leaf first"
	}
	return "", ""
}

// isPKCS7Label knows the labels of OpenSSL, of RFC 7468 section 8 and 9, and of old tools.
func isPKCS7Label(label string) bool {
	return label == "PKCS7" || label == "CMS" || label == "PKCS #7 SIGNED DATA"
}

// readPKCS7 adds the certificates of a ContentInfo (RFC 2315 sections 7 and 9.1; without
// signers it is what RFC 8551 section 3.2.2 calls certs-only).
func (r *chainReader) readPKCS7(info cryptobyte.String) {
	var contentType asn1.ObjectIdentifier
	var content, signed, certificates, signers cryptobyte.String
	if info.ReadASN1ObjectIdentifier(&contentType) && !contentType.Equal(oidSignedData()) {
		r.report(Violation{Rule: PKCS7Content, Limit: contentName(contentType)})
		return
	}
	whole := info.ReadASN1(&content, contextTag(0).Constructed()) && content.ReadASN1(&signed, cbasn1.SEQUENCE) &&
		signed.SkipASN1(cbasn1.INTEGER) && signed.SkipASN1(cbasn1.SET) && signed.SkipASN1(cbasn1.SEQUENCE) &&
		signed.ReadOptionalASN1(&certificates, nil, contextTag(0).Constructed()) && signed.SkipOptionalASN1(contextTag(1).Constructed()) &&
		signed.ReadASN1(&signers, cbasn1.SET) && info.Empty() && content.Empty() && signed.Empty()
	switch {
	case !whole && (isIndefinite(info) || isIndefinite(content) || isIndefinite(signed)):
		r.report(Violation{Rule: BER})
	case !whole:
		r.report(Violation{Rule: BrokenPKCS7})
	case !signers.Empty():
		r.report(Violation{Rule: SignedPKCS7})
	case certificates.Empty():
		r.report(Violation{Rule: EmptyPKCS7})
	}
	for whole && signers.Empty() && !certificates.Empty() && !r.full() {
		var certificate cryptobyte.String
		if !certificates.ReadASN1Element(&certificate, cbasn1.SEQUENCE) {
			r.report(Violation{Rule: BrokenPKCS7, Cause: "it holds something else than X.509 certificates"})
			return
		}
		r.readCertificate(certificate)
	}
}

// isIndefinite reports whether what comes next has a length that DER does not know.
func isIndefinite(next cryptobyte.String) bool { return len(next) > 1 && next[1] == 0x80 }

func oidSignedData() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2} }

// contentName names a content type of PKCS#7.
func contentName(oid asn1.ObjectIdentifier) string {
	names := map[string]string{
		"1.2.840.113549.1.7.1": "data",
		"1.2.840.113549.1.7.3": "enveloped data",
		"1.2.840.113549.1.7.4": "signed and enveloped data",
		"1.2.840.113549.1.7.5": "digested data",
		"1.2.840.113549.1.7.6": "encrypted data",
	}
	return cmp.Or(names[oid.String()], "content of the type "+printable(oid.String()))
}

// finishPKCS7 puts the certificates of PKCS#7, which come in any order, into that of a
// chain.
func (r *chainReader) finishPKCS7() {
	if r.blocks > 1 {
		r.report(Violation{Rule: PKCS7Beside})
	}
	if len(r.broken) > 0 {
		return
	}
	ordered, cause := InOrder(r.chain)
	if cause != "" {
		r.report(Violation{Rule: PKCS7Order, Cause: cause})
	}
	r.chain = ordered
}

// InOrder returns certificates leaf first, or why they are not one chain. It goes by names
// and key identifiers, as a CA wrote them; the signatures are checked later.
func InOrder(certificates Chain) (ordered Chain, cause string) {
	issuers := func(of *x509.Certificate) (all Chain) {
		for _, c := range certificates {
			if c != of && issued(c, of) {
				all = append(all, c)
			}
		}
		return all
	}
	leaves := slices.DeleteFunc(slices.Clone(certificates), func(c *x509.Certificate) bool {
		return slices.ContainsFunc(certificates, func(other *x509.Certificate) bool { return other != c && issued(c, other) })
	})
	if len(leaves) == 0 {
		return nil, "each of them issued another one"
	}
	for next := leaves; len(next) > 0; next = issuers(next[0]) {
		if len(next) > 1 {
			both := strconv.Quote(printable(next[0].Subject.String())) + " and " + strconv.Quote(printable(next[1].Subject.String()))
			if len(ordered) == 0 {
				return nil, both + " issued none of the others"
			}
			return nil, both + " both issued certificate " + strconv.Itoa(len(ordered))
		}
		if slices.Contains(ordered, next[0]) {
			return nil, "some issued each other"
		}
		ordered = append(ordered, next[0])
	}
	if len(ordered) < len(certificates) {
		return nil, "some are not of the leaf's chain"
	}
	return ordered, ""
}

// issued reports whether an issuer's name, and its key identifier where both have one, are
// those that a certificate names.
func issued(issuer, c *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, c.RawIssuer) &&
		(len(issuer.SubjectKeyId) == 0 || len(c.AuthorityKeyId) == 0 || bytes.Equal(issuer.SubjectKeyId, c.AuthorityKeyId))
}

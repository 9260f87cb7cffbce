package pkcs10

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// BlockRequest is the type of the PEM block of a certification request (RFC 7468
// section 7).
const BlockRequest = "CERTIFICATE REQUEST"

const blockCertificate = "CERTIFICATE" // RFC 7468 section 5

// Template is the encoded content of a certification request or a self-signed
// certificate, without the key.
type Template struct {
	subject []byte           // DER of Name
	names   []pkix.Extension // the subject alternative name, or nothing
	ca      bool
}

// newTemplate encodes a subject and names that were checked. crypto/x509 would sort the
// attributes, join repeated ones into one RDN, group names by kind and rewrite URIs.
func newTemplate(spec Spec, names []generalName) (Template, error) {
	der, err := encodeSubject(spec.Subject)
	if err != nil {
		return Template{}, fmt.Errorf("encode the subject: %w", err)
	}
	t := Template{subject: der, ca: spec.CA}
	if len(names) > 0 {
		san, err := encodeNames(names)
		if err != nil {
			return Template{}, fmt.Errorf("encode the subject alternative name: %w", err)
		}
		// Not critical, since the subject is never empty (RFC 5280 section 4.2.1.6).
		t.names = []pkix.Extension{{Id: oidSubjectAltName(), Value: san}}
	}
	return t, nil
}

// TemplateOf returns the template that a certification request was made from.
func TemplateOf(r *x509.CertificateRequest, ca bool) Template {
	t := Template{subject: r.RawSubject, ca: ca}
	for _, e := range r.Extensions {
		if e.Id.Equal(oidSubjectAltName()) {
			t.names = append(t.names, e)
		}
	}
	return t
}

// oidSubjectAltName: RFC 5280 section 4.2.1.6.
func oidSubjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// extensions is what a certification request asks for.
func (t Template) extensions() []pkix.Extension {
	if !t.ca {
		return t.names
	}
	return append([]pkix.Extension{
		// SEQUENCE { cA TRUE } and the bit string with bit 5, keyCertSign.
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x02, 0x04}},
	}, t.names...)
}

// encodeSubject writes one RDN for each attribute (RFC 5280 section 4.1.2.4).
func encodeSubject(subject []Attribute) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, a := range subject {
			oid, _, _ := attributeType(a.Type)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oid)
					b.AddASN1(stringType(a.Type), func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.Value)) })
				})
			})
		}
	})
	return b.Bytes()
}

// stringType is UTF8String, as in the CSRs of the real products, and PrintableString for
// a country (RFC 5280 appendix A.1). OpenSSL writes subjects so too, and "openssl ca"
// compares the type with that in its own certificate: with PrintableString, its policy
// says of two equal organizations that they differ.
func stringType(f Field) cbasn1.Tag {
	if f == Country {
		return cbasn1.PrintableString
	}
	return cbasn1.UTF8String
}

// encodeNames writes GeneralNames (RFC 5280 section 4.2.1.6).
func encodeNames(names []generalName) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, n := range names {
			b.AddASN1(contextTag(n.tag), func(b *cryptobyte.Builder) { b.AddBytes([]byte(n.bytes)) })
		}
	})
	return b.Bytes()
}

// Sign returns the certification request (RFC 2986) as PEM.
func (t Template) Sign(key crypto.Signer) (string, error) {
	algorithm, err := signatureAlgorithm(key.Public())
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		RawSubject:         t.subject,
		ExtraExtensions:    t.extensions(),
		SignatureAlgorithm: algorithm,
	}, key)
	if err != nil {
		return "", fmt.Errorf("build the certification request: %w", err)
	}
	return encodePEM(BlockRequest, der), nil
}

const (
	// maxDaysValid is the most that may be asked for: a hundred years, as in the vendor's
	// product. maxLeafDays is the most that a certificate gets that is not a CA's: clients
	// refuse longer ones.
	maxDaysValid = 36_500
	maxLeafDays  = 825
)

// CheckDays checks for how many days a self-signed certificate shall be valid. nil is
// the default.
func CheckDays(days *int64, broken *Violations) {
	if days != nil && (*days < 1 || *days > maxDaysValid) {
		broken.Add(Violation{Field: DaysValid, Rule: OutOfRange, Value: strconv.FormatInt(*days, 10), Limit: fmt.Sprintf("1 to %d", maxDaysValid)})
	}
}

// SelfSignDays returns a self-signed certificate that is valid for the days that
// CheckDays has checked. Its key usages (RFC 5280 section 4.2.1.3) are, for a CA, to
// sign certificates, revocation lists and OCSP answers. Another RSA key also has
// keyEncipherment, for key transport.
func (t Template) SelfSignDays(key crypto.Signer, days *int64, notBefore time.Time) (string, error) {
	valid := maxLeafDays
	if days != nil && (t.ca || *days < maxLeafDays) {
		valid = int(*days)
	}
	usage := x509.KeyUsageDigitalSignature
	if t.ca {
		usage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	} else if _, ok := key.Public().(*rsa.PublicKey); ok {
		usage |= x509.KeyUsageKeyEncipherment
	}
	return t.SelfSign(key, usage, notBefore, notBefore.AddDate(0, 0, valid))
}

// SelfSign returns a certificate that is signed by its own key, as PEM.
func (t Template) SelfSign(key crypto.Signer, usage x509.KeyUsage, notBefore, notAfter time.Time) (string, error) {
	algorithm, err := signatureAlgorithm(key.Public())
	if err != nil {
		return "", err
	}
	id, err := subjectKeyID(key.Public())
	if err != nil {
		return "", err
	}
	serial := make([]byte, 16)
	rand.Read(serial) // never fails: it ends the process instead
	certificate := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		RawSubject:            t.subject,
		SubjectKeyId:          id,
		ExtraExtensions:       t.names,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              usage,
		BasicConstraintsValid: true,
		IsCA:                  t.ca,
		SignatureAlgorithm:    algorithm,
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, key.Public(), key)
	if err != nil {
		return "", fmt.Errorf("build the self-signed certificate: %w", err)
	}
	return encodePEM(blockCertificate, der), nil
}

// subjectKeyID follows RFC 7093 section 2, method 1.
func subjectKeyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		PublicKey asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("read the encoded public key: %w", err)
	}
	sum := sha256.Sum256(info.PublicKey.Bytes)
	return sum[:20], nil
}

// signatureAlgorithm is SHA-256 with PKCS#1 v1.5 for RSA, since vSphere refuses PSS. For
// ECDSA the hash is as strong as the curve, as CAs want it.
func signatureAlgorithm(pub crypto.PublicKey) (x509.SignatureAlgorithm, error) {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, nil
	case *ecdsa.PublicKey:
		switch bits := pub.Curve.Params().BitSize; {
		case bits > 384:
			return x509.ECDSAWithSHA512, nil
		case bits > 256:
			return x509.ECDSAWithSHA384, nil
		}
		return x509.ECDSAWithSHA256, nil
	}
	return 0, fmt.Errorf("no signature algorithm for a key of type %T", pub)
}

func encodePEM(blockType string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der}))
}

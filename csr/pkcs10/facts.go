package pkcs10

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Facts are what a certificate says. They are stored when it is accepted, because a later
// crypto/x509 may refuse to parse it. The names of the members are part of the stored
// format.
type Facts struct {
	Subject            string    `json:"subject"` // as RFC 4514 writes it, like Issuer
	SubjectCN          string    `json:"subject_cn,omitzero"`
	Issuer             string    `json:"issuer"`
	IssuerCN           string    `json:"issuer_cn,omitzero"`
	Serial             string    `json:"serial"` // in decimal; empty when it has more than 64 octets
	Version            int       `json:"version"`
	NotBefore          time.Time `json:"not_before"`
	NotAfter           time.Time `json:"not_after"`
	KeyAlgorithm       string    `json:"key_algorithm"` // a name, or an object identifier
	KeyBits            int       `json:"key_bits,omitzero"`
	Curve              string    `json:"curve,omitzero"`
	PublicKey          []byte    `json:"public_key"`          // SubjectPublicKeyInfo in DER
	SignatureAlgorithm string    `json:"signature_algorithm"` // a name, or an object identifier
	Signature          []byte    `json:"signature"`
	CA                 bool      `json:"ca,omitzero"`
	Names              []string  `json:"names,omitzero"` // as altNames reads them
	SHA256             string    `json:"sha256"`         // of the DER, in hexadecimal
}

// FactsOf returns the facts of a certificate.
func FactsOf(c *x509.Certificate) Facts {
	f := outline(c.Raw)
	if c.SignatureAlgorithm != x509.UnknownSignatureAlgorithm {
		f.SignatureAlgorithm = c.SignatureAlgorithm.String()
	}
	f.KeyBits, f.CA, f.Names = KeyBits(c.PublicKey), c.IsCA, altNames(c.Extensions)
	if key, is := c.PublicKey.(*ecdsa.PublicKey); is {
		f.Curve = key.Params().Name
	}
	return f
}

// FactsIn returns the facts of each certificate of a chain in PEM that was accepted or
// made here. One that crypto/x509 does not parse any more has those that can be told.
func FactsIn(text string) (all []Facts) {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, FactsOf(c))
		} else {
			all = append(all, outline(block.Bytes))
		}
	}
	return all
}

// Key returns the public key of the certificate.
func (f Facts) Key() (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(f.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("parse the public key: %w", err)
	}
	return key, nil
}

// KeyDigest is the SHA-256 of a public key in hexadecimal: of its SubjectPublicKeyInfo as
// Go encodes it. That of a certificate may be encoded in another way.
func KeyDigest(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode the public key: %w", err)
	}
	return hexSum(der), nil
}

// Description is what a CSR says.
type Description struct {
	Subject      string   // as DistinguishedName writes it
	Names        []string // as altNames reads them
	KeyAlgorithm string
	KeyBits      int
}

// Describe reads a CSR in PEM that was made here.
func Describe(text string) (Description, error) {
	r, err := ParseRequest(text)
	if err != nil {
		return Description{}, err
	}
	return Description{DistinguishedName(r.RawSubject), altNames(r.Extensions), r.PublicKeyAlgorithm.String(), KeyBits(r.PublicKey)}, nil
}

// Digest is the SHA-256 of what the first block of a PEM text holds, in hexadecimal, and
// whether that is a CSR. It is empty where there is no block.
func Digest(text string) (sum string, request bool) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return "", false
	}
	return hexSum(block.Bytes), block.Type == BlockRequest
}

func hexSum(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// outline reads a certificate as far as it can be read, also one that crypto/x509 refuses.
// It judges nothing. What cannot be read is empty.
func outline(der []byte) Facts {
	f := Facts{SHA256: hexSum(der), Version: 1}
	input, serial := cryptobyte.String(der), new(big.Int)
	var certificate, tbs, version, algorithm, issuer, validity, subject, key cryptobyte.String
	var hasVersion bool
	if !input.ReadASN1(&certificate, cbasn1.SEQUENCE) || !certificate.ReadASN1(&tbs, cbasn1.SEQUENCE) ||
		!tbs.ReadOptionalASN1(&version, &hasVersion, contextTag(0).Constructed()) {
		return f
	}
	if hasVersion && version.ReadASN1Integer(&f.Version) {
		f.Version++ // version 3 is encoded as 2
	}
	// RFC 5280 section 4.1.2.2 allows 20 octets. To write thousands in decimal takes long.
	const maxSerialBits = 512
	if tbs.ReadASN1Integer(serial) && serial.BitLen() <= maxSerialBits {
		f.Serial = serial.String()
	}
	// One that is missing makes those after it empty.
	_ = tbs.ReadASN1(&algorithm, cbasn1.SEQUENCE) && tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) && tbs.ReadASN1(&validity, cbasn1.SEQUENCE) &&
		tbs.ReadASN1Element(&subject, cbasn1.SEQUENCE) && tbs.ReadASN1Element(&key, cbasn1.SEQUENCE)
	f.Issuer, f.IssuerCN = readName(issuer)
	f.Subject, f.SubjectCN = readName(subject)
	f.NotBefore = readTime(&validity)
	f.NotAfter = readTime(&validity)
	f.SignatureAlgorithm = algorithmName(algorithm)
	f.PublicKey = key
	var keyAlgorithm cryptobyte.String
	if key.ReadASN1(&key, cbasn1.SEQUENCE) && key.ReadASN1(&keyAlgorithm, cbasn1.SEQUENCE) {
		f.KeyAlgorithm = algorithmName(keyAlgorithm)
	}
	if certificate.SkipASN1(cbasn1.SEQUENCE) {
		_ = certificate.ReadASN1BitStringAsBytes(&f.Signature)
	}
	return f
}

// subjectOf returns the subject of a certificate of which the beginning is there, or "".
func subjectOf(beginning []byte) string {
	const missing = 1 << 16
	name := outline(append(bytes.Clone(beginning), make([]byte, missing)...)).Subject
	if strings.Contains(name, "\x00") {
		return "" // it is not there whole
	}
	return name
}

// algorithmName returns the name of the algorithm of an AlgorithmIdentifier, in the words
// of crypto/x509, or its object identifier.
func algorithmName(identifier cryptobyte.String) string {
	var oid asn1.ObjectIdentifier
	if !identifier.ReadASN1ObjectIdentifier(&oid) {
		return ""
	}
	names := map[string]string{
		"1.2.840.113549.1.1.1":    "RSA",
		"1.2.840.113549.1.1.10":   "RSA-PSS",
		"1.2.840.113549.1.1.14":   "SHA224-RSA",
		"1.2.840.10045.2.1":       "ECDSA",
		"1.2.840.10045.4.3.1":     "ECDSA-SHA224",
		"1.2.840.10040.4.1":       "DSA",
		"1.3.101.110":             "X25519",
		"1.3.101.111":             "X448",
		"1.3.101.112":             "Ed25519",
		"1.3.101.113":             "Ed448",
		"2.16.840.1.101.3.4.3.9":  "ECDSA-SHA3-224",
		"2.16.840.1.101.3.4.3.10": "ECDSA-SHA3-256",
		"2.16.840.1.101.3.4.3.11": "ECDSA-SHA3-384",
		"2.16.840.1.101.3.4.3.12": "ECDSA-SHA3-512",
		"2.16.840.1.101.3.4.3.13": "SHA3-224-RSA",
		"2.16.840.1.101.3.4.3.14": "SHA3-256-RSA",
		"2.16.840.1.101.3.4.3.15": "SHA3-384-RSA",
		"2.16.840.1.101.3.4.3.16": "SHA3-512-RSA",
		"2.16.840.1.101.3.4.3.17": "ML-DSA-44",
		"2.16.840.1.101.3.4.3.18": "ML-DSA-65",
		"2.16.840.1.101.3.4.3.19": "ML-DSA-87",
	}
	if name, known := names[oid.String()]; known {
		return name
	}
	return oid.String()
}

func readTime(from *cryptobyte.String) (t time.Time) {
	if from.PeekASN1Tag(cbasn1.UTCTime) {
		_ = from.ReadASN1UTCTime(&t)
	} else {
		_ = from.ReadASN1GeneralizedTime(&t)
	}
	return t
}

// DistinguishedName writes a name as RFC 4514 does, with its attributes in their
// encoded order. pkix.Name.String sorts them.
func DistinguishedName(der []byte) string {
	name, _ := readName(der)
	return name
}

// readName is DistinguishedName, and the last common name. It takes every character in
// every kind of string. Of a name of more than 100 attributes it takes the first 100: pkix
// needs time in their square to write them.
func readName(der cryptobyte.String) (name, commonName string) {
	const maxAttributes, maxOID = 100, 32
	attributes := 0
	var rdns pkix.RDNSequence
	var sequence, set, attribute, value cryptobyte.String
	var oid asn1.ObjectIdentifier
	var tag cbasn1.Tag
	_ = der.ReadASN1(&sequence, cbasn1.SEQUENCE)
	for sequence.ReadASN1(&set, cbasn1.SET) {
		var rdn pkix.RelativeDistinguishedNameSET
		for set.ReadASN1(&attribute, cbasn1.SEQUENCE) && attribute.ReadASN1ObjectIdentifier(&oid) && attribute.ReadAnyASN1(&value, &tag) {
			if attributes++; attributes > maxAttributes || len(oid) > maxOID {
				return append(rdns, rdn).String() + ",…", commonName
			}
			text := stringOf(value, tag)
			if oid.Equal(asn1.ObjectIdentifier{2, 5, 4, 3}) {
				commonName = text
			}
			rdn = append(rdn, pkix.AttributeTypeAndValue{Type: oid, Value: text})
		}
		rdns = append(rdns, rdn)
	}
	return rdns.String(), commonName
}

// stringOf returns the characters of an ASN.1 string.
func stringOf(value cryptobyte.String, tag cbasn1.Tag) string {
	const bmpString = cbasn1.Tag(30)
	if tag != bmpString {
		return strings.ToValidUTF8(string(value), "\uFFFD")
	}
	var units []uint16
	for unit := uint16(0); value.ReadUint16(&unit); {
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// KeyBits is the size of a public key: of the modulus or of the curve. It is 0 for a key
// of another kind.
func KeyBits(key crypto.PublicKey) int {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen()
	case *ecdsa.PublicKey:
		return key.Params().BitSize
	case ed25519.PublicKey:
		return 256
	}
	return 0
}

// altNames reads the subject alternative names of four kinds.
func altNames(extensions []pkix.Extension) (names []string) {
	eachAltName(extensions, func(tag cbasn1.Tag, content cryptobyte.String) {
		switch tag {
		case contextTag(tagRFC822Name), contextTag(tagDNSName), contextTag(tagURI):
			names = append(names, string(content))
		case contextTag(tagIPAddress):
			if address, ok := netip.AddrFromSlice(content); ok {
				names = append(names, address.String())
			}
		}
	})
	return names
}

// eachAltName calls fn with the subject alternative names of all kinds, in their encoded
// order. crypto/x509 sorts them by kind and rewrites URIs.
func eachAltName(extensions []pkix.Extension, fn func(tag cbasn1.Tag, content cryptobyte.String)) {
	for _, e := range extensions {
		value, list := cryptobyte.String(e.Value), cryptobyte.String(nil)
		if !e.Id.Equal(oidSubjectAltName()) || !value.ReadASN1(&list, cbasn1.SEQUENCE) {
			continue
		}
		var content cryptobyte.String
		var tag cbasn1.Tag
		for list.ReadAnyASN1(&content, &tag) {
			fn(tag, content)
		}
	}
}

// contextTag is [n] of a type that is not constructed.
func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// JWK has the members of a public key in a JSON Web Key that identify it (RFC 7518
// section 6), in the order of their names: its JSON is what RFC 7638 section 3 hashes.
type JWK struct {
	Curve    string `json:"crv,omitzero"`
	Exponent string `json:"e,omitzero"`
	Type     string `json:"kty"`
	Modulus  string `json:"n,omitzero"`
	X        string `json:"x,omitzero"`
	Y        string `json:"y,omitzero"`
}

// NewJWK returns the members of an RSA key, or of one on P-256, P-384 or P-521.
func NewJWK(public crypto.PublicKey) (JWK, error) {
	encode := base64.RawURLEncoding.EncodeToString
	switch key := public.(type) {
	case *rsa.PublicKey:
		return JWK{Type: "RSA", Modulus: encode(key.N.Bytes()), Exponent: encode(big.NewInt(int64(key.E)).Bytes())}, nil
	case *ecdsa.PublicKey:
		point, err := key.Bytes() // RFC 7518 section 6.2.1.2 has each coordinate at its full length, too
		if err != nil {
			return JWK{}, fmt.Errorf("encode the public key: %w", err)
		}
		half := (len(point) - 1) / 2
		return JWK{Type: "EC", Curve: key.Params().Name, X: encode(point[1 : 1+half]), Y: encode(point[1+half:])}, nil
	}
	return JWK{}, fmt.Errorf("no JSON Web Key is made of a key of type %T", public)
}

// Key returns the public key. It takes what NewJWK writes, and exponents and moduli with
// zeros before them, which others write.
func (k JWK) Key() (crypto.PublicKey, error) {
	switch curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]; {
	case k.Type == "RSA":
		n, nErr := base64.RawURLEncoding.DecodeString(k.Modulus)
		e, eErr := base64.RawURLEncoding.DecodeString(k.Exponent)
		exponent := new(big.Int).SetBytes(e)
		if nErr != nil || eErr != nil || len(n) > maxModulus || exponent.BitLen() > 31 || exponent.Int64() < 3 {
			return nil, errors.New("the JSON Web Key is not an RSA key")
		}
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}
		if key.N.BitLen() < 1024 {
			return nil, errors.New("the JSON Web Key is an RSA key of less than 1024 bits")
		}
		return key, nil
	case k.Type == "EC" && curve != nil:
		x, xErr := base64.RawURLEncoding.DecodeString(k.X)
		y, yErr := base64.RawURLEncoding.DecodeString(k.Y)
		if size := (curve.Params().BitSize + 7) / 8; xErr != nil || yErr != nil || len(x) != size || len(y) != size {
			return nil, errors.New("the coordinates of the JSON Web Key are not those of its curve")
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
		if err != nil {
			return nil, fmt.Errorf("the JSON Web Key is not a point of its curve: %w", err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("no signature is verified with a JSON Web Key of type %q", k.Type)
}

// maxModulus is the length of the longest RSA modulus that anything is verified with.
const maxModulus = 2048

// Thumbprint is the SHA-256 thumbprint of RFC 7638 of a key that NewJWK takes, in
// base64url. It is the key's id wherever it signs.
func Thumbprint(public crypto.PublicKey) (string, error) {
	key, err := NewJWK(public)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(key)
	if err != nil {
		return "", fmt.Errorf("encode the JSON Web Key: %w", err)
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

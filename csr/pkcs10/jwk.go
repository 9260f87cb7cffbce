package pkcs10

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"

	"github.com/go-json-experiment/json"
)

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

package command

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/transit"
)

// maxSignatureFile is more than any signature needs, in any form.
const maxSignatureFile = 64 << 10

// givenSignature is a signature to verify. What its file does not say is empty.
type givenSignature struct {
	bytes             []byte
	version           int
	key, hash, scheme string
}

// parseGiven reads a signature in one of four forms: the JSON of "key sign", vault:vN: and
// base64, base64 alone, or the bytes themselves.
func parseGiven(content []byte) (givenSignature, error) {
	text := strings.TrimSpace(string(content))
	switch {
	case text == "":
		return givenSignature{}, errors.New("the signature is empty")
	case strings.HasPrefix(text, "{"):
		var d signatureDocument
		if err := json.Unmarshal([]byte(text), &d); err != nil || d.Signature == "" {
			break // 0x7b is also how some signatures begin
		}
		signature, err := base64.StdEncoding.DecodeString(d.Signature)
		if err != nil || len(signature) == 0 || d.Version < 0 {
			return givenSignature{}, errors.New("the JSON of the signature is not that of \"key sign\"")
		}
		return givenSignature{signature, d.Version, d.Key, d.Hash, d.Scheme}, nil
	case strings.HasPrefix(text, "vault:"):
		version, signature, err := transit.ParseSignature(text)
		if err == nil && len(signature) == 0 {
			err = errors.New("there is no signature behind vault:vN")
		}
		if err != nil {
			return givenSignature{}, err
		}
		return givenSignature{bytes: signature, version: version}, nil
	}
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil {
		return givenSignature{bytes: decoded}, nil
	}
	return givenSignature{bytes: content}, nil
}

// publicOf returns the public key of a version of a key.
func publicOf(info transit.KeyInfo, version int) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(info.Versions[strconv.Itoa(version)].PublicKey))
	if block == nil {
		return nil, fmt.Errorf("the server does not show version %d of the key %s", version, info.Name)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key of version %d of the key %s: %w", version, info.Name, err)
	}
	return key, nil
}

// schemeFor is the scheme that a key signs with.
func schemeFor(public crypto.PublicKey, scheme string) string {
	if _, is := public.(*ecdsa.PublicKey); is {
		return schemeECDSA
	}
	return scheme
}

// verifies reports whether a signature is that of a key.
func verifies(public crypto.PublicKey, how signing, digest, signature []byte) bool {
	hash := hashes()[how.hash].hash
	switch key := public.(type) {
	case *rsa.PublicKey:
		if how.scheme == schemePKCS1 {
			return rsa.VerifyPKCS1v15(key, hash, digest, signature) == nil
		}
		return rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, signature)
	}
	return false
}

// publishedKey is a key of a JSON Web Key set.
type publishedKey struct {
	pkcs10.JWK
	ID           string   `json:"kid"`
	Algorithm    string   `json:"alg"`
	Certificates []string `json:"x5c"`
	public       crypto.PublicKey
}

// readKeySet reads a JSON Web Key set (RFC 7517 section 5). Keys of a kind that is not used
// here are left out, as that section says.
func readKeySet(text []byte) ([]publishedKey, error) {
	var set struct {
		Keys []publishedKey `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a JSON Web Key set: %w", err)
	}
	var keys []publishedKey
	for _, k := range set.Keys {
		public, err := k.Key()
		if err != nil {
			continue
		}
		k.public = public
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("the JSON Web Key set has no key that verifies signatures")
	}
	return keys, nil
}

// certificate is the first one of a published key, if it can be read.
func (k publishedKey) certificate() *x509.Certificate {
	if len(k.Certificates) == 0 {
		return nil
	}
	der, err := base64.StdEncoding.DecodeString(k.Certificates[0])
	if err != nil {
		return nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return c
}

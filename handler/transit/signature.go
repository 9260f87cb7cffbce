package transit

import (
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"strconv"
	"strings"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

// prefix and the version, as v1, stand before a signature, each with a colon behind.
const prefix = "vault:v"

// signature is one that a client sends.
type signature struct {
	version int
	bytes   []byte
}

// parseSignature reads what formatSignature writes.
func parseSignature(text string, jws bool) (s signature, err error) {
	version, encoded, whole := strings.Cut(strings.TrimPrefix(text, prefix), ":")
	n, isInteger := strict.ParseInteger(version)
	if !strings.HasPrefix(text, prefix) || !whole || !isInteger || n < 1 {
		return s, invalid("signature must begin with " + prefix + "N:, where N is the version of the key")
	}
	encoding := base64.StdEncoding
	if jws {
		encoding = base64.RawURLEncoding
	}
	if s.bytes, err = encoding.Strict().DecodeString(encoded); err != nil {
		return s, invalid("signature must be base64 behind its prefix: standard with marshaling_algorithm asn1, URL-safe without padding with jws")
	}
	s.version = int(n)
	return s, nil
}

// formatSignature writes a signature as the job asks for it.
func formatSignature(made csr.Signature, j *job) (string, error) {
	raw, encoded := made.Bytes, ""
	if j.jws && j.scheme == csr.ECDSA {
		var err error
		if raw, err = flat(raw, j.bits); err != nil {
			return "", err
		}
	}
	if j.jws {
		encoded = base64.RawURLEncoding.EncodeToString(raw)
	} else {
		encoded = base64.StdEncoding.EncodeToString(raw)
	}
	return prefix + strconv.Itoa(made.Version) + ":" + encoded, nil
}

// raw returns the signature as the core takes it. It is not well-formed where it cannot be
// a signature at all.
func (s signature) raw(j *job) (raw []byte, wellFormed bool) {
	if !j.jws || j.scheme != csr.ECDSA {
		return s.bytes, true
	}
	size := coordinate(j.bits)
	if len(s.bytes) != 2*size {
		return nil, false
	}
	raw, err := asn1.Marshal(pair{new(big.Int).SetBytes(s.bytes[:size]), new(big.Int).SetBytes(s.bytes[size:])})
	return raw, err == nil
}

// pair is Ecdsa-Sig-Value of RFC 3279 section 2.2.3.
type pair struct{ R, S *big.Int }

// flat makes a signature in ASN.1 one as RFC 7518 section 3.4 has it.
func flat(der []byte, bits int) ([]byte, error) {
	var p pair
	if _, err := asn1.Unmarshal(der, &p); err != nil {
		return nil, err
	}
	size := coordinate(bits)
	joined := make([]byte, 2*size)
	p.R.FillBytes(joined[:size])
	p.S.FillBytes(joined[size:])
	return joined, nil
}

// coordinate is how long half of a signature by a curve of so many bits is.
func coordinate(bits int) int { return (bits + 7) / 8 }

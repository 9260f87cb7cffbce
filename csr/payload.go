package csr

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
)

// payloadVersion is the format that is written. A change of format gets a new
// number, a reader of the old one, and its own golden file.
const payloadVersion = 1

// payload is what the slots of this package hold beside their key, as JSON. The
// PEM is ready to serve, so that a read neither opens the key nor parses ASN.1.
type payload struct {
	Version int    `json:"version"`
	PEM     string `json:"pem"` // the CSR, or the chain with the leaf first
	// Created is when the CSR was made; only where PEM is a CSR.
	Created time.Time `json:"created,omitzero"`
	// NotAfter is the leaf's; only where PEM is a chain.
	NotAfter time.Time `json:"not_after,omitzero"`
}

func (p payload) encode() ([]byte, error) {
	p.Version = payloadVersion
	b, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode a payload: %w", err)
	}
	return b, nil
}

func decodePayload(b []byte) (payload, error) {
	var p payload
	if err := json.Unmarshal(b, &p); err != nil {
		return payload{}, fmt.Errorf("decode a payload: %w", err)
	}
	switch {
	case p.Version != payloadVersion:
		return payload{}, fmt.Errorf("decode a payload: it has format %d, this version reads %d", p.Version, payloadVersion)
	case p.PEM == "":
		return payload{}, errors.New("decode a payload: it holds no PEM")
	}
	return p, nil
}

// publicKey returns the key of the CSR or of the leaf.
func (p payload) publicKey() (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(p.PEM))
	if block == nil {
		return nil, errors.New("a payload holds no PEM block")
	}
	switch block.Type {
	case blockRequest:
		r, err := parseRequest(p.PEM)
		if err != nil {
			return nil, err
		}
		return r.PublicKey, nil
	case blockCertificate:
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse the stored certificate: %w", err)
		}
		return c.PublicKey, nil
	}
	return nil, fmt.Errorf("a payload holds a PEM block of type %q", block.Type)
}

// parseRequest reads a stored certification request.
func parseRequest(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != blockRequest {
		return nil, errors.New("a payload holds no CSR")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse the stored CSR: %w", err)
	}
	return r, nil
}

// sameKey reports whether two public keys are the same. It compares keys, not
// their encodings, because a CA may encode the parameters in another way.
func sameKey(a, b crypto.PublicKey) bool {
	equal, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && equal.Equal(b)
}

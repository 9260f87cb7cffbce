package csr

import (
	"crypto"
	"crypto/x509"
	"time"

	"attestcsr/keystore"
)

// What the tests of the parts below the Service see of them.

type (
	Template = template
	Payload  = payload
)

func Resolve(spec Spec, hostname string, keySizes ...int) (keystore.KeySpec, Template, error) {
	return policy{keySizes, hostname}.resolve(spec)
}

func (t template) Sign(key crypto.Signer) (string, error) { return t.sign(key) }

func AcceptChain(text []byte, now time.Time) (pem string, certificates []*x509.Certificate, err error) {
	c, err := acceptChain(text, now)
	if err != nil {
		return "", nil, err
	}
	return c.pem(), c, nil
}

func EncodePayload(p Payload) ([]byte, error) { return p.encode() }

func DecodePayload(b []byte) (Payload, error) { return decodePayload(b) }

func (p payload) PublicKey() (crypto.PublicKey, error) { return p.publicKey() }

const (
	MaxAttempts = maxAttempts
	MaxAhead    = maxAhead
)

func PendingSlot() keystore.Slot { return pendingSlot() }

func InstalledSlot() keystore.Slot { return installedSlot() }

package csr

import (
	"crypto"
	"crypto/x509"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
)

// What the tests of the parts below the Service see of them.

type (
	Template = template
	Payload  = payload
)

func Resolve(spec Spec, hostname string, keySizes ...int) (keystore.KeySpec, Template, error) {
	resolved, t, err := policy{keySizes, hostname}.resolve(spec)
	if err != nil {
		return keystore.KeySpec{}, Template{}, classify(err)
	}
	return keySpec(resolved), t, nil
}

func (t template) Sign(key crypto.Signer) (string, error) { return t.sign(key) }

func AcceptChain(text []byte, now time.Time) (pem string, certificates []*x509.Certificate, err error) {
	c, err := acceptChain(text, now, x509.KeyUsageDigitalSignature)
	if err != nil {
		return "", nil, classify(err)
	}
	return c.pem(), c, nil
}

func EncodePayload(p Payload) ([]byte, error) { return p.encode() }

func DecodePayload(r keystore.Record) (Payload, error) { return decodePayload(r) }

func (p payload) PublicKey() (crypto.PublicKey, error) { return publicKey(p.PEM) }

const (
	MaxAttempts = maxAttempts
	MaxAhead    = maxAhead
)

func PendingSlot() keystore.Slot { return pendingSlot() }

func InstalledSlot() keystore.Slot { return installedSlot() }

func RequestSlot(id string) keystore.Slot { return requestSlot(id) }

func CertificateSlot(id string) keystore.Slot { return certificateSlot(id) }

func CertificateIn(r keystore.Record) (NamedCertificate, error) { return certificateIn(r) }

// StoreObject checks an id and labels and returns what would be stored of them.
func StoreObject(id string, l Labels) (keystore.Change, error) {
	var broken violations
	checkID(id, &broken)
	l.check(&broken)
	if err := broken.err(); err != nil {
		return keystore.Change{}, classify(err)
	}
	g := Grant{service: &Service{now: time.Now}, caller: Caller{Request: audit.Request{User: "u"}}}
	p := payload{Object: g.newObject(id, "unique", l), PEM: "pem"}
	return g.service.change(p, audit.Event{}, p.order()...)
}

func Sortable(t time.Time) []byte { return sortable(t) }

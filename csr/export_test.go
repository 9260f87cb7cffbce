package csr

import (
	"crypto"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// What the tests of the parts below the Service see of them.

type Payload = payload

func EncodePayload(p Payload) ([]byte, error) { return p.encode() }

func DecodePayload(r keystore.Record) (Payload, error) { return decodePayload(r) }

func (p payload) PublicKey() (crypto.PublicKey, error) { return pkcs10.PublicKey(p.PEM) }

const MaxAttempts = maxAttempts

func PendingSlot() keystore.Slot { return pendingSlot() }

func InstalledSlot() keystore.Slot { return installedSlot() }

func RequestSlot(id string) keystore.Slot { return requestSlot(id) }

func CertificateSlot(id string) keystore.Slot { return certificateSlot(id) }

func CertificateIn(r keystore.Record) (NamedCertificate, error) { return certificateIn(r) }

// StoreObject checks an id and labels and returns what would be stored of them.
func StoreObject(id string, l Labels) (keystore.Change, error) {
	var broken pkcs10.Violations
	checkID(id, &broken)
	l.check(&broken)
	if err := broken.Err(); err != nil {
		return keystore.Change{}, classify(err)
	}
	g := Grant{service: &Service{now: time.Now}, caller: Caller{Request: audit.Request{User: "u"}}}
	p := payload{Object: g.newObject(id, "unique", l), PEM: "pem"}
	return g.service.change(p, audit.Event{}, p.indexEntries()...)
}

func Sortable(t time.Time) []byte { return sortable(t) }

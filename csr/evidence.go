package csr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// event is the event of this grant's operation on a slot.
func (g *Grant) event(slot keystore.Slot) audit.Event {
	return audit.Event{Request: g.caller.Request, Operation: string(g.operation), Slot: slot.String()}
}

// moved adds to an event that the key of a CSR, which is given as PEM, moved from
// another slot.
func moved(e audit.Event, from keystore.Slot, request string) audit.Event {
	e.From = from.String()
	addDigest(&e, request)
	return e
}

// addDigest adds the digest of a CSR or of the leaf of a chain, and returns what it says.
// An event without that is better than no change.
func addDigest(e *audit.Event, text string) pkcs10.Description {
	d, _ := pkcs10.Describe(text)
	if d.Request {
		e.CSR = d.Digest
	} else {
		e.Certificate = d.Digest
	}
	return d
}

// describe adds what a slot is going to hold: the trail is compared with the store, and
// says whom an object was for when the object is gone.
func describe(e *audit.Event, payload []byte, text string) {
	d, sum := addDigest(e, text), sha256.Sum256(payload)
	e.Payload = hex.EncodeToString(sum[:])
	e.Subject, e.Names = d.Subject, d.Names
	e.KeyAlgorithm, e.KeySize = d.KeyAlgorithm, d.KeyBits
	e.Issuer, e.Serial = d.Issuer, d.Serial
}

// over returns the target and the event of a change over whatever a slot holds. Where
// that cannot be read, the event says so, and the change is over that record alone.
func (g *Grant) over(ctx context.Context, slot keystore.Slot) (keystore.Target, audit.Event) {
	at, e := keystore.Target{Slot: slot, Expect: keystore.Any}, g.event(slot)
	record, err := g.service.keys.Get(ctx, slot)
	if e.Replaced = unreadable(record, err); e.Replaced != "" {
		at.Expect = keystore.At(record.Revision)
	}
	return at, e
}

// unreadable says in the trail's words why a record cannot be read. It takes what
// Keystore.Get returns. "" is a record that can be read, or no record.
func unreadable(r keystore.Record, err error) string {
	if errors.Is(err, keystore.ErrUnauthentic) {
		return "unauthentic"
	}
	if _, damaged := storedPEM(r); err == nil && damaged != nil {
		return "damaged"
	}
	return ""
}

// refuse reports a certificate that breaks a rule to the trail, as the rule that it
// breaks first, and returns the error of the operation.
func (g *Grant) refuse(err error) error {
	if broken, ok := errors.AsType[pkcs10.Violations](err); ok && broken[0].Field == pkcs10.CertificateChain {
		g.service.audit.Refuse(audit.Refusal{Request: g.caller.Request, Operation: string(g.operation), Outcome: string(broken[0].Rule)})
	}
	return classify(err)
}

// remove empties a slot, also where its record cannot be read. The event has the digest
// of what is removed: the deletion expects the revision that was read, and starts again
// when it has changed.
//
// A crash leaves the whole object or nothing. Deleting again is safe.
func (g *Grant) remove(ctx context.Context, slot keystore.Slot) error {
	s := g.service
	var conflict error
	for range maxAttempts {
		record, err := s.keys.Get(ctx, slot)
		event := g.event(slot)
		event.Replaced = unreadable(record, err)
		if err != nil && event.Replaced == "" {
			return err
		}
		if text, err := storedPEM(record); err == nil {
			addDigest(&event, text)
		}
		note, err := s.audit.Note(event)
		if err != nil {
			return err
		}
		at := keystore.Target{Slot: slot, Expect: keystore.At(record.Revision)}
		if conflict = s.keys.Delete(ctx, at, note); !errors.Is(conflict, keystore.ErrConflict) {
			return conflict
		}
	}
	return conflict
}

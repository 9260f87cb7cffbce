package csr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/big"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// Trail returns lines of the audit trail, the newest first. It is the one reader of files:
// it takes no lock that a change needs.
//
// Errors: Busy while others read, Internal.
func (g *Grant) Trail(ctx context.Context, q audit.Query) (audit.Page, error) {
	if err := g.permits(ReadTrail); err != nil {
		return audit.Page{}, err
	}
	page, err := g.service.audit.Read(ctx, q)
	if errors.Is(err, audit.ErrReaders) {
		return page, &Error{Kind: Busy, RetryAfter: busyRetryAfter, Err: err}
	}
	return page, classify(err)
}

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

// addDigest adds the digest of a CSR or of the leaf of a chain.
func addDigest(e *audit.Event, text string) {
	if sum, request := pkcs10.Digest(text); request {
		e.CSR = sum
	} else {
		e.Certificate = sum
	}
}

// describe adds what a slot is going to hold: the trail is compared with the store, and
// says whom an object was for when the object is gone. An event without what a CSR says
// is better than no change.
func describe(e *audit.Event, encoded []byte, p payload) {
	sum := sha256.Sum256(encoded)
	e.Payload = hex.EncodeToString(sum[:])
	addDigest(e, p.PEM)
	if p.Facts == nil {
		d, _ := pkcs10.Describe(p.PEM)
		e.Subject, e.Names = d.Subject, d.Names
		e.KeyAlgorithm, e.KeySize = d.KeyAlgorithm, d.KeyBits
		return
	}
	leaf := p.Facts[0]
	e.Subject, e.Names = leaf.Subject, leaf.Names
	e.KeyAlgorithm, e.KeySize, e.Issuer = leaf.KeyAlgorithm, leaf.KeyBits, leaf.Issuer
	if serial, ok := new(big.Int).SetString(leaf.Serial, 10); ok {
		e.Serial = serial.Text(16)
	}
}

// over returns the target and the event of a change over whatever a slot holds, and that
// as it was read before. Where it cannot be read, the event says so, and the change is
// over that record alone.
func (g *Grant) over(ctx context.Context, slot keystore.Slot) (keystore.Target, keystore.Record, audit.Event) {
	at, e := keystore.Target{Slot: slot, Expect: keystore.Any}, g.event(slot)
	record, err := g.service.keys.Get(ctx, slot)
	if e.Replaced = unreadable(record, err); e.Replaced != "" {
		at.Expect = keystore.At(record.Revision)
	}
	return at, record, e
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

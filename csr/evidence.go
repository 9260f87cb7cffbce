package csr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// event is the event of this grant's operation on a slot. texts are the CSR and the
// chain that it is about, as PEM.
func (g *Grant) event(slot keystore.Slot, texts ...string) audit.Event {
	e := audit.Event{Request: g.caller.Request, Operation: string(g.operation), Slot: slot.String()}
	for _, text := range texts {
		addDigest(&e, text)
	}
	return e
}

// moved is the event of a key that moved from one slot to another.
func (g *Grant) moved(from, to keystore.Slot, texts ...string) audit.Event {
	e := g.event(to, texts...)
	e.From = from.String()
	return e
}

// addDigest adds the SHA-256 of the DER, in hexadecimal, of a CSR or of the leaf of a
// chain. An event without it is better than no change.
func addDigest(e *audit.Event, text string) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return
	}
	sum := sha256.Sum256(block.Bytes)
	if block.Type == pkcs10.BlockRequest {
		e.CSR = hex.EncodeToString(sum[:])
	} else {
		e.Certificate = hex.EncodeToString(sum[:])
	}
}

// remove empties a slot. The event has the digest of what is removed: the deletion
// expects the revision that was read, and starts again when it has changed.
//
// A crash leaves the whole object or nothing. Deleting again is safe.
func (g *Grant) remove(ctx context.Context, slot keystore.Slot) error {
	s := g.service
	var conflict error
	for range maxAttempts {
		record, err := s.keys.Get(ctx, slot)
		if err != nil {
			return err
		}
		text, _ := storedPEM(record) // a payload that cannot be read can be deleted
		note, err := s.audit.Note(g.event(slot, text))
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

package csr

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
)

// event is what the audit trail tells of an operation of this grant on a slot.
func (g *Grant) event(slot keystore.Slot) audit.Event {
	return audit.Event{Request: g.caller.Request, Operation: string(g.operation), Slot: slot.String()}
}

// moved is the event of a key that went from one slot to another.
func (g *Grant) moved(from, to keystore.Slot) audit.Event {
	e := g.event(to)
	e.From = from.String()
	return e
}

// fingerprint is the SHA-256 of the first block of a PEM text, in hexadecimal: of
// the CSR, or of the leaf of a chain, in DER.
func fingerprint(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return "" // what is stored is PEM; an event without a digest is better than no change
	}
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// permitsChange is permits for an operation that changes something: it is refused,
// before a key is taken, where the audit trail could not tell of it.
func (g *Grant) permitsChange(ctx context.Context, o Operation) error {
	if err := g.permits(o); err != nil {
		return err
	}
	return classify(g.service.audit.Admit(ctx))
}

// remove empties a slot. name says where in the event the digest of what it held
// goes: the evidence is of what was removed and not of what another put there
// meanwhile, so that the slot is pinned and looked at again.
//
// A crash leaves the whole object or nothing; deleting again settles it.
func (g *Grant) remove(ctx context.Context, slot keystore.Slot, name func(*audit.Event) *string) error {
	s := g.service
	var conflict error
	for range maxAttempts {
		record, err := s.keys.Get(ctx, slot)
		if err != nil {
			return err
		}
		event := g.event(slot)
		// What cannot be read can be deleted all the same.
		if text, err := storedPEM(record); err == nil {
			*name(&event) = fingerprint(text)
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

func csrDigest(e *audit.Event) *string { return &e.CSR }

func certificateDigest(e *audit.Event) *string { return &e.Certificate }

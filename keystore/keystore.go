// Package keystore keeps private keys and the payload that belongs to each of
// them, in slots that are replaced atomically.
//
// A slot holds at most one private key and one payload. Custodians decide where
// keys live (sealed in the record, an HSM, a TPM), stores decide where records
// live (bbolt, etcd); this package decides in which order the two are touched,
// so that a reader, at any moment and after any crash, finds the old pair or the
// new pair and never a mixture.
//
// The payload is opaque bytes here: what a certificate is, who may ask for one
// and how it travels is the business of the layers above.
package keystore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
)

// Errors of this package, of stores and of custodians. Callers test with errors.Is.
var (
	// ErrNotFound: the slot holds nothing.
	ErrNotFound = errors.New("slot is empty")
	// ErrNoKey: the record of the slot holds no key.
	ErrNoKey = errors.New("the record holds no key")
	// ErrConflict: the slot was not in the state that the caller's Expect
	// named; nothing was changed.
	ErrConflict = errors.New("slot changed in the meantime")
	// ErrBusy: more callers wait for a key than the queue takes, or the wait
	// reached its deadline; nothing was changed.
	ErrBusy = errors.New("too many requests are waiting for a key")
	// ErrNotCommitted: the store refused or failed the commit, and it is
	// certain that nothing was changed.
	ErrNotCommitted = errors.New("not committed")
	// ErrOutcomeUnknown: the commit failed in a way that leaves open whether it
	// will be seen after a restart. Neither the old nor the new key may be
	// destroyed; what is stored must be read again before the next step.
	ErrOutcomeUnknown = errors.New("commit outcome unknown")
	// ErrUnauthentic: what is stored was not written by a holder of the sealing keyset,
	// or cannot be read.
	ErrUnauthentic = errors.New("not written by this service")
	// ErrRotated: the sealing keyset has another primary key since the commit was
	// made up. Nothing was changed.
	ErrRotated = errors.New("the sealing key was rotated in the meantime")
	// ErrUnavailable: the store or custodian is closed, or is recovering from
	// an outcome that was unknown.
	ErrUnavailable = errors.New("key store unavailable")
)

// BusyError is an ErrBusy that says why and for how long.
type BusyError struct {
	Reason string
	// RetryAfter is when trying again makes sense, at least a second.
	RetryAfter time.Duration
}

func (e *BusyError) Error() string { return ErrBusy.Error() + ": " + e.Reason }

// Unwrap makes errors.Is(err, ErrBusy) hold.
func (e *BusyError) Unwrap() error { return ErrBusy }

// Slot names one place for a key and its payload. Collection groups slots that
// are counted and listed together, such as "nsx/csrs"; ID is unique in it.
// Neither holds a NUL byte and neither is empty.
type Slot struct{ Collection, ID string }

func (s Slot) String() string { return s.Collection + "/" + s.ID }

// Ref is how a custodian finds a key again: the sealed key itself, an object
// label, a key URI. It is stored in the slot's record and is not secret by
// itself, but does not leave this package either.
type Ref []byte

// Algorithm is the kind of a key pair.
type Algorithm string

// The algorithms a custodian may be asked for.
const (
	RSA   Algorithm = "RSA"
	ECDSA Algorithm = "ECDSA"
)

// KeySpec says what key to make. Bits is the modulus length for RSA and the
// curve size (256, 384 or 521) for ECDSA. Which sizes are allowed is policy and
// decided above; a custodian refuses what it cannot make.
type KeySpec struct {
	Algorithm Algorithm
	Bits      int
}

func (s KeySpec) String() string { return fmt.Sprintf("%s-%d", s.Algorithm, s.Bits) }

// Binding is what a key is tied to when it is stored: the slot it lives in and
// the digest of the payload stored beside it. A custodian that can (sealed)
// authenticates both, so that nobody who writes to the store's file can pair a
// key with another slot or another payload.
type Binding struct {
	Slot   Slot
	Digest [sha256.Size]byte
}

// Bind returns the binding of payload in slot.
func Bind(slot Slot, payload []byte) Binding {
	return Binding{Slot: slot, Digest: sha256.Sum256(payload)}
}

// Key is a fresh private key that belongs to no slot yet and is not stored. It
// ends in exactly one of Bind and Discard.
type Key interface {
	crypto.Signer
	// Bind ties the key to its slot and payload and returns the reference that
	// opens it. Software keys are sealed here; hardware makes them persistent.
	// Until the reference is committed, whoever called Bind must Destroy it on
	// failure; what a crash leaves behind is found by Sweep. A Bind that fails
	// leaves the key unbound, to be discarded.
	Bind(ctx context.Context, to Binding) (Ref, error)
	// Discard gives the key up before it was bound.
	Discard() error
}

// Custodian is where private keys live. Implementations are safe for concurrent
// use. Private keys leave it only as crypto.Signer.
type Custodian interface {
	// Generate makes a fresh key pair. Every key is handed out once.
	Generate(ctx context.Context, spec KeySpec) (Key, error)
	// Open returns the signer of a bound key. It fails, and never returns
	// another key, when the reference does not belong to this custodian or, where
	// the custodian can tell, to the binding.
	Open(ctx context.Context, at Binding, ref Ref) (crypto.Signer, error)
	// Rebind returns a reference to the same key under another binding. The old
	// reference stays valid until it is destroyed; a custodian whose reference
	// does not depend on the binding returns the same one.
	Rebind(ctx context.Context, from, to Binding, ref Ref) (Ref, error)
	// Stale reports whether the reference is sealed under a key that is not the primary
	// one any more, so that Rebind would give another. It does not open the key.
	Stale(ref Ref) bool
	// Destroy makes the reference unusable. Destroying an absent key is no error.
	Destroy(ctx context.Context, ref Ref) error
	// Sweep destroys every bound key of this custodian for which live reports
	// false: leftovers of a crash between Bind and commit, or between commit and
	// Destroy. It is called before the first request.
	Sweep(ctx context.Context, live func(Ref) bool) error
	Close() error
}

package keystore

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Target is a slot and the state it must be in for a change to happen.
type Target struct {
	Slot   Slot
	Expect Expect
}

// Change is what a slot will hold beside its key.
type Change struct {
	Payload []byte
	Index   []IndexEntry
	// Note is opaque; it goes into the store's outbox in the same commit.
	Note []byte
	// Companions are changed in the same commit.
	Companions []Companion
}

// Companion is a record without a key, which a Change writes or deletes beside its slot.
// The key of a slot that held one is destroyed.
type Companion struct {
	Target
	Delete  bool // the fields below are then unused
	Payload []byte
	Index   []IndexEntry
}

func (c Change) companions() []Op {
	ops := make([]Op, len(c.Companions))
	for i, each := range c.Companions {
		ops[i] = Op{Slot: each.Slot, Expect: each.Expect, Delete: each.Delete, Payload: each.Payload, Index: each.Index}
	}
	return ops
}

// Replace makes a fresh key, has build make the payload with its signer, and
// puts both into the slot in one commit, destroying the key that was there. The
// signer is build's alone and must not be used after it returned.
//
// Where Expect is not met the error is ErrConflict, before a key is made if it
// can be seen then. ErrBusy, of the custodian, means that too many wait for a key.
// Errors of build are returned as they are. On every error but ErrOutcomeUnknown
// the slot is as it was and the fresh key is destroyed; after ErrOutcomeUnknown
// both keys are kept and the slot must be read again.
//
// At most Options.Processors builds run at once, first come, first served: build
// must not call Replace or Move of this Keystore, which could wait for itself.
func (k *Keystore) Replace(ctx context.Context, at Target, spec KeySpec, build func(crypto.Signer) (Change, error)) (Record, error) {
	if err := k.expect(ctx, at); err != nil {
		return Record{}, err
	}
	key, err := k.generate(ctx, spec)
	if err != nil {
		return Record{}, err
	}
	defer k.calls.enter().Done() // not before: the wait for a key may be long
	change, ref, err := k.buildAndBind(ctx, at.Slot, key, build)
	if err != nil {
		return Record{}, err
	}
	return k.commit(ctx, change.Note, ref, put(at, ref, change)...)
}

func (k *Keystore) generate(ctx context.Context, spec KeySpec) (Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := k.custodian.Generate(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("generating a key: %w", err)
	}
	return key, nil
}

// buildAndBind runs build with the key and binds the key to the result. Unless
// it succeeds, and also when build panics, the key is discarded.
func (k *Keystore) buildAndBind(ctx context.Context, slot Slot, key Key, build func(crypto.Signer) (Change, error)) (Change, Ref, error) {
	bound := false
	defer func() {
		if bound {
			return
		}
		if err := key.Discard(); err != nil {
			k.log.ErrorContext(ctx, "a key that was not used could not be discarded", "slot", slot.String(), "error", err)
		}
	}()
	change, err := k.build(ctx, func() (Change, error) { return build(signerOnly{key}) })
	if err != nil {
		return Change{}, nil, err
	}
	if err := ctx.Err(); err != nil {
		return Change{}, nil, err
	}
	ref, err := key.Bind(ctx, Bind(slot, change.Payload))
	if err != nil {
		return Change{}, nil, fmt.Errorf("%s: binding the key: %w", slot, err)
	}
	bound = true
	return change, ref, nil
}

// build runs a caller's function when it is its turn. Signatures are pure CPU:
// more of them at once than processors only make all of them late.
func (k *Keystore) build(ctx context.Context, build func() (Change, error)) (Change, error) {
	if err := k.building.Acquire(ctx, 1); err != nil {
		return Change{}, err
	}
	defer k.building.Release(1)
	return build()
}

// signerOnly keeps Bind and Discard of a Key from the function that builds the
// payload.
type signerOnly struct{ crypto.Signer }

// Move takes the key of one slot to another, which gets the payload that build
// makes from the key's signer and the old record; the slot it came from is empty
// afterwards, and the key that the other held is destroyed. All of it is one
// commit.
//
// The source is pinned to the record that build was given, whatever its Expect
// says: when it changes before the commit the error is ErrConflict. ErrNotFound
// means that it was empty. The guarantees on errors are those of Replace; the
// moved key is never destroyed by a Move that fails.
func (k *Keystore) Move(ctx context.Context, from, to Target, build func(signer crypto.Signer, old Record) (Change, error)) (Record, error) {
	defer k.calls.enter().Done()
	if from.Slot == to.Slot {
		return Record{}, fmt.Errorf("%s: moving a slot to itself", from.Slot)
	}
	source, err := k.read(ctx, from)
	if err != nil {
		return Record{}, err
	}
	if err := k.expect(ctx, to); err != nil {
		return Record{}, err
	}
	signer, err := k.open(ctx, source)
	if err != nil {
		return Record{}, k.conflictOr(ctx, source, err)
	}
	withoutRef := source
	withoutRef.Ref = nil
	change, err := k.build(ctx, func() (Change, error) { return build(signerOnly{signer}, withoutRef) })
	if err != nil {
		return Record{}, err
	}
	ref, err := k.rebind(ctx, source, to.Slot, change.Payload)
	if err != nil {
		return Record{}, k.conflictOr(ctx, source, err)
	}
	return k.commit(ctx, change.Note, onlyIfNew(ref, source.Ref),
		append(put(to, ref, change), Op{Slot: from.Slot, Expect: At(source.Revision), Delete: true})...)
}

// Update gives the slot a new payload and keeps its key. The slot is pinned to
// the record that was read: when another change comes between, the error is
// ErrConflict, also with Any. ErrNotFound means that the slot is empty. The
// guarantees on errors are those of Replace.
func (k *Keystore) Update(ctx context.Context, at Target, change Change) (Record, error) {
	defer k.calls.enter().Done()
	old, err := k.read(ctx, at)
	if err != nil {
		return Record{}, err
	}
	ref, err := k.rebind(ctx, old, at.Slot, change.Payload)
	if err != nil {
		return Record{}, k.conflictOr(ctx, old, err)
	}
	return k.commit(ctx, change.Note, onlyIfNew(ref, old.Ref), put(Target{at.Slot, At(old.Revision)}, ref, change)...)
}

// Delete empties the slot and destroys its key. ErrNotFound means that it was
// empty already.
func (k *Keystore) Delete(ctx context.Context, at Target, note []byte) error {
	_, err := k.commit(ctx, note, nil, Op{Slot: at.Slot, Expect: at.Expect, Delete: true})
	return err
}

// read returns the record of a slot that is authentic and in the expected state.
func (k *Keystore) read(ctx context.Context, at Target) (Record, error) {
	r, err := k.get(ctx, at.Slot)
	if err != nil {
		return Record{}, err
	}
	return r, at.Expect.Check(at.Slot, r.Revision)
}

// expect checks the expected state early, so that a change that cannot succeed
// costs no key; the commit checks it again.
func (k *Keystore) expect(ctx context.Context, at Target) error {
	if err := at.Slot.Validate(); err != nil {
		return err
	}
	if at.Expect == Any {
		return nil
	}
	r, err := k.store.Get(ctx, at.Slot)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return at.Expect.Check(at.Slot, r.Revision)
}

func (k *Keystore) rebind(ctx context.Context, old Record, slot Slot, payload []byte) (Ref, error) {
	if len(old.Ref) == 0 {
		return nil, fmt.Errorf("%s: %w", old.Slot, ErrNoKey)
	}
	ref, err := k.custodian.Rebind(ctx, Bind(old.Slot, old.Payload), Bind(slot, payload), old.Ref)
	if err != nil {
		return nil, fmt.Errorf("%s: binding the key to its new payload: %w", slot, err)
	}
	return ref, nil
}

// conflictOr returns ErrConflict if the record was changed since it was read, and
// err otherwise. A change that came between has destroyed the key that the custodian
// did not find.
func (k *Keystore) conflictOr(ctx context.Context, read Record, err error) error {
	if conflict := k.expect(ctx, Target{read.Slot, At(read.Revision)}); errors.Is(conflict, ErrConflict) {
		return conflict
	}
	return err
}

// put is the operation that puts a key and a change into a slot, and those of the
// change's companions.
func put(at Target, ref Ref, c Change) []Op {
	return append([]Op{{Slot: at.Slot, Expect: at.Expect, Ref: ref, Payload: c.Payload, Index: c.Index}}, c.companions()...)
}

// onlyIfNew returns ref, or nothing if it is the old one: Rebind may return the
// reference that it was given, and a record has that.
func onlyIfNew(ref, old Ref) Ref {
	if bytes.Equal(ref, old) {
		return nil
	}
	return ref
}

// Note commits a note alone: evidence of something that changed no slot.
func (k *Keystore) Note(ctx context.Context, note []byte) error {
	_, err := k.commit(ctx, note, nil)
	return err
}

// commit is the commit point of every change, and the only place where bound keys
// are destroyed. fresh is the reference that was made for this commit, if any. It
// returns the record that the first of ops wrote.
//
// A crash before the store's commit is durable leaves the fresh key without a
// record. A custodian that keeps keys itself destroys it in the sweep of the next
// Open; one that keeps them in the record has left nothing. A crash after the commit
// leaves the new record and, until that sweep, the key that was replaced.
func (k *Keystore) commit(ctx context.Context, note []byte, fresh Ref, ops ...Op) (Record, error) {
	defer k.calls.enter().Done()
	start := time.Now()
	var first Op // its slot stands for the commit in log lines
	done, err := k.authenticate(ctx, note, &fresh, ops)
	k.metrics.commits(err, start)
	k.check.fail(err, k.log)
	if len(ops) > 0 {
		first = ops[0]
	}
	switch {
	case outcomeOf(err) == outcomeUnknown:
		// A restart may find either pair, so both keys stay. The next Open sweeps
		// the one that it did not find.
		k.log.ErrorContext(ctx, "a commit failed and may have happened all the same", "slot", first.Slot.String(), "error", err)
		return Record{}, err
	case err != nil:
		k.destroy(ctx, first.Slot, fresh)
		return Record{}, err
	}
	for _, r := range done.Replaced {
		again := slices.ContainsFunc(ops, func(op Op) bool { return !op.Delete && bytes.Equal(op.Ref, r.Ref) })
		if !again && k.auth.check(r) == nil { // a forged record may name the key of another slot
			k.destroy(ctx, first.Slot, r.Ref)
		}
	}
	return Record{Slot: first.Slot, Revision: done.Revision, Payload: first.Payload, Index: first.Index}, nil
}

// authenticate commits ops with their codes. Where the sealing key was rotated in the
// meantime, it binds the keys again, under the new one.
func (k *Keystore) authenticate(ctx context.Context, note []byte, fresh *Ref, ops []Op) (Commit, error) {
	for {
		if err := k.auth.sign(ops); err != nil {
			return Commit{}, fmt.Errorf("%w: %w", ErrNotCommitted, err)
		}
		done, err := k.store.Commit(ctx, note, ops...)
		if !errors.Is(err, ErrRotated) {
			return done, err
		}
		for i, op := range ops {
			if len(op.Ref) == 0 || op.Delete || !k.custodian.Stale(op.Ref) {
				continue
			}
			at := Bind(op.Slot, op.Payload)
			ref, err := k.custodian.Rebind(ctx, at, at, op.Ref)
			if err != nil {
				return Commit{}, fmt.Errorf("%w: %s: binding the key under the new sealing key: %w", ErrNotCommitted, op.Slot, err)
			}
			if bytes.Equal(op.Ref, *fresh) {
				k.destroy(ctx, op.Slot, *fresh)
				*fresh = ref
			}
			ops[i].Ref = ref
		}
	}
}

// destroy destroys a bound key that no record refers to. The change itself has
// happened, so neither the end of the request nor a failure here undoes it. The next
// sweep destroys what is left.
func (k *Keystore) destroy(ctx context.Context, slot Slot, ref Ref) {
	if len(ref) == 0 {
		return
	}
	ctx = context.WithoutCancel(ctx)
	if err := k.custodian.Destroy(ctx, ref); err != nil {
		k.log.ErrorContext(ctx, "a key that is no longer used could not be destroyed; the next start will try again",
			"slot", slot.String(), "error", err)
	}
}

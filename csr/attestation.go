package csr

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// The slots of the ESX attestation key. A CSR and its certificate are in
// different slots: the installed pair stays in use while the next one is pending.

func pendingSlot() keystore.Slot {
	return keystore.Slot{Collection: "esx/attestation", ID: "csr"}
}

func installedSlot() keystore.Slot {
	return keystore.Slot{Collection: "esx/attestation", ID: "certificate"}
}

// CreateCSR makes a fresh key and a certification request for it, and returns the
// request as PEM. They replace the pending CSR and its key. The installed pair stays.
// On error the pending pair stays too.
//
// Errors: Invalid with every rule that spec breaks; Conflict when the pending pair cannot
// be read and was changed meanwhile; Busy, Unavailable, Internal.
func (g *Grant) CreateCSR(ctx context.Context, spec pkcs10.Spec) (string, error) {
	if err := g.permitsChange(ctx, CreateCSR); err != nil {
		return "", err
	}
	s := g.service
	resolved, t, err := s.policy.Resolve(spec)
	if err != nil {
		return "", classify(err)
	}
	var made payload
	// A crash before the commit leaves the old pending pair. A crash after it leaves
	// the new pair, which no caller knows: the next create replaces it.
	at, old, event := g.over(ctx, pendingSlot())
	record, err := s.keys.Replace(ctx, at, keySpec(resolved), func(key crypto.Signer) (keystore.Change, error) {
		made, err = newRequest(key, t, resolved)
		if err != nil {
			return keystore.Change{}, err
		}
		made.Object, made.Replaced = g.newObject("", "", Labels{}), replacedKey(old)
		return s.change(made, event)
	})
	s.published.forget() // before the time is taken that verifiers count from
	if err != nil {
		return "", classify(err)
	}
	s.visible.committed(record.Revision, s.now())
	return made.PEM, nil
}

// CSR returns the pending certification request as PEM.
//
// Errors: NotFound, Unavailable, Internal.
func (g *Grant) CSR(ctx context.Context) (string, error) {
	if err := g.permits(GetCSR); err != nil {
		return "", err
	}
	record, err := g.service.keys.Get(ctx, pendingSlot())
	if err != nil {
		return "", classify(err)
	}
	text, err := storedPEM(record)
	return text, classify(err)
}

// DeleteCSR removes the pending certification request and destroys its key.
//
// Errors: NotFound; Conflict when others kept changing it; Unavailable, Internal.
func (g *Grant) DeleteCSR(ctx context.Context) error {
	if err := g.permitsChange(ctx, DeleteCSR); err != nil {
		return err
	}
	defer g.service.published.forget()
	return classify(g.remove(ctx, pendingSlot()))
}

// Certificate returns the installed certificate as PEM: the chain as it was
// accepted, the leaf first. Service.Prepare has made one, so its absence is an
// internal error and not NotFound.
//
// Errors: Unavailable, Internal.
func (g *Grant) Certificate(ctx context.Context) (string, error) {
	if err := g.permits(GetCertificate); err != nil {
		return "", err
	}
	record, err := g.service.keys.Get(ctx, installedSlot())
	if errors.Is(err, keystore.ErrNotFound) {
		return "", &Error{Err: fmt.Errorf("no certificate was prepared: %w", err)}
	}
	if err != nil {
		return "", classify(err)
	}
	text, err := storedPEM(record)
	return text, classify(err)
}

// Pending is the pending certification request as people look at it.
type Pending struct {
	PEM       string
	SHA256    string // of the DER
	Created   time.Time
	CreatedBy string
	pkcs10.Description
}

// Pending returns what is pending, decoded.
//
// Errors: those of CSR.
func (g *Grant) Pending(ctx context.Context) (Pending, error) {
	if err := g.permits(GetCSR); err != nil {
		return Pending{}, err
	}
	record, err := g.service.keys.Get(ctx, pendingSlot())
	if err != nil {
		return Pending{}, classify(err)
	}
	p, err := decodePayload(record)
	if err != nil {
		return Pending{}, classify(err)
	}
	sum, _ := pkcs10.Digest(p.PEM)
	description, err := pkcs10.Describe(p.PEM)
	return Pending{p.PEM, sum, p.Created, p.CreatedBy, description}, classify(err)
}

// Installed is the installed certificate as people look at it.
type Installed struct {
	PEM     string
	Created time.Time // when it was set
	Report            // what a set of it would say now
}

// Installed returns the installed certificate with the checks of a set, made now: one that
// was good may have ended since.
//
// Errors: those of Certificate.
func (g *Grant) Installed(ctx context.Context) (Installed, error) {
	text, err := g.Certificate(ctx)
	if err != nil {
		return Installed{}, err
	}
	held, _, err := g.service.held(ctx, InstalledKey)
	if err != nil {
		return Installed{}, classify(err)
	}
	v := g.service.judge([]byte(text), pkcs10.Criteria{})
	if err := g.decide(ctx, &v); err != nil {
		return Installed{}, classify(err)
	}
	r := v.report()
	if r.Certificates == nil {
		r.Certificates = held.facts() // a later crypto/x509 refuses it
	}
	r.Staged, err = g.service.Staged(ctx)
	return Installed{text, held.Created, r}, err
}

// SetCertificate installs a certificate, given as PEM with its chain: at most
// 10 certificates, the leaf first. A certificate for the pending CSR installs that
// CSR's key with it, and the CSR is gone; before its time has come (see staged.go) it is
// staged. A certificate for the installed or the staged key replaces that one's, and a
// pending CSR stays. The caller bounds the size of pem.
//
// Errors: Invalid with the rules that the chain breaks, KeyMismatch when it is
// for neither key, NamesDiffer under NamesStrict; Conflict when others kept changing the
// certificate; Unavailable, Internal.
func (g *Grant) SetCertificate(ctx context.Context, pem []byte) error {
	if err := g.permitsChange(ctx, SetCertificate); err != nil {
		return err
	}
	judged := g.service.judge(pem, pkcs10.Criteria{})
	defer g.service.published.forget()
	var err error
	for range maxAttempts {
		v := judged
		err = g.decide(ctx, &v)
		if err = cmp.Or(v.broken.Err(), err); err == nil && !v.unchanged {
			var slot keystore.Slot
			if slot, err = g.install(ctx, v); err == nil {
				g.logAccepted(ctx, slot, v)
			}
		}
		if !errors.Is(err, keystore.ErrConflict) && !errors.Is(err, keystore.ErrNotFound) {
			return g.refuse(err)
		}
	}
	return &Error{Kind: Conflict, Err: err}
}

// CheckCertificate makes all checks of SetCertificate and changes nothing.
//
// Errors: Unavailable, Internal.
func (g *Grant) CheckCertificate(ctx context.Context, pem []byte) (Report, error) {
	if err := g.permits(CheckCertificate); err != nil {
		return Report{}, err
	}
	v := g.service.judge(pem, pkcs10.Criteria{})
	if err := g.decide(ctx, &v); err != nil {
		return Report{}, classify(err)
	}
	report := v.report()
	staged, err := g.service.Staged(ctx)
	if err != nil {
		return Report{}, err
	}
	report.Staged = staged
	return report, nil
}

// decide finds out which of the keys the chain is for, and compares it with what is
// stored with that key. A key moves from pending to staged to installed and never back,
// so reading in this order finds it even if it moves in between.
func (g *Grant) decide(ctx context.Context, v *verdict) error {
	if !v.hasLeaf() {
		return nil
	}
	v.made = append(v.made, pkcs10.CheckKey)
	s := g.service
	var pending *payload
	for _, key := range []Key{PendingKey, StagedKey, InstalledKey} {
		held, revision, err := s.held(ctx, key)
		switch {
		case err != nil:
			return err
		case revision == 0:
			continue
		case key == PendingKey:
			pending = &held
		}
		if held.KeySHA256 == v.digest {
			v.revision = revision
			v.answers(key, held, s.names)
			switch key {
			case PendingKey:
				v.due = s.activation(*v)
			case StagedKey:
				v.due = held.Due
			default:
				v.renews()
			}
			return nil
		}
	}
	v.refuse(pkcs10.KeyMismatch, otherKey(v.digest, pending))
	return nil
}

// held returns what the slot of a key holds, with the digest of the key also in format 1.
// The revision of an empty slot is 0.
func (s *Service) held(ctx context.Context, key Key) (payload, uint64, error) {
	record, err := s.keys.Get(ctx, key.slot())
	if errors.Is(err, keystore.ErrNotFound) {
		return payload{}, 0, nil
	}
	if err != nil {
		return payload{}, 0, err
	}
	p, err := s.withDigest(ctx, record)
	return p, record.Revision, err
}

// install stores the chain with the key that it is for, in one commit, and returns the
// slot that holds them now. The commit expects the revision that was read: ErrConflict and
// ErrNotFound mean that the slot has changed since, and nothing was done. The pair that a
// new key replaces is retired, and a staged one, which is older, is removed.
//
// A crash leaves the old state or the new one. The same set then succeeds in both.
func (g *Grant) install(ctx context.Context, v verdict) (keystore.Slot, error) {
	s, slot := g.service, v.key.slot()
	next, err := v.certificate()
	if err != nil {
		return slot, err
	}
	next.Object = g.newObject("", "", Labels{})
	if v.key == PendingKey {
		slot = installedSlot()
		if s.now().Before(v.due) {
			slot, next.Due = stagedSlot(), v.due
		}
		return slot, g.movePending(ctx, slot, v, next)
	}
	next.Version, next.Due = v.held.Version, v.held.Due
	event := g.event(slot)
	event.Warnings = v.warnings()
	renewal, err := s.change(next, event)
	if err != nil {
		return slot, err
	}
	_, err = s.keys.Update(ctx, keystore.Target{Slot: slot, Expect: keystore.At(v.revision)}, renewal)
	return slot, err
}

// movePending moves the pending key to a slot, with its chain.
func (g *Grant) movePending(ctx context.Context, slot keystore.Slot, v verdict, next payload) error {
	s := g.service
	from := keystore.Target{Slot: pendingSlot(), Expect: keystore.At(v.revision)}
	to, old, event := g.over(ctx, slot)
	event.Warnings = v.warnings()
	var companions []keystore.Companion
	if slot == installedSlot() {
		var err error
		to.Expect = keystore.At(old.Revision) // what is retired is what the commit replaces
		if companions, next.Version, err = s.retire(ctx, old, &event); err != nil {
			return err
		}
		if companions, err = s.removeStaged(ctx, companions, &event); err != nil {
			return err
		}
	}
	_, err := s.keys.Move(ctx, from, to, func(key crypto.Signer, _ keystore.Record) (keystore.Change, error) {
		if err := v.isFor(key); err != nil {
			return keystore.Change{}, err
		}
		change, err := s.change(next, moved(event, from.Slot, v.held.PEM))
		change.Companions = companions
		return change, err
	})
	return err
}

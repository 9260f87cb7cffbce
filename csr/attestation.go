package csr

import (
	"context"
	"crypto"
	"errors"
	"fmt"

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
	var made string
	// A crash before the commit leaves the old pending pair. A crash after it leaves
	// the new pair, which no caller knows: the next create replaces it.
	at, event := g.over(ctx, pendingSlot())
	_, err = s.keys.Replace(ctx, at, keySpec(resolved), func(key crypto.Signer) (keystore.Change, error) {
		made, err = t.Sign(key)
		if err != nil {
			return keystore.Change{}, err
		}
		p := payload{Object: g.newObject("", "", Labels{}), PEM: made, Spec: resolved}
		return s.change(p, event)
	})
	if err != nil {
		return "", classify(err)
	}
	return made, nil
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

// SetCertificate installs a certificate, given as PEM with its chain: at most
// 10 certificates, the leaf first. A certificate for the pending CSR installs that
// CSR's key with it, and the CSR is gone. A certificate for the installed key is a
// renewal, and a pending CSR stays. The caller bounds the size of pem.
//
// Errors: Invalid with the rules that the chain breaks, KeyMismatch when it is
// for neither key; Conflict when others kept changing the certificate;
// Unavailable, Internal.
func (g *Grant) SetCertificate(ctx context.Context, pem []byte) error {
	if err := g.permitsChange(ctx, SetCertificate); err != nil {
		return err
	}
	s := g.service
	accepted, broken := pkcs10.Accept(pem, pkcs10.Criteria{Now: s.now()})
	err := broken.Err()
	if err != nil {
		return g.refuse(err)
	}
	c := accepted.Chain
	for range maxAttempts {
		err = g.install(ctx, c)
		if !errors.Is(err, keystore.ErrConflict) && !errors.Is(err, keystore.ErrNotFound) {
			return g.refuse(err)
		}
	}
	return &Error{Kind: Conflict, Err: err}
}

// install finds out which of the two keys the chain is for, and stores it with that
// key in one commit. The commit expects the revision that was read: ErrConflict and
// ErrNotFound mean that the slot has changed since, and nothing was done. A key moves
// from pending to installed and never back, so reading in this order finds it even if
// it moves in between.
//
// A crash leaves the old state or the new one. The same set then succeeds in both.
func (g *Grant) install(ctx context.Context, c pkcs10.Chain) error {
	s := g.service
	next := payload{Object: g.newObject("", "", Labels{}), PEM: c.PEM()}
	_, revision, err := s.holding(ctx, pendingSlot(), c.Leaf().PublicKey)
	if err != nil {
		return err
	}
	if revision != 0 {
		from := keystore.Target{Slot: pendingSlot(), Expect: keystore.At(revision)}
		to, event := g.over(ctx, installedSlot())
		_, err = s.keys.Move(ctx, from, to, func(key crypto.Signer, old keystore.Record) (keystore.Change, error) {
			if !pkcs10.SameKey(key.Public(), c.Leaf().PublicKey) {
				return keystore.Change{}, errors.New("the stored CSR is not for the stored key")
			}
			request, err := decodePayload(old)
			if err != nil {
				return keystore.Change{}, err
			}
			next.Spec = request.Spec
			return s.change(next, moved(event, from.Slot, request.PEM))
		})
		return err
	}

	installed, revision, err := s.holding(ctx, installedSlot(), c.Leaf().PublicKey)
	switch {
	case err != nil:
		return err
	case revision == 0:
		return pkcs10.Violations{{Field: pkcs10.CertificateChain, Rule: pkcs10.KeyMismatch}}.Err()
	case installed.PEM == next.PEM:
		return nil // an equal set was first
	}
	next.Spec = installed.Spec
	renewal, err := s.change(next, g.event(installedSlot()))
	if err != nil {
		return err
	}
	_, err = s.keys.Update(ctx, keystore.Target{Slot: installedSlot(), Expect: keystore.At(revision)}, renewal)
	return err
}

// holding returns what the slot holds, and its revision, if that is for the public
// key. Otherwise the revision is 0. It opens no private key.
func (s *Service) holding(ctx context.Context, slot keystore.Slot, key crypto.PublicKey) (payload, uint64, error) {
	record, err := s.keys.Get(ctx, slot)
	if errors.Is(err, keystore.ErrNotFound) {
		return payload{}, 0, nil
	}
	if err != nil {
		return payload{}, 0, err
	}
	p, err := decodePayload(record)
	if err != nil {
		return payload{}, 0, err
	}
	held, err := pkcs10.PublicKey(p.PEM)
	if err != nil {
		return payload{}, 0, fmt.Errorf("%s: %w", slot, err)
	}
	if !pkcs10.SameKey(held, key) {
		return payload{}, 0, nil
	}
	return p, record.Revision, nil
}

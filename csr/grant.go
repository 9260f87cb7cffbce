package csr

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// Operation is something a caller can be granted.
type Operation string

// The operations on the ESX attestation key. Each needs SecurityManagement.
const (
	CreateCSR      Operation = "csr.create"
	GetCSR         Operation = "csr.get"
	DeleteCSR      Operation = "csr.delete"
	GetCertificate Operation = "certificate.get"
	SetCertificate Operation = "certificate.set"
)

// The operations on named certification requests and named certificates. Gets
// and lists need PolicyCertificateRead, the others PolicyCertificateCRUD.
const (
	CreateNamedCSR         Operation = "named_csr.create"
	GetNamedCSR            Operation = "named_csr.get"
	ListNamedCSRs          Operation = "named_csr.list"
	DeleteNamedCSR         Operation = "named_csr.delete"
	ImportCertificate      Operation = "named_csr.import"
	SelfSign               Operation = "named_csr.self_sign"
	SelfSignNew            Operation = "named_certificate.self_sign"
	GetNamedCertificate    Operation = "named_certificate.get"
	ListNamedCertificates  Operation = "named_certificate.list"
	DeleteNamedCertificate Operation = "named_certificate.delete"
)

// privilege is what the operation needs.
func (o Operation) privilege() (Privilege, bool) {
	switch o {
	case CreateCSR, GetCSR, DeleteCSR, GetCertificate, SetCertificate:
		return SecurityManagement, true
	case GetNamedCSR, ListNamedCSRs, GetNamedCertificate, ListNamedCertificates:
		return PolicyCertificateRead, true
	case CreateNamedCSR, DeleteNamedCSR, ImportCertificate, SelfSign, SelfSignNew, DeleteNamedCertificate:
		return PolicyCertificateCRUD, true
	}
	return "", false
}

// Grant lets one caller do one operation, any number of times. There is no
// other way to the operations.
type Grant struct {
	service   *Service
	operation Operation
	caller    Caller // whom changes are recorded as made by
}

// Authorise gives out the Grant for an operation, or an Unauthorized error when
// the caller lacks the privilege, which the audit trail is told of. It needs nothing of the request but the route,
// so that a body is read only for those who may send one.
func (s *Service) Authorise(caller Caller, o Operation) (*Grant, error) {
	need, known := o.privilege()
	if !known {
		return nil, &Error{Err: fmt.Errorf("unknown operation %q", o)}
	}
	if !caller.Holds(need) {
		s.audit.Refuse(audit.Refusal{Request: caller.Request, Operation: string(o), Outcome: Unauthorized.String()})
		return nil, &Error{Kind: Unauthorized, Err: fmt.Errorf("%s needs the privilege %s", o, need)}
	}
	return &Grant{service: s, operation: o, caller: caller}, nil
}

// permits returns an Internal error when the grant is for another operation.
func (g *Grant) permits(o Operation) error {
	if g.operation != o {
		return &Error{Err: fmt.Errorf("a grant for %s was used for %s", g.operation, o)}
	}
	return nil
}

// CreateCSR makes a fresh key and a certification request for it, and returns the
// request as PEM. They replace the pending CSR and its key, where there is one; the
// installed pair stays. On error the pending pair is as it was.
//
// Errors: Invalid with every rule that spec breaks, Busy, Unavailable, Internal.
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
	// A crash before the commit leaves the old pending pair, one after it the
	// new pair, which nobody was told of: the next create replaces it.
	at := keystore.Target{Slot: pendingSlot(), Expect: keystore.Any}
	_, err = s.keys.Replace(ctx, at, keySpec(resolved), func(key crypto.Signer) (keystore.Change, error) {
		made, err = t.Sign(key)
		if err != nil {
			return keystore.Change{}, err
		}
		event := g.event(pendingSlot())
		event.CSR = fingerprint(made)
		return s.change(payload{Object: g.newObject("", "", Labels{}), PEM: made, Spec: resolved}, event)
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
	return classify(g.remove(ctx, pendingSlot(), csrDigest))
}

// Certificate returns the installed certificate as PEM: the chain as it was
// accepted, the leaf first. There always is one after Service.Prepare, so that its
// absence is no NotFound but our fault.
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
// 10 certificates, the leaf first. A certificate for the pending CSR moves that
// CSR's key into place and uses the CSR up; one for the installed key is a
// renewal and leaves a pending CSR alone. The caller bounds the size of pem.
//
// Errors: Invalid with the rules that the chain breaks, KeyMismatch when it is
// for neither key; Conflict when others kept changing the certificate;
// Unavailable, Internal.
func (g *Grant) SetCertificate(ctx context.Context, pem []byte) error {
	if err := g.permitsChange(ctx, SetCertificate); err != nil {
		return err
	}
	s := g.service
	c, err := pkcs10.AcceptChain(pem, s.now(), x509.KeyUsageDigitalSignature)
	if err != nil {
		return classify(err)
	}
	for range maxAttempts {
		err = g.install(ctx, c)
		if !errors.Is(err, keystore.ErrConflict) && !errors.Is(err, keystore.ErrNotFound) {
			return classify(err)
		}
	}
	return &Error{Kind: Conflict, Err: err}
}

// install looks which of the two keys the chain is for and puts it over that
// key in one commit, pinned to the revision that was looked at. A key only ever
// goes from pending to installed, so that looking in this order finds it even
// when it goes between the two looks. ErrConflict and ErrNotFound say that the
// slot changed after the look; nothing was changed then.
//
// A crash leaves the old state or the new one; setting the same chain again
// succeeds in both.
func (g *Grant) install(ctx context.Context, c pkcs10.Chain) error {
	s := g.service
	next := payload{Object: g.newObject("", "", Labels{}), PEM: c.PEM()}
	_, revision, err := s.holding(ctx, pendingSlot(), c.Leaf().PublicKey)
	if err != nil {
		return err
	}
	if revision != 0 {
		from := keystore.Target{Slot: pendingSlot(), Expect: keystore.At(revision)}
		to := keystore.Target{Slot: installedSlot(), Expect: keystore.Any}
		_, err = s.keys.Move(ctx, from, to, func(key crypto.Signer, old keystore.Record) (keystore.Change, error) {
			if !pkcs10.SameKey(key.Public(), c.Leaf().PublicKey) {
				return keystore.Change{}, errors.New("the stored CSR is not for the stored key")
			}
			request, err := decodePayload(old)
			if err != nil {
				return keystore.Change{}, err
			}
			next.Spec = request.Spec
			event := g.moved(pendingSlot(), installedSlot())
			event.CSR, event.Certificate = fingerprint(request.PEM), fingerprint(next.PEM)
			return s.change(next, event)
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
		return nil // an equal set was first, and its commit is durable
	}
	next.Spec = installed.Spec
	event := g.event(installedSlot())
	event.Certificate = fingerprint(next.PEM)
	renewal, err := s.change(next, event)
	if err != nil {
		return err
	}
	_, err = s.keys.Update(ctx, keystore.Target{Slot: installedSlot(), Expect: keystore.At(revision)}, renewal)
	return err
}

// holding returns what the slot holds and its revision when its public key is
// key, else revision 0. It opens no private key.
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

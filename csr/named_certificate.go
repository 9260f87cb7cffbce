package csr

import (
	"cmp"
	"context"
	"crypto"
	"errors"

	"github.com/google/uuid"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// collectionCertificates holds the certificates of named requests, a slot for
// each, whose id is a UUID.
const collectionCertificates = "nsx/certificates"

func certificateSlot(id string) keystore.Slot {
	return keystore.Slot{Collection: collectionCertificates, ID: id}
}

// Import is a certificate for a named certification request.
type Import struct {
	PEM []byte // at most 10 certificates, the leaf first; the caller bounds its size
	DER bool   // PEM may also be DER
	Labels
	Purpose string // kept with the certificate; the dialect checks it
	// Revision is what the caller believes the request's to be; nil is any.
	Revision *int64
}

// NamedCertificate is a certificate that has a name, and whose key is kept.
type NamedCertificate struct {
	Object
	PEM     string
	Purpose string // as it was imported
	// Facts are what PEM holds, the leaf first. Of a certificate that was stored without
	// them, and that crypto/x509 does not parse any more, there is only the digest.
	Facts []pkcs10.Facts
}

// ImportCertificate accepts the certificate for a certification request. The key of
// the request moves to a new certificate, and the request is gone. The display name
// is that of the request unless another is given.
//
// Errors: Invalid with the rules that id, labels or chain break, KeyMismatch when
// the certificate is for another key, NamesDiffer under NamesStrict, or because the
// collection of certificates is full; NotFound, Stale; Conflict when others kept
// changing the request; Unavailable, Internal.
func (g *Grant) ImportCertificate(ctx context.Context, id string, in Import) (NamedCertificate, error) {
	if err := g.permitsChange(ctx, ImportCertificate); err != nil {
		return NamedCertificate{}, err
	}
	if err := in.check(id); err != nil {
		return NamedCertificate{}, classify(err)
	}
	var v verdict
	made, err := g.promote(ctx, id, func(key crypto.Signer, r payload) (p payload, warnings []string, err error) {
		if r.KeySHA256, err = pkcs10.KeyDigest(key.Public()); err != nil { // format 1 has none
			return p, nil, err
		}
		if v, err = g.decideImport(in, r); err != nil {
			return p, nil, err
		}
		if err := v.broken.Err(); err != nil {
			return p, nil, err
		}
		p, err = v.certificate()
		p.Labels, p.Purpose = in.Labels, in.Purpose
		p.DisplayName = cmp.Or(p.DisplayName, r.DisplayName)
		return p, v.warnings(), err
	})
	if err == nil {
		g.logAccepted(ctx, certificateSlot(made.ID), v)
	}
	return made, g.refuse(err)
}

// CheckImport makes all checks of ImportCertificate and changes nothing.
//
// Errors: those of ImportCertificate that are not about the chain.
func (g *Grant) CheckImport(ctx context.Context, id string, in Import) (Report, error) {
	if err := g.permits(CheckImport); err != nil {
		return Report{}, err
	}
	report, err := g.checkImport(ctx, id, in)
	return report, classify(err)
}

func (g *Grant) checkImport(ctx context.Context, id string, in Import) (Report, error) {
	if err := in.check(id); err != nil {
		return Report{}, err
	}
	record, err := g.promotable(ctx, id)
	if err != nil {
		return Report{}, err
	}
	request, err := g.service.withDigest(ctx, record)
	if err != nil {
		return Report{}, err
	}
	v, err := g.decideImport(in, request)
	return v.report(), err
}

// check reports the rules that the id of a request and the labels break.
func (in Import) check(id string) error {
	var broken pkcs10.Violations
	checkID(id, &broken)
	in.Labels.check(&broken)
	return broken.Err()
}

// decideImport makes all checks of a certificate for a certification request.
func (g *Grant) decideImport(in Import, r payload) (verdict, error) {
	if err := checkRevision(in.Revision, r.Revision); err != nil {
		return verdict{}, err
	}
	criteria := pkcs10.Criteria{Use: pkcs10.EndEntity, DER: in.DER}
	if r.Spec.CA {
		criteria.Use = pkcs10.Authority
	}
	v := g.service.judge(in.PEM, criteria)
	if !v.hasLeaf() {
		return v, nil
	}
	v.made = append(v.made, pkcs10.CheckKey)
	if v.digest == r.KeySHA256 {
		v.answers(PendingKey, r, g.service.names)
	} else {
		v.refuse(pkcs10.KeyMismatch, otherKeyThan(r.ID))
	}
	return v, nil
}

// SelfSign makes a self-signed certificate from a certification request. It is valid
// from now for the given days, 1 to 36,500; nil is 825. Only a CA gets more than 825.
// The certificate has the labels of the request, and the request is gone.
//
// Errors: Invalid with the rules that id and days break, or because the collection
// of certificates is full; NotFound; Conflict when others kept changing the
// request; Unavailable, Internal.
func (g *Grant) SelfSign(ctx context.Context, id string, days *int64) (NamedCertificate, error) {
	if err := g.permitsChange(ctx, SelfSign); err != nil {
		return NamedCertificate{}, err
	}
	var broken pkcs10.Violations
	checkID(id, &broken)
	pkcs10.CheckDays(days, &broken)
	if err := broken.Err(); err != nil {
		return NamedCertificate{}, classify(err)
	}
	made, err := g.promote(ctx, id, func(key crypto.Signer, r payload) (payload, []string, error) {
		parsed, err := pkcs10.ParseRequest(r.PEM)
		if err != nil {
			return payload{}, nil, err
		}
		text, err := pkcs10.TemplateOf(parsed, r.Spec.CA).SelfSignDays(key, days, g.service.timestamp())
		if err != nil {
			return payload{}, nil, err
		}
		p, err := newSelfSigned(text, r.Spec)
		p.Labels = r.Labels
		return p, nil, err
	})
	return made, classify(err)
}

// SelfSignNew makes a fresh key and a self-signed certificate for it, as SelfSign
// does from a certification request. It does not use the ID of r.
//
// Errors: Invalid with every rule that r and days break, or because the collection
// of certificates is full; Stale, Busy, Unavailable, Internal.
func (g *Grant) SelfSignNew(ctx context.Context, r NewRequest, days *int64) (NamedCertificate, error) {
	if err := g.permitsChange(ctx, SelfSignNew); err != nil {
		return NamedCertificate{}, err
	}
	made, err := g.selfSignNew(ctx, r, days)
	return made, classify(err)
}

func (g *Grant) selfSignNew(ctx context.Context, r NewRequest, days *int64) (NamedCertificate, error) {
	s := g.service
	var broken pkcs10.Violations
	pkcs10.CheckDays(days, &broken)
	spec, t, err := r.resolve(s.policy, &broken)
	if err != nil {
		return NamedCertificate{}, err
	}
	if err := checkRevision(r.Revision, 0); err != nil {
		return NamedCertificate{}, err
	}
	if err := s.certificates.hasRoom(ctx, s.keys); err != nil {
		return NamedCertificate{}, err
	}
	// A crash before the commit leaves nothing. A crash after it leaves a certificate
	// that the caller finds in the list.
	id := uuid.NewString()
	defer s.published.forget()
	at := keystore.Target{Slot: certificateSlot(id), Expect: keystore.Absent}
	record, err := s.keys.Replace(ctx, at, keySpec(spec), func(key crypto.Signer) (keystore.Change, error) {
		text, err := t.SelfSignDays(key, days, s.timestamp())
		if err != nil {
			return keystore.Change{}, err
		}
		p, err := newSelfSigned(text, spec)
		if err != nil {
			return keystore.Change{}, err
		}
		p.Object = g.newObject(id, id, r.Labels)
		return g.certificateChange(p, g.event(at.Slot))
	})
	if err != nil {
		return NamedCertificate{}, err
	}
	return certificateIn(record)
}

// NamedCertificate returns a certificate.
//
// Errors: Invalid when no certificate can have that id, NotFound, Unavailable,
// Internal.
func (g *Grant) NamedCertificate(ctx context.Context, id string) (NamedCertificate, error) {
	return get(ctx, g, GetNamedCertificate, certificateSlot(id), certificateIn)
}

// DeleteNamedCertificate removes a certificate and destroys its key.
//
// Errors: those of NamedCertificate.
func (g *Grant) DeleteNamedCertificate(ctx context.Context, id string) error {
	return g.deleteNamed(ctx, DeleteNamedCertificate, certificateSlot(id))
}

// ListNamedCertificates returns a page of the certificates, as ListNamedCSRs does
// of the certification requests.
func (g *Grant) ListNamedCertificates(ctx context.Context, p Page) (Listing[NamedCertificate], error) {
	return list(ctx, g, ListNamedCertificates, collectionCertificates, p, certificateIn)
}

// promotable returns the record of a certification request that may become a
// certificate. A request that does not exist is NotFound, also while there is no room.
func (g *Grant) promotable(ctx context.Context, id string) (keystore.Record, error) {
	record, err := g.service.keys.Get(ctx, requestSlot(id))
	if err != nil {
		return keystore.Record{}, err
	}
	return record, g.service.certificates.hasRoom(ctx, g.service.keys)
}

// promote moves the key of a certification request to a new certificate. build makes
// the certificate with its labels, and warnings for the trail, from the request. It is
// called again when another request has taken the place of the first.
func (g *Grant) promote(ctx context.Context, id string, build func(crypto.Signer, payload) (payload, []string, error)) (NamedCertificate, error) {
	if _, err := g.promotable(ctx, id); err != nil {
		return NamedCertificate{}, err
	}
	certificateID := uuid.NewString()
	defer g.service.published.forget()
	from := keystore.Target{Slot: requestSlot(id), Expect: keystore.Any}
	to := keystore.Target{Slot: certificateSlot(certificateID), Expect: keystore.Absent}
	var conflict error
	for range maxAttempts {
		// One commit: a crash leaves the request, or the certificate in the list.
		record, err := g.service.keys.Move(ctx, from, to, func(key crypto.Signer, old keystore.Record) (keystore.Change, error) {
			r, err := decodePayload(old)
			if err != nil {
				return keystore.Change{}, err
			}
			made, warnings, err := build(key, r)
			if err != nil {
				return keystore.Change{}, err
			}
			made.Object = g.newObject(certificateID, certificateID, made.Labels)
			event := moved(g.event(to.Slot), from.Slot, r.PEM)
			event.Warnings = warnings
			return g.certificateChange(made, event)
		})
		switch {
		case err == nil:
			return certificateIn(record)
		case !errors.Is(err, keystore.ErrConflict):
			return NamedCertificate{}, err
		}
		conflict = err
	}
	return NamedCertificate{}, conflict
}

// certificateChange is what is stored of a certificate that was made.
func (g *Grant) certificateChange(p payload, event audit.Event) (keystore.Change, error) {
	notAfter := keystore.IndexEntry{Name: indexNotAfter, Value: sortable(p.Facts[0].NotAfter)}
	return g.service.change(p, event, append(p.indexEntries(), notAfter)...)
}

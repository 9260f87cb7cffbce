package csr

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
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
	// Revision is what the caller believes the request's to be; nil is any.
	Revision *int64
}

// NamedCertificate is a certificate that has a name, and whose key is kept.
type NamedCertificate struct {
	Object
	PEM   string
	Chain []*x509.Certificate // what PEM holds, the leaf first
}

// ImportCertificate accepts the certificate for a certification request. The key of
// the request moves to a new certificate, and the request is gone. The display name
// is that of the request unless another is given.
//
// Errors: Invalid with the rules that id, labels or chain break, KeyMismatch when
// the certificate is for another key, KeyUsage when the request is for a CA and
// the certificate cannot sign others, or because the collection of certificates
// is full; NotFound, Stale; Conflict when others kept changing the request;
// Unavailable, Internal.
func (g *Grant) ImportCertificate(ctx context.Context, id string, in Import) (NamedCertificate, error) {
	if err := g.permitsChange(ctx, ImportCertificate); err != nil {
		return NamedCertificate{}, err
	}
	var broken pkcs10.Violations
	checkID(id, &broken)
	in.Labels.check(&broken)
	if err := broken.Err(); err != nil {
		return NamedCertificate{}, classify(err)
	}
	made, err := g.promote(ctx, id, func(key crypto.Signer, r NamedRequest) (Labels, string, error) {
		if err := checkRevision(in.Revision, r.Revision); err != nil {
			return Labels{}, "", err
		}
		criteria := pkcs10.Criteria{Now: g.service.now(), Use: pkcs10.EndEntity, DER: in.DER}
		if r.Spec.CA {
			criteria.Use = pkcs10.Authority
		}
		accepted, broken := pkcs10.Accept(in.PEM, criteria)
		if err := broken.Err(); err != nil {
			return Labels{}, "", err
		}
		c := accepted.Chain
		if !pkcs10.SameKey(key.Public(), c.Leaf().PublicKey) {
			return Labels{}, "", pkcs10.Violations{{Field: pkcs10.CertificateChain, Rule: pkcs10.KeyMismatch}}.Err()
		}
		labels := in.Labels
		labels.DisplayName = cmp.Or(labels.DisplayName, r.DisplayName)
		return labels, c.PEM(), nil
	})
	return made, g.refuse(err)
}

// SelfSign makes a self-signed certificate from a certification request. It is valid
// from now for the given days, 1 to 10,000; nil is 825. Only a CA gets more than 825.
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
	made, err := g.promote(ctx, id, func(key crypto.Signer, r NamedRequest) (Labels, string, error) {
		parsed, err := pkcs10.ParseRequest(r.PEM)
		if err != nil {
			return Labels{}, "", err
		}
		text, err := pkcs10.TemplateOf(parsed, r.Spec.CA).SelfSignDays(key, days, g.service.timestamp())
		return r.Labels, text, err
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
	at := keystore.Target{Slot: certificateSlot(id), Expect: keystore.Absent}
	record, err := s.keys.Replace(ctx, at, keySpec(spec), func(key crypto.Signer) (keystore.Change, error) {
		text, err := t.SelfSignDays(key, days, s.timestamp())
		if err != nil {
			return keystore.Change{}, err
		}
		return g.certificateChange(payload{g.newObject(id, id, r.Labels), text, spec}, g.event(at.Slot))
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

// promote moves the key of a certification request to a new certificate. build makes
// the certificate's labels and its chain from the request. It is called again when
// another request has taken the place of the first.
func (g *Grant) promote(ctx context.Context, id string, build func(crypto.Signer, NamedRequest) (Labels, string, error)) (NamedCertificate, error) {
	// A request that does not exist is NotFound, also while there is no room.
	if _, err := g.service.keys.Get(ctx, requestSlot(id)); err != nil {
		return NamedCertificate{}, err
	}
	if err := g.service.certificates.hasRoom(ctx, g.service.keys); err != nil {
		return NamedCertificate{}, err
	}
	certificateID := uuid.NewString()
	from := keystore.Target{Slot: requestSlot(id), Expect: keystore.Any}
	to := keystore.Target{Slot: certificateSlot(certificateID), Expect: keystore.Absent}
	var conflict error
	for range maxAttempts {
		// One commit: a crash leaves the request, or the certificate in the list.
		record, err := g.service.keys.Move(ctx, from, to, func(key crypto.Signer, old keystore.Record) (keystore.Change, error) {
			r, err := requestIn(old)
			if err != nil {
				return keystore.Change{}, err
			}
			labels, text, err := build(key, r)
			if err != nil {
				return keystore.Change{}, err
			}
			made := payload{g.newObject(certificateID, certificateID, labels), text, r.Spec}
			return g.certificateChange(made, moved(g.event(to.Slot), from.Slot, r.PEM))
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
	chain, err := pkcs10.ParseCertificates(p.PEM)
	if err != nil {
		return keystore.Change{}, err
	}
	notAfter := keystore.IndexEntry{Name: indexNotAfter, Value: sortable(chain[0].NotAfter)}
	return g.service.change(p, event, append(p.indexEntries(), notAfter)...)
}

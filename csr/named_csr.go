package csr

import (
	"context"
	"crypto"
	"errors"

	"github.com/google/uuid"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// collectionRequests holds the named certification requests, a slot for each.
const collectionRequests = "nsx/csrs"

func requestSlot(id string) keystore.Slot {
	return keystore.Slot{Collection: collectionRequests, ID: id}
}

// NewRequest asks for a named certification request.
type NewRequest struct {
	ID string // 1 to 255 bytes of UTF-8, no control characters, not "." or ".."
	Labels
	Spec pkcs10.Spec
	// Revision is what the caller believes is stored: nil or 0, since nothing is.
	Revision *int64
}

// NamedRequest is a certification request that has a name.
type NamedRequest struct {
	Object
	PEM string
	// Spec is complete: it has an algorithm, a key size and a common name, and
	// countries are in upper case.
	Spec pkcs10.Spec
}

// CreateNamedCSR makes a fresh key and a certification request for it. What it
// returns is what NamedCSR returns later.
//
// Errors: Invalid with every rule that the request breaks, or because the
// collection is full; Exists, before a key is made, when the id is taken; Stale;
// Busy, Unavailable, Internal.
func (g *Grant) CreateNamedCSR(ctx context.Context, r NewRequest) (NamedRequest, error) {
	if err := g.permitsChange(ctx, CreateNamedCSR); err != nil {
		return NamedRequest{}, err
	}
	made, err := g.createNamedCSR(ctx, r)
	return made, classify(err)
}

func (g *Grant) createNamedCSR(ctx context.Context, r NewRequest) (NamedRequest, error) {
	s := g.service
	var broken pkcs10.Violations
	checkID(r.ID, &broken)
	spec, t, err := r.resolve(s.policy, &broken)
	if err != nil {
		return NamedRequest{}, err
	}
	slot := requestSlot(r.ID)
	if _, err := s.keys.Get(ctx, slot); err == nil || errors.Is(err, keystore.ErrUnauthentic) {
		return NamedRequest{}, &Error{Kind: Exists}
	} else if !errors.Is(err, keystore.ErrNotFound) {
		return NamedRequest{}, err
	}
	if err := checkRevision(r.Revision, 0); err != nil {
		return NamedRequest{}, err
	}
	if err := s.requests.hasRoom(ctx, s.keys); err != nil {
		return NamedRequest{}, err
	}
	// A crash before the commit leaves nothing. A crash after it leaves a request
	// that the caller finds under its id.
	at := keystore.Target{Slot: slot, Expect: keystore.Absent}
	record, err := s.keys.Replace(ctx, at, keySpec(spec), func(key crypto.Signer) (keystore.Change, error) {
		p, err := newRequest(key, t, spec)
		if err != nil {
			return keystore.Change{}, err
		}
		p.Object = g.newObject(r.ID, uuid.NewString(), r.Labels)
		return s.change(p, g.event(slot), p.indexEntries()...)
	})
	if errors.Is(err, keystore.ErrConflict) {
		return NamedRequest{}, &Error{Kind: Exists, Err: err}
	}
	if err != nil {
		return NamedRequest{}, err
	}
	return requestIn(record)
}

// resolve checks labels and spec, and completes the spec. The error has what is broken
// already as well.
func (r NewRequest) resolve(p pkcs10.Policy, broken *pkcs10.Violations) (pkcs10.Spec, pkcs10.Template, error) {
	r.Labels.check(broken)
	return p.Resolve(r.Spec, *broken...)
}

// NamedCSR returns a certification request.
//
// Errors: Invalid when no request can have that id, NotFound, Unavailable,
// Internal.
func (g *Grant) NamedCSR(ctx context.Context, id string) (NamedRequest, error) {
	return get(ctx, g, GetNamedCSR, requestSlot(id), requestIn)
}

// DeleteNamedCSR removes a certification request and destroys its key.
//
// Errors: those of NamedCSR, and Conflict when others kept changing it.
func (g *Grant) DeleteNamedCSR(ctx context.Context, id string) error {
	return g.deleteNamed(ctx, DeleteNamedCSR, requestSlot(id))
}

// ListNamedCSRs returns a page of the certification requests.
//
// Errors: Invalid when the page breaks a rule, Unavailable, Internal.
func (g *Grant) ListNamedCSRs(ctx context.Context, p Page) (Listing[NamedRequest], error) {
	return list(ctx, g, ListNamedCSRs, collectionRequests, p, requestIn)
}

// get is an operation that reads a named object.
func get[T any](ctx context.Context, g *Grant, o Operation, slot keystore.Slot, read func(keystore.Record) (T, error)) (none T, _ error) {
	if err := g.permits(o); err != nil {
		return none, err
	}
	if err := validID(slot.ID); err != nil {
		return none, classify(err)
	}
	record, err := g.service.keys.Get(ctx, slot)
	if err != nil {
		return none, classify(err)
	}
	object, err := read(record)
	return object, classify(err)
}

// deleteNamed is an operation that removes a named object.
func (g *Grant) deleteNamed(ctx context.Context, o Operation, slot keystore.Slot) error {
	if err := g.permitsChange(ctx, o); err != nil {
		return err
	}
	if err := validID(slot.ID); err != nil {
		return classify(err)
	}
	defer g.service.published.forget()
	return classify(g.remove(ctx, slot))
}

package csr

import (
	"context"
	"crypto"
	"errors"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// CheckRecord reports whether the payload of a record of this package can be read, and
// is of the key beside it. A certificate that crypto/x509 does not parse is no problem.
func CheckRecord(r keystore.Record, public crypto.PublicKey) error {
	p, err := decodePayload(r)
	if err != nil {
		return err
	}
	digest, err := pkcs10.KeyDigest(public)
	if err != nil {
		return err
	}
	its, unparsed := pkcs10.PublicKey(p.PEM)
	if p.facts() == nil && unparsed != nil {
		return unparsed
	}
	if p.KeySHA256 != "" && p.KeySHA256 != digest || unparsed == nil && !pkcs10.SameKey(its, public) {
		return errors.New("the key is not that of the CSR or certificate beside it")
	}
	return nil
}

// LogUnparsed logs each stored certificate that this crypto/x509 does not parse. They stay
// served as they were accepted.
func (s *Service) LogUnparsed(ctx context.Context) {
	look := func(r keystore.Record) {
		text, err := storedPEM(r)
		if err != nil {
			return // whoever reads it says so
		}
		if _, err := pkcs10.ParseCertificates(text); err != nil {
			s.log.WarnContext(ctx, "this release cannot parse a stored certificate: it is served as it was accepted, and a new one should take its place", "slot", r.Slot.String(), "err", err)
		}
	}
	if r, err := s.keys.Get(ctx, installedSlot()); err == nil {
		look(r)
	}
	query := keystore.Query{Collection: collectionCertificates, Limit: pageChunk}
	for {
		records, err := s.keys.List(ctx, query)
		if err != nil {
			s.log.WarnContext(ctx, "the stored certificates were not all looked through", "err", err)
			return
		}
		for _, r := range records {
			if query.After = r.Position; r.Err == nil {
				look(r.Record)
			}
		}
		if len(records) < query.Limit {
			return
		}
	}
}

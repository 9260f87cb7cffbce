package csr

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// The formats of a payload. A change of the format gets a new number, a reader of the old
// format, and a golden file. Format 1 had neither what certificates say nor digests of
// keys.
const (
	payloadFormat    = "2"
	payloadFormatOne = "1"
)

// payload is what every slot of this package holds beside its key. It is stored as
//
//	payloadFormat and a blank
//	everything but the PEM as a JSON object, and a line feed
//	the PEM as it is served
//
// A read of the PEM alone opens no key and parses neither JSON nor ASN.1. What a
// certificate says is stored when it is accepted and not parsed again: a later
// crypto/x509 may refuse what this one takes.
type payload struct {
	Object              // in the attestation slots only who made it and when
	PEM     string      `json:"-"`                // the CSR, or the chain with the leaf first
	Spec    pkcs10.Spec `json:"request"`          // what the CSR says; kept beside its certificate
	Purpose string      `json:"purpose,omitzero"` // what the caller says that a certificate is for
	// KeySHA256 is of the public key, as pkcs10.KeyDigest makes it.
	KeySHA256 string `json:"key_sha256,omitzero"`
	// Replaced is KeySHA256 of the CSR that this one replaced when it was made, in the
	// pending slot. Of creates that run at the same time it may be another one.
	Replaced string `json:"replaced_key_sha256,omitzero"`
	// Of a certificate: what each of the chain says, the certificates that its path to
	// an anchor needed beyond it, and whether there was an anchor.
	Facts    []pkcs10.Facts `json:"facts,omitempty"`
	Beyond   string         `json:"beyond,omitzero"` // PEM
	Anchored bool           `json:"anchored,omitzero"`
	// Of a certificate of the attestation key: see KeyVersion; 0 is 1. When a staged one
	// becomes active. When one was replaced whose record has no key any more.
	Version int       `json:"version,omitzero"`
	Due     time.Time `json:"due,omitzero"`
	Retired time.Time `json:"retired,omitzero"`
}

func (p payload) encode() ([]byte, error) {
	description, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode a payload: %w", err)
	}
	var b bytes.Buffer
	b.WriteString(payloadFormat + " ")
	b.Write(description)
	b.WriteString("\n" + p.PEM)
	return b.Bytes(), nil
}

// cutPayload returns the two parts of what a record holds.
func cutPayload(r keystore.Record) (description []byte, text string, err error) {
	format, rest, _ := bytes.Cut(r.Payload, []byte(" "))
	if string(format) != payloadFormat && string(format) != payloadFormatOne {
		return nil, "", fmt.Errorf("%s: the payload is of neither format %s nor %s, which this version reads", r.Slot, payloadFormatOne, payloadFormat)
	}
	description, block, _ := bytes.Cut(rest, []byte("\n"))
	if len(block) == 0 {
		return nil, "", fmt.Errorf("%s: the payload holds no PEM", r.Slot)
	}
	return description, string(block), nil
}

// storedPEM returns the PEM of a record.
func storedPEM(r keystore.Record) (string, error) {
	_, text, err := cutPayload(r)
	return text, err
}

// decodePayload reads all of a record.
func decodePayload(r keystore.Record) (payload, error) {
	var p payload
	text, err := decodeInto(r, &p)
	if err != nil {
		return payload{}, err
	}
	p.ID, p.PEM = r.Slot.ID, text
	return p, nil
}

// decodeInto reads the members of a record's payload that into has, and returns the
// PEM.
func decodeInto(r keystore.Record, into any) (string, error) {
	description, text, err := cutPayload(r)
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(description, into); err != nil {
		return "", fmt.Errorf("%s: decode the payload: %w", r.Slot, err)
	}
	return text, nil
}

// withDigest reads a record, and its key where format 1 has no digest of it. It does not
// parse the certificate: crypto/x509 may have come to refuse it.
func (s *Service) withDigest(ctx context.Context, r keystore.Record) (payload, error) {
	p, err := decodePayload(r)
	if err != nil || p.KeySHA256 != "" {
		return p, err
	}
	err = s.keys.Use(ctx, r.Slot, func(key crypto.Signer, _ keystore.Record) (_ []byte, err error) {
		p.KeySHA256, err = pkcs10.KeyDigest(key.Public())
		return nil, err
	})
	return p, err
}

// replacedKey is the digest of the key of a CSR that is replaced. Format 1 has none.
func replacedKey(old keystore.Record) string {
	var p struct {
		KeySHA256 string `json:"key_sha256"`
	}
	if _, err := decodeInto(old, &p); err != nil {
		return "" // there is none, or it cannot be read
	}
	return p.KeySHA256
}

// facts is Facts also in format 1: there the chain is parsed.
func (p payload) facts() []pkcs10.Facts {
	if p.Facts == nil {
		return pkcs10.FactsIn(p.PEM)
	}
	return p.Facts
}

func factsOf(chain pkcs10.Chain) (all []pkcs10.Facts) {
	for _, c := range chain {
		all = append(all, pkcs10.FactsOf(c))
	}
	return all
}

// newRequest signs a certification request, and is what is stored of it.
func newRequest(key crypto.Signer, t pkcs10.Template, spec pkcs10.Spec) (payload, error) {
	text, err := t.Sign(key)
	if err != nil {
		return payload{}, err
	}
	digest, err := pkcs10.KeyDigest(key.Public())
	return payload{PEM: text, Spec: spec, KeySHA256: digest}, err
}

// newCertificate is what is stored of a chain that was accepted or made.
func newCertificate(chain pkcs10.Chain, spec pkcs10.Spec) (payload, error) {
	p := payload{PEM: chain.PEM(), Spec: spec, Facts: factsOf(chain)}
	var err error
	p.KeySHA256, err = pkcs10.KeyDigest(chain.Leaf().PublicKey)
	return p, err
}

// newSelfSigned is newCertificate of a certificate that was made here.
func newSelfSigned(text string, spec pkcs10.Spec) (payload, error) {
	chain, err := pkcs10.ParseCertificates(text)
	if err != nil {
		return payload{}, err
	}
	return newCertificate(chain, spec)
}

// The indexes of the named objects; certificates are in indexNotAfter too.
const (
	indexDisplayName = "display_name"
	// Also for the time of the last change, since no operation changes an object.
	indexCreated  = "created"
	indexNotAfter = "not_after"
)

// indexEntries place a named object in the orders of a list.
func (p payload) indexEntries() []keystore.IndexEntry {
	return []keystore.IndexEntry{
		{Name: indexDisplayName, Value: []byte(p.DisplayName)},
		{Name: indexCreated, Value: sortable(p.Created)},
	}
}

// sortable is a time in milliseconds since 1970 as bytes that sort as times do. All
// times before 1970 are equal.
func sortable(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(0, t.UnixMilli())))
}

// requestIn reads a record of the collection of certification requests.
func requestIn(r keystore.Record) (NamedRequest, error) {
	p, err := decodePayload(r)
	return NamedRequest{p.Object, p.PEM, p.Spec}, err
}

// certificateIn reads a record of a certificate.
func certificateIn(r keystore.Record) (NamedCertificate, error) {
	p, err := decodePayload(r)
	if err != nil {
		return NamedCertificate{}, err
	}
	facts := p.facts()
	if facts == nil {
		return NamedCertificate{}, fmt.Errorf("%s: the payload holds no certificate", r.Slot)
	}
	return NamedCertificate{p.Object, p.PEM, p.Purpose, facts}, nil
}

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

// CheckRetired is CheckRecord for a record without a key: only that of a key that was
// replaced has none.
func CheckRetired(r keystore.Record) error {
	p, err := decodePayload(r)
	if err != nil {
		return err
	}
	if v, err := p.keyVersion(); err != nil || r.Slot != retiredSlot(v.KeyID) {
		return cmp.Or(err, keystore.ErrNoKey)
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

package csr

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/keystore"
)

// namedVersion is the format that named objects are written in. A change of
// format gets a new number, a reader of the old one, and its own golden file.
const namedVersion = 1

// namedPayload is what the slots of named objects hold beside their key, as JSON.
type namedPayload struct {
	Version     int         `json:"version"`
	UniqueID    string      `json:"unique_id"`
	DisplayName string      `json:"display_name"`
	Description string      `json:"description,omitempty"`
	Tags        []storedTag `json:"tags,omitempty"`
	CreatedBy   string      `json:"created_by"`
	Created     time.Time   `json:"created"`
	ModifiedBy  string      `json:"modified_by"`
	Modified    time.Time   `json:"modified"`
	Revision    int64       `json:"revision"`
	PEM         string      `json:"pem"`            // the CSR, or the chain with the leaf first
	Spec        *storedSpec `json:"spec,omitempty"` // of a CSR
}

type storedTag struct {
	Scope string `json:"scope"`
	Tag   string `json:"tag"`
}

type storedSpec struct {
	Algorithm string            `json:"algorithm"` // "RSA" or "ECDSA"
	KeySize   int64             `json:"key_size"`
	Subject   []storedAttribute `json:"subject"`
	Email     string            `json:"email,omitempty"`
	AltNames  []storedAltName   `json:"alt_names,omitempty"`
	CA        bool              `json:"ca,omitzero"`
}

type storedAttribute struct {
	Type  string `json:"type"` // the short name of RFC 4519
	Value string `json:"value"`
}

type storedAltName struct {
	Kind  string `json:"kind,omitempty"`
	Value string `json:"value"`
}

// spelling pairs a value of this package with its name in the stored format.
type spelling[T comparable] struct {
	value T
	name  string
}

func attributeSpellings() []spelling[Field] {
	return []spelling[Field]{
		{CommonName, "CN"}, {Organization, "O"}, {OrganizationalUnit, "OU"},
		{Locality, "L"}, {StateOrProvince, "ST"}, {Country, "C"},
	}
}

func altNameSpellings() []spelling[AltNameKind] {
	return []spelling[AltNameKind]{
		{ByContent, ""}, {DNSName, "dns"}, {IPAddress, "ip"}, {Mailbox, "email"}, {URI, "uri"},
	}
}

func nameOf[T comparable](spellings []spelling[T], value T) (string, error) {
	for _, s := range spellings {
		if s.value == value {
			return s.name, nil
		}
	}
	return "", fmt.Errorf("no stored form of %v", value)
}

func valueOf[T comparable](spellings []spelling[T], name string) (T, error) {
	for _, s := range spellings {
		if s.name == name {
			return s.value, nil
		}
	}
	var none T
	return none, fmt.Errorf("unknown name %q", name)
}

func newNamedPayload(o Object, pem string) namedPayload {
	p := namedPayload{
		Version: namedVersion, UniqueID: o.UniqueID, DisplayName: o.DisplayName, Description: o.Description,
		CreatedBy: o.CreatedBy, Created: o.Created, ModifiedBy: o.ModifiedBy, Modified: o.Modified,
		Revision: o.Revision, PEM: pem,
	}
	for _, t := range o.Tags {
		p.Tags = append(p.Tags, storedTag(t))
	}
	return p
}

func (p namedPayload) object(id string) Object {
	o := Object{
		ID: id, UniqueID: p.UniqueID,
		Labels:    Labels{DisplayName: p.DisplayName, Description: p.Description},
		CreatedBy: p.CreatedBy, Created: p.Created, ModifiedBy: p.ModifiedBy, Modified: p.Modified,
		Revision: p.Revision,
	}
	for _, t := range p.Tags {
		o.Tags = append(o.Tags, Tag(t))
	}
	return o
}

func newStoredSpec(s Spec) (*storedSpec, error) {
	stored := &storedSpec{Algorithm: string(s.Algorithm), KeySize: *s.KeySize, Email: s.Email, CA: s.CA}
	for _, a := range s.Subject {
		name, err := nameOf(attributeSpellings(), a.Type)
		if err != nil {
			return nil, err
		}
		stored.Subject = append(stored.Subject, storedAttribute{name, a.Value})
	}
	for _, a := range s.AltNames {
		kind, err := nameOf(altNameSpellings(), a.Kind)
		if err != nil {
			return nil, err
		}
		stored.AltNames = append(stored.AltNames, storedAltName{kind, a.Value})
	}
	return stored, nil
}

func (stored *storedSpec) spec() (Spec, error) {
	s := Spec{Algorithm: Algorithm(stored.Algorithm), KeySize: &stored.KeySize, Email: stored.Email, CA: stored.CA}
	for _, a := range stored.Subject {
		field, err := valueOf(attributeSpellings(), a.Type)
		if err != nil {
			return Spec{}, err
		}
		s.Subject = append(s.Subject, Attribute{field, a.Value})
	}
	for _, a := range stored.AltNames {
		kind, err := valueOf(altNameSpellings(), a.Kind)
		if err != nil {
			return Spec{}, err
		}
		s.AltNames = append(s.AltNames, AltName{kind, a.Value})
	}
	return s, nil
}

// The indexes of both collections; certificates are in indexNotAfter too.
const (
	indexDisplayName = "display_name"
	// Also for the time of the last change: no operation changes an object, and
	// another index would make every commit write more pages.
	indexCreated  = "created"
	indexNotAfter = "not_after"
)

// change returns what is stored of an object: the payload and its place in every
// order that it is listed in, with the note of what happened.
func (p namedPayload) change(note []byte, more ...keystore.IndexEntry) (keystore.Change, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return keystore.Change{}, fmt.Errorf("encode a named object: %w", err)
	}
	return keystore.Change{Payload: b, Note: note, Index: append([]keystore.IndexEntry{
		{Name: indexDisplayName, Value: []byte(p.DisplayName)},
		{Name: indexCreated, Value: sortable(p.Created)},
	}, more...)}, nil
}

// sortable is a time in milliseconds since 1970 as bytes that compare as times
// do. Before 1970 all times are one.
func sortable(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(0, t.UnixMilli())))
}

func decodeNamed(b []byte) (namedPayload, error) {
	var p namedPayload
	if err := json.Unmarshal(b, &p); err != nil {
		return namedPayload{}, fmt.Errorf("decode a named object: %w", err)
	}
	switch {
	case p.Version != namedVersion:
		return namedPayload{}, fmt.Errorf("decode a named object: it has format %d, this version reads %d", p.Version, namedVersion)
	case p.PEM == "":
		return namedPayload{}, errors.New("decode a named object: it holds no PEM")
	}
	return p, nil
}

// requestIn reads a record of the collection of certification requests.
func requestIn(r keystore.Record) (NamedRequest, error) {
	p, err := decodeNamed(r.Payload)
	if err == nil && p.Spec == nil {
		err = errors.New("it is not a certification request")
	}
	if err != nil {
		return NamedRequest{}, fmt.Errorf("%s: %w", r.Slot, err)
	}
	spec, err := p.Spec.spec()
	if err != nil {
		return NamedRequest{}, fmt.Errorf("%s: %w", r.Slot, err)
	}
	return NamedRequest{Object: p.object(r.Slot.ID), PEM: p.PEM, Spec: spec}, nil
}

// certificateIn reads a record of the collection of certificates.
func certificateIn(r keystore.Record) (NamedCertificate, error) {
	p, err := decodeNamed(r.Payload)
	if err != nil {
		return NamedCertificate{}, fmt.Errorf("%s: %w", r.Slot, err)
	}
	chain, err := p.certificates()
	if err != nil {
		return NamedCertificate{}, fmt.Errorf("%s: %w", r.Slot, err)
	}
	return NamedCertificate{Object: p.object(r.Slot.ID), PEM: p.PEM, Chain: chain}, nil
}

// certificates parses the stored chain.
func (p namedPayload) certificates() ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode([]byte(p.PEM)); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse the stored certificate: %w", err)
		}
		chain = append(chain, certificate)
	}
	if len(chain) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return chain, nil
}

package csr

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// payloadFormat is the number of the format. A change of the format gets a new number,
// a reader of the old format, and a golden file.
const payloadFormat = "1"

// payload is what every slot of this package holds beside its key. It is stored as
//
//	payloadFormat and a blank
//	everything but the PEM as a JSON object, and a line feed
//	the PEM as it is served
//
// A read of the PEM alone opens no key and parses neither JSON nor ASN.1.
type payload struct {
	Object             // in the attestation slots only who made it and when
	PEM    string      `json:"-"`       // the CSR, or the chain with the leaf first
	Spec   pkcs10.Spec `json:"request"` // what the CSR says; kept beside its certificate
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
	if string(format) != payloadFormat {
		return nil, "", fmt.Errorf("%s: the payload is not of format %s, which this version reads", r.Slot, payloadFormat)
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
	return NamedRequest(p), err
}

// certificateIn reads a record of the collection of certificates.
func certificateIn(r keystore.Record) (NamedCertificate, error) {
	var o Object // without what the request said: nobody lists that
	text, err := decodeInto(r, &o)
	if err != nil {
		return NamedCertificate{}, err
	}
	chain, err := pkcs10.ParseCertificates(text)
	if err != nil {
		return NamedCertificate{}, fmt.Errorf("%s: %w", r.Slot, err)
	}
	o.ID = r.Slot.ID
	return NamedCertificate{o, text, chain}, nil
}

package pkcs10_test

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"testing"
)

// The members of a TBSCertificate (RFC 5280 section 4.1) by their place.
const (
	itsSerial = 1 + iota
	itsAlgorithm
	itsIssuer
	itsValidity
	itsSubject
	itsKey
	itsExtensions
)

// rebuild returns the DER of a certificate with members of its TBSCertificate replaced.
// The signature is that of the old one, and wrong.
func rebuild(t testing.TB, c *x509.Certificate, edits map[int][]byte) []byte {
	t.Helper()
	outer := members(t, c.Raw)
	tbs := members(t, outer[0])
	for at, member := range edits {
		tbs[at] = member
	}
	outer[0] = tlv(0x30, tbs...)
	if algorithm, changed := edits[itsAlgorithm]; changed {
		outer[1] = algorithm
	}
	return tlv(0x30, outer...)
}

// members returns the encoded members of a SEQUENCE.
func members(t testing.TB, sequence []byte) (all [][]byte) {
	t.Helper()
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(sequence, &outer); err != nil {
		t.Fatal(err)
	}
	for rest := outer.Bytes; len(rest) > 0; {
		var member asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &member); err != nil {
			t.Fatal(err)
		}
		all = append(all, member.FullBytes)
	}
	return all
}

// tlv encodes a value with a tag of one byte.
func tlv(tag byte, parts ...[]byte) []byte {
	content := slices.Concat(parts...)
	switch n := len(content); {
	case n < 1<<7:
		return slices.Concat([]byte{tag, byte(n)}, content)
	case n < 1<<8:
		return slices.Concat([]byte{tag, 0x81, byte(n)}, content)
	case n < 1<<16:
		return slices.Concat([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content)
	default:
		return slices.Concat([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, content)
	}
}

func oid(t testing.TB, numbers ...int) []byte {
	t.Helper()
	der, err := asn1.Marshal(asn1.ObjectIdentifier(numbers))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// nameOf encodes a common name as a string of a type.
func nameOf(t testing.TB, stringType byte, value string) []byte {
	t.Helper()
	return tlv(0x30, tlv(0x31, tlv(0x30, oid(t, 2, 5, 4, 3), tlv(stringType, []byte(value)))))
}

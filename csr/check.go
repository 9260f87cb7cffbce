package csr

import (
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

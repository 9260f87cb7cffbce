package csr

import (
	"crypto"
	"errors"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// CheckRecord reports whether the payload of a record of this package can be read, and
// is of the key beside it.
func CheckRecord(r keystore.Record, public crypto.PublicKey) error {
	p, err := decodePayload(r)
	if err != nil {
		return err
	}
	its, err := pkcs10.PublicKey(p.PEM)
	if err != nil {
		return err
	}
	if !pkcs10.SameKey(its, public) {
		return errors.New("the key is not that of the CSR or certificate beside it")
	}
	return nil
}

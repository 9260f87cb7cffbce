// Package sealed is a custodian that keeps no keys: it seals each private key
// under a keyset of its own and hands the ciphertext out as the reference, so
// that the key lives in the record that refers to it.
//
// # Format of a reference
//
//	1 byte   format version: 1
//	n bytes  Tink ciphertext (prefix 0x01, key id, nonce, AES-256-GCM-SIV) of the
//	         private key as PKCS#8 DER (RFC 5208)
//
// The associated data are, each with its length before it as a 32-bit
// big-endian number: the purpose "attestcsr private key", the slot's collection,
// the slot's id, the format version byte, and the SHA-256 of the payload. Who can
// write to the store but does not have the keyset can therefore not pair a key
// with another slot or another payload; putting back an older record as a whole
// stays undetectable.
//
// Destroy has nothing to do: the sealed key goes with its record. Pages of the
// store that are free keep old ciphertext until they are used again.
package sealed

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"

	"attestcsr/keystore"
)

const (
	refFormat = 1
	purpose   = "attestcsr private key"
)

// The sizes of RSA keys that are made, in bits. Which of them a caller may ask
// for is decided above.
const (
	MinRSABits = 2048
	MaxRSABits = 8192
)

// Custodian seals and opens private keys. It implements keystore.Custodian.
type Custodian struct {
	file   string
	log    *slog.Logger
	keys   atomic.Pointer[keys] // another one after Reload
	closed atomic.Bool
}

var _ keystore.Custodian = (*Custodian)(nil)

// Format prints the same for every verb: fmt would otherwise walk into the keys.
func (*Custodian) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[custodian]") }

// Generate makes an RSA key of MinRSABits to MaxRSABits, in steps of 8 bits, or
// an ECDSA key on P-256, P-384 or P-521 (FIPS 186-5). It is not cut short by the
// end of ctx.
func (c *Custodian) Generate(_ context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	private, err := generate(spec)
	if err != nil {
		return nil, err
	}
	// Encoded here and not in Bind, which a request waits for.
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, errors.New("encoding a private key as PKCS#8 failed")
	}
	return &key{signer: signer{private}, custodian: c, der: der}, nil
}

func generate(spec keystore.KeySpec) (crypto.Signer, error) {
	switch spec.Algorithm {
	case keystore.RSA:
		if spec.Bits < MinRSABits || spec.Bits > MaxRSABits || spec.Bits%8 != 0 {
			return nil, fmt.Errorf("RSA keys of %d bits are not made here: %d to %d, in steps of 8", spec.Bits, MinRSABits, MaxRSABits)
		}
		return rsa.GenerateKey(rand.Reader, spec.Bits)
	case keystore.ECDSA:
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			if curve.Params().BitSize == spec.Bits {
				return ecdsa.GenerateKey(curve, rand.Reader)
			}
		}
		return nil, fmt.Errorf("no ECDSA curve of %d bits: 256, 384 or 521", spec.Bits)
	}
	return nil, fmt.Errorf("keys of algorithm %q are not made here", string(spec.Algorithm))
}

// Open unseals a key. It fails when the reference was sealed by another keyset,
// for another slot or payload, or is damaged; it cannot tell which.
func (c *Custodian) Open(_ context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	der, err := c.unseal(at, ref)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil { // the cause may quote the key
		return nil, fmt.Errorf("%s: the sealed private key is not PKCS#8", at.Slot)
	}
	switch private := private.(type) {
	case *rsa.PrivateKey:
		return signer{private}, nil
	case *ecdsa.PrivateKey:
		return signer{private}, nil
	}
	return nil, fmt.Errorf("%s: the sealed private key is of an unknown kind", at.Slot)
}

// Rebind seals the key again for another binding. The old reference stays valid
// for the old binding.
func (c *Custodian) Rebind(_ context.Context, from, to keystore.Binding, ref keystore.Ref) (keystore.Ref, error) {
	der, err := c.unseal(from, ref)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return c.seal(to, der)
}

// Stale reports whether the key is sealed under another key than the primary one: a
// Tink ciphertext begins with 0x01 and the id of its key.
func (c *Custodian) Stale(ref keystore.Ref) bool {
	return len(ref) == 0 || !bytes.HasPrefix(ref[1:], c.keys.Load().prefix)
}

// Destroy has nothing to do: the key is in the record that is gone.
func (c *Custodian) Destroy(context.Context, keystore.Ref) error { return c.usable() }

// Sweep has nothing to do: there is no key without a record.
func (c *Custodian) Sweep(context.Context, func(keystore.Ref) bool) error { return c.usable() }

// Close makes every later call fail with keystore.ErrUnavailable. Signers that
// were handed out keep working.
func (c *Custodian) Close() error {
	c.closed.Store(true)
	return nil
}

func (c *Custodian) usable() error {
	if c.closed.Load() {
		return fmt.Errorf("%w: the custodian is closed", keystore.ErrUnavailable)
	}
	return nil
}

func (c *Custodian) seal(at keystore.Binding, der []byte) (keystore.Ref, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	sealed, err := c.keys.Load().aead.Encrypt(der, associatedData(at))
	if err != nil {
		return nil, fmt.Errorf("%s: sealing a private key: %w", at.Slot, err)
	}
	return append(keystore.Ref{refFormat}, sealed...), nil
}

func (c *Custodian) unseal(at keystore.Binding, ref keystore.Ref) ([]byte, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	if len(ref) == 0 || len(ref) > keystore.MaxRefLen {
		return nil, fmt.Errorf("%s: the reference is not a sealed private key", at.Slot)
	}
	if ref[0] != refFormat {
		return nil, fmt.Errorf("%s: the private key is sealed in format %d, this attestcsr reads %d: upgrade it", at.Slot, ref[0], refFormat)
	}
	der, err := c.keys.Load().aead.Decrypt(ref[1:], associatedData(at))
	if err != nil {
		return nil, fmt.Errorf("%s: the private key does not open with this sealing keyset", at.Slot)
	}
	return der, nil
}

// associatedData is injective: every part has its length before it.
func associatedData(at keystore.Binding) []byte {
	var b []byte
	for _, part := range [][]byte{
		[]byte(purpose), []byte(at.Slot.Collection), []byte(at.Slot.ID), {refFormat}, at.Digest[:],
	} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // bounded by keystore.MaxIDLen
		b = append(b, part...)
	}
	return b
}

// signer hides the private key's type, so that no caller can take the key out by
// a type assertion or print it by accident.
type signer struct{ private crypto.Signer }

func (s signer) Public() crypto.PublicKey { return s.private.Public() }

func (s signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.private.Sign(random, digest, opts)
}

// Format prints the same for every verb: fmt would otherwise walk into the key.
func (signer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[private key]") }

// key is a fresh key in memory.
type key struct {
	signer
	custodian *Custodian
	der       []byte      // PKCS#8; wiped at the end
	ended     atomic.Bool // bound or discarded
}

var errEnded = errors.New("the key was bound or discarded before")

// Bind seals the key, and wipes its PKCS#8 form afterwards, as far as Go allows:
// copies that crypto/x509 and crypto/rsa keep inside are out of reach.
func (k *key) Bind(_ context.Context, to keystore.Binding) (keystore.Ref, error) {
	if k.ended.Swap(true) {
		return nil, errEnded
	}
	ref, err := k.custodian.seal(to, k.der)
	if err != nil {
		k.ended.Store(false)
		return nil, err
	}
	clear(k.der)
	return ref, nil
}

// Discard gives the key up. It was not stored.
func (k *key) Discard() error {
	if k.ended.Swap(true) {
		return errEnded
	}
	clear(k.der)
	return nil
}

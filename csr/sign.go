package csr

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// KeyName names a key that signs: that of the installed attestation certificate, or with
// NSX that of the named certificate with this id.
type KeyName struct{ NSX string }

// The texts of key names.
const (
	attestationName = "attestation"
	nsxPrefix       = "nsx-"
)

func (k KeyName) String() string {
	if k.NSX == "" {
		return attestationName
	}
	return nsxPrefix + k.NSX
}

// ParseKeyName reads what String returns.
func ParseKeyName(text string) (KeyName, bool) {
	if text == attestationName {
		return KeyName{}, true
	}
	id, named := strings.CutPrefix(text, nsxPrefix)
	var broken pkcs10.Violations
	if checkID(id, &broken); !named || len(broken) > 0 {
		return KeyName{}, false
	}
	return KeyName{NSX: id}, true
}

func (k KeyName) slot() keystore.Slot {
	if k.NSX == "" {
		return installedSlot()
	}
	return certificateSlot(k.NSX)
}

// Scheme is a kind of signature.
type Scheme string

// The schemes of RSA (RFC 8017 sections 8.1 and 8.2; the salt of PSS is as long as the
// digest), and the one of elliptic curves (FIPS 186-5 section 6).
const (
	PKCS1v15 Scheme = "pkcs1v15"
	PSS      Scheme = "pss"
	ECDSA    Scheme = "ecdsa"
)

// SignInput is what is signed: a digest, of SHA-256, SHA-384 or SHA-512.
type SignInput struct {
	Digest  []byte
	Hash    crypto.Hash
	Scheme  Scheme
	Version int // of the key that has to sign; 0: the latest. Verify does not look at it
}

// Signature is the signature of one input, or with Err the *Error why there is none.
type Signature struct {
	Bytes   []byte // of ECDSA in ASN.1, as RFC 3279 section 2.2.3 has it
	Version int    // of the key, see KeyVersion
	KeyID   string
	Err     error
}

// The fields of a signature.
const (
	SigningKey      pkcs10.Field = "key"
	SigningScheme   pkcs10.Field = "signature algorithm"
	SigningHash     pkcs10.Field = "hash algorithm"
	SigningDigest   pkcs10.Field = "digest"
	SigningVersion  pkcs10.Field = "key version"
	SigningMessages pkcs10.Field = "batch"
)

const (
	// maxBatch is how many inputs one Sign takes.
	maxBatch = 100
	// signingAtOnce is how many of them are under way: they share commits.
	signingAtOnce = 16
)

// Sign signs with the key that the grant is for, once for each input. The evidence of a
// signature is durable before it is returned: a crash before leaves no trace of it, and
// a commit of unknown outcome gives none away. While the key is being replaced, each
// signature is of the key that its Version and KeyID name.
//
// The errors of the whole are Invalid for an empty or too long batch, TooMany beyond the
// rate of the caller, and Unavailable. Those of one input are NotFound, Invalid for a key
// that may not sign, for an algorithm that is not for the key, and for a digest of another
// length; Unavailable, Internal.
func (g *Grant) Sign(ctx context.Context, inputs []SignInput) ([]Signature, error) {
	if err := g.permits(SignKey); err != nil {
		return nil, err
	}
	s := g.service
	if n := len(inputs); n == 0 || n > maxBatch {
		return nil, violated(SigningMessages, pkcs10.OutOfRange, fmt.Sprintf("1 to %d", maxBatch))
	}
	if wait := s.rates.take(g.caller.User, len(inputs), s.now()); wait > 0 {
		s.signatures.WithLabelValues(TooMany.String()).Add(float64(len(inputs)))
		return nil, &Error{Kind: TooMany, RetryAfter: wait}
	}
	if err := s.audit.AdmitSignature(ctx); err != nil {
		s.signatures.WithLabelValues(Unavailable.String()).Add(float64(len(inputs)))
		return nil, classify(err)
	}
	signatures := make([]Signature, len(inputs))
	var work errgroup.Group
	work.SetLimit(signingAtOnce)
	for i, in := range inputs {
		work.Go(func() error {
			signature, err := g.sign(ctx, in)
			if signatures[i] = signature; err != nil {
				signatures[i] = Signature{Err: classify(err)}
			}
			s.signatures.WithLabelValues(signatures[i].outcome()).Inc()
			return nil
		})
	}
	return signatures, work.Wait()
}

func (s Signature) outcome() string {
	if e, failed := errors.AsType[*Error](s.Err); failed {
		return e.Kind.String()
	}
	return signed
}

// signed is the outcome of a signature that was made.
const signed = "signed"

func (g *Grant) sign(ctx context.Context, in SignInput) (made Signature, err error) {
	for range maxAttempts {
		err = g.service.keys.Use(ctx, g.key.slot(), func(key crypto.Signer, r keystore.Record) (note []byte, err error) {
			p, err := decodePayload(r)
			if err != nil {
				return nil, err
			}
			if err := errors.Join(maySign(p), in.check(key.Public())); err != nil {
				return nil, err
			}
			if in.Version != 0 && in.Version != p.version() {
				return nil, violated(SigningVersion, pkcs10.NotAllowed, fmt.Sprintf("%d, which is the latest: only that one signs", p.version()))
			}
			if made, err = in.sign(key); err != nil {
				return nil, err
			}
			made.Version = p.version()
			event := g.event(r.Slot)
			event.KeyID, event.Algorithm, event.Digest = made.KeyID, in.name(), hex.EncodeToString(in.Digest)
			return g.service.audit.NoteSignature(event)
		})
		if !errors.Is(err, keystore.ErrConflict) {
			break
		}
	}
	if err != nil {
		return Signature{}, err
	}
	return made, nil
}

// maySign refuses the key of a certification authority: what it signs may be a
// certificate.
func maySign(p payload) error {
	facts := p.facts()
	if !p.Spec.CA && len(facts) > 0 && !facts[0].CA {
		return nil
	}
	return violated(SigningKey, pkcs10.NotForSigning, "its certificate, or the CSR of it, is that of a certification authority, or cannot be read")
}

// check reports what does not fit the key.
func (in SignInput) check(public crypto.PublicKey) error {
	var broken pkcs10.Violations
	fits, limit := in.Scheme == PKCS1v15 || in.Scheme == PSS, PKCS1v15+", "+PSS
	if _, curve := public.(*ecdsa.PublicKey); curve {
		fits, limit = in.Scheme == ECDSA, ECDSA
	}
	if !fits {
		broken.Add(pkcs10.Violation{Field: SigningScheme, Rule: pkcs10.NotAllowed, Value: string(in.Scheme), Limit: string(limit) + " for this key"})
	}
	switch in.Hash {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
		if len(in.Digest) != in.Hash.Size() {
			broken.Add(pkcs10.Violation{Field: SigningDigest, Rule: pkcs10.WrongLength, Limit: fmt.Sprint(in.Hash.Size())})
		}
	default:
		broken.Add(pkcs10.Violation{Field: SigningHash, Rule: pkcs10.NotAllowed, Limit: "SHA-256, SHA-384, SHA-512"})
	}
	return broken.Err()
}

func (in SignInput) sign(key crypto.Signer) (made Signature, err error) {
	if made.KeyID, err = pkcs10.Thumbprint(key.Public()); err != nil {
		return Signature{}, err
	}
	var options crypto.SignerOpts = in.Hash
	if in.Scheme == PSS {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: in.Hash}
	}
	made.Bytes, err = key.Sign(rand.Reader, in.Digest, options)
	return made, err
}

// verifies reports whether a signature is that of the key. The input was checked.
func (in SignInput) verifies(public crypto.PublicKey, signature []byte) bool {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if in.Scheme == PSS {
			return rsa.VerifyPSS(key, in.Hash, in.Digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, in.Hash, in.Digest, signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, in.Digest, signature)
	}
	return false
}

// name is the algorithm as the trail has it, in the names of RFC 7518 section 3.1, but
// ES with a hash that is not that of the curve.
func (in SignInput) name() string {
	prefix := map[Scheme]string{PKCS1v15: "RS", PSS: "PS", ECDSA: "ES"}[in.Scheme]
	return prefix + fmt.Sprint(in.Hash.Size()*8)
}

// Verify reports whether a signature is that of a version of the key; 0 is the latest.
// Older versions are known for as long as their public keys are published.
//
// Errors: NotFound; Invalid for a version that is not known and for an input that does not
// fit the key; Unavailable, Internal.
func (g *Grant) Verify(ctx context.Context, version int, in SignInput, signature []byte) (bool, error) {
	if err := g.permits(VerifyKey); err != nil {
		return false, err
	}
	key, err := g.version(ctx, version)
	if err != nil {
		return false, classify(err)
	}
	if err := in.check(key.Public); err != nil {
		return false, classify(err)
	}
	return in.verifies(key.Public, signature), nil
}

// version returns a version of the key; 0 is the latest.
func (g *Grant) version(ctx context.Context, version int) (KeyVersion, error) {
	p, err := g.signing(ctx)
	if err != nil {
		return KeyVersion{}, err
	}
	if version == 0 || version == p.version() {
		return p.keyVersion() // without a read of those that were replaced
	}
	info, err := g.keyInfo(ctx)
	if err != nil {
		return KeyVersion{}, err
	}
	for _, v := range info.Versions {
		if v.Version == version {
			return v, nil
		}
	}
	return KeyVersion{}, violated(SigningVersion, pkcs10.OutOfRange, fmt.Sprintf("1 to %d, and not so old that it is forgotten", info.Latest))
}

// violated is the error of one broken rule.
func violated(f pkcs10.Field, rule pkcs10.Rule, limit string) error {
	return classify(pkcs10.Violations{{Field: f, Rule: rule, Limit: limit}}.Err())
}

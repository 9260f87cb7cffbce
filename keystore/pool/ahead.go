package pool

import (
	"bytes"
	"crypto"
	"io"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
)

// Anticipate says what the keys of that kind will probably be asked to sign: sign
// asks the key that it is given for it. The keys that wait are asked now, those that
// come later when they are made, always in the background; whoever is handed one of
// them and asks for the same has the signature without the time it takes. Asked for
// anything else the key signs as it would have. The sign given before is forgotten; a
// kind that the pool does not keep ready is ignored.
//
// Only signatures that come out the same every time are kept: RSASSA-PKCS1-v1_5 (RFC 8017
// section 8.2), which crypto/rsa makes where the options are a hash and nothing else.
// They stay in memory, as the key does, and go with it.
//
// sign is called by several goroutines at once, and may be when the key has been handed
// out, bound or discarded.
func (p *Pool) Anticipate(spec keystore.KeySpec, sign func(crypto.Signer) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sizes[spec.Bits]
	if spec.Algorithm != keystore.RSA || s == nil || s.configured == 0 {
		return
	}
	s.expected, s.signed = &expectation{sign: sign}, 0
	p.work.Broadcast()
}

// expectation is what keys will be asked to sign.
type expectation struct {
	sign   func(crypto.Signer) error
	failed atomic.Bool // for one of them, which was said
}

// nextToSign returns the first of the keys that wait which was not asked for what it
// is expected to sign, and notes that it was; nil: there is none.
func (s *size) nextToSign() *key {
	if s.expected == nil || s.signed == len(s.ready) {
		return nil
	}
	s.signed++
	return s.ready[s.signed-1]
}

// key is a key that waits, or waited.
type key struct {
	keystore.Key
	used  prometheus.Counter // signatures that were there when they were asked for
	ahead atomic.Pointer[signature]
}

// signature is RSASSA-PKCS1-v1_5.
type signature struct {
	hash          crypto.Hash
	digest, value []byte
}

// Sign implements crypto.Signer.
func (k *key) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash, isHash := opts.(crypto.Hash)
	if s := k.ahead.Load(); s != nil && isHash && s.hash == hash && bytes.Equal(s.digest, digest) {
		k.used.Inc()
		return bytes.Clone(s.value), nil
	}
	return k.Key.Sign(random, digest, opts)
}

// ask has the key sign what it is expected to, and keeps the signature.
func (p *Pool) ask(k *key, e *expectation) (err error) {
	defer guard("signing ahead", &err)
	p.places.enter()
	defer p.places.leave()
	asked := witness{Signer: k.Key}
	err = e.sign(&asked)
	if err == nil && asked.seen != nil {
		k.ahead.Store(asked.seen)
	}
	return err
}

// witness keeps the last signature that was made.
type witness struct {
	crypto.Signer
	seen *signature
}

func (w *witness) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	value, err := w.Signer.Sign(random, digest, opts)
	if hash, isHash := opts.(crypto.Hash); isHash && err == nil {
		w.seen = &signature{hash, bytes.Clone(digest), bytes.Clone(value)}
	}
	return value, err
}

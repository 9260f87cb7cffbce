package csr_test

import (
	"context"
	"crypto"
	"io"
	"sync/atomic"
	"testing"

	"attestcsr/csr"
	"attestcsr/keystore"
)

// signing counts the signatures of all keys that it makes or opens.
type signing struct {
	curveOnly
	signatures *atomic.Int64
}

type signingKey struct {
	keystore.Key
	signatures *atomic.Int64
}

func (k signingKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.signatures.Add(1)
	return k.Key.Sign(random, digest, opts)
}

type signingSigner struct {
	crypto.Signer
	signatures *atomic.Int64
}

func (k signingSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.signatures.Add(1)
	return k.Signer.Sign(random, digest, opts)
}

func (s signing) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	key, err := s.curveOnly.Generate(ctx, spec)
	return signingKey{key, s.signatures}, err
}

func (s signing) Open(ctx context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	key, err := s.curveOnly.Open(ctx, at, ref)
	return signingSigner{key, s.signatures}, err
}

// A key signs what a caller asked for in that request, and at the first start what
// the settings order. Nothing else makes it sign.
func TestSignsOnlyWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	var signatures atomic.Int64
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return signing{curveOnly{c}, &signatures} })
	want := func(what string, n int64) {
		t.Helper()
		if got := signatures.Swap(0); got != n {
			t.Errorf("%s: %d signatures, want %d", what, got, n)
		}
	}
	want("the first start", 1)
	if err := b.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("a later start", 0)
	for range 3 { // the same each time: nothing is signed for the next
		b.create(t, fullSpec())
		want("create", 1)
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.certificate(t)
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("reads and readiness", 0)
}

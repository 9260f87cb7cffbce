package csr_test

import (
	"context"
	"crypto"
	"io"
	"slices"
	"testing"

	"attestcsr/csr"
	"attestcsr/keystore"
)

// witnessed is a custodian that knows what its last key was asked to sign. The
// keys are on P-256.
type witnessed struct {
	curveOnly
	last *witnessedKey
}

type witnessedKey struct {
	keystore.Key
	digest []byte
}

func (w *witnessed) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	key, err := w.curveOnly.Generate(ctx, spec)
	w.last = &witnessedKey{Key: key}
	return w.last, err
}

func (k *witnessedKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.digest = slices.Clone(digest)
	return k.Key.Sign(random, digest, opts)
}

// The next CSR is expected to say what the last two did, and at first what one says
// that asks for nothing. What is expected is then signed, byte for byte.
func TestAnticipates(t *testing.T) {
	t.Parallel()
	custodian := &witnessed{}
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian {
		custodian.Custodian = c
		return custodian
	})
	told := 0
	var key keystore.KeySpec
	var sign func(crypto.Signer) error
	var err error
	b.Service, err = csr.New(csr.Config{Keys: b.keys, KeySizes: sizes(), Hostname: hostname, Now: noon,
		Anticipate: func(k keystore.KeySpec, s func(crypto.Signer) error) { told, key, sign = told+1, k, s }})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	host := csr.Spec{Subject: []csr.Attribute{{Type: csr.CommonName, Value: "other.example.com"}}}
	named := host
	named.AltNames = []csr.AltName{{Value: "other.example.com"}}
	bits := int64(3072)
	large := csr.Spec{KeySize: &bits}
	for i, step := range []struct {
		spec     csr.Spec
		told     int  // how often something was expected by then
		expected bool // whether this is what was expected
	}{
		{csr.Spec{}, 1, true},
		{csr.Spec{}, 1, true},
		{host, 1, false}, // something else each time
		{named, 1, false},
		{host, 1, false},
		{large, 1, false},
		{csr.Spec{}, 1, true},
		{host, 1, false},
		{host, 2, false}, // from here on
		{host, 2, true},
		{named, 2, false},
		{named, 3, false},
		{named, 3, true},
		{large, 3, false},
		{large, 4, false},
		{large, 4, true},
	} {
		wanted := step.spec.KeySize
		isExpected := key.Bits == 2048 && wanted == nil || wanted != nil && int64(key.Bits) == *wanted
		expect := sign
		b.create(t, step.spec)
		signed := custodian.last.digest
		if err := expect(custodian.last); err != nil {
			t.Fatal(err)
		}
		isExpected = isExpected && slices.Equal(custodian.last.digest, signed)
		if told != step.told || isExpected != step.expected {
			t.Errorf("create %d: something was expected %d times, want %d; it is this: %t, want %t", i, told, step.told, isExpected, step.expected)
		}
		if key.Algorithm != keystore.RSA {
			t.Errorf("create %d: a key of %s is expected", i, key)
		}
	}
}

package pool_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
)

// signing returns what asks a key for a signature of text.
func signing(text string) func(crypto.Signer) error {
	return func(key crypto.Signer) error {
		_, err := sign(key, text, crypto.SHA256)
		return err
	}
}

func sign(key crypto.Signer, text string, opts crypto.SignerOpts) ([]byte, error) {
	digest := sha256.Sum256([]byte(text))
	return key.Sign(rand.Reader, digest[:], opts)
}

// wantAhead waits until all keys that are ready have been asked for what they are
// expected to sign. That is done at the lowest priority, beside other tests.
func (f *fixture) wantAhead(t testing.TB, bits int) {
	t.Helper()
	for range 10 {
		if eventually(func() bool { return f.SignedAhead(bits) }) {
			return
		}
	}
	t.Fatalf("RSA-%d: the keys that are ready were not asked to sign", bits)
}

// get takes a key, to be discarded at the end.
func (f *fixture) get(t testing.TB, bits int) keystore.Key {
	t.Helper()
	key, err := f.Generate(t.Context(), rsaSpec(bits))
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	t.Cleanup(func() { wantError(t, "Discard", key.Discard(), nil) })
	return key
}

const signaturesAhead = "attestcsr_key_pool_signatures_ahead_total"

// Signatures of real keys: whatever is asked for, the right one comes.
func TestSignsAhead(t *testing.T) {
	t.Parallel()
	custodian := keystoretest.NewHandedIn(openSealed(t, t.TempDir()))
	if _, err := custodian.Generate(t.Context(), rsaSpec(2048)); err != nil { // which takes its time at the pool's priority
		t.Fatal(err)
	}
	f := open(t, pool.Options{Targets: map[int]int{2048: 1}, Workers: 1, Custodian: custodian})
	f.mustWarm(t)
	f.Anticipate(rsaSpec(2048), signing("expected"))
	f.wantAhead(t, 2048)
	key := f.get(t, 2048)
	public := key.Public().(*rsa.PublicKey)
	for i, c := range []struct {
		text  string
		opts  crypto.SignerOpts
		ahead float64 // signatures that were
	}{
		{"something else", crypto.SHA256, 0},
		{"expected", crypto.SHA256, 1},
		{"expected", crypto.SHA256, 2},
		{"expected", crypto.Hash(0), 2},
		{"expected", &rsa.PSSOptions{Hash: crypto.SHA256}, 2},
	} {
		digest := sha256.Sum256([]byte(c.text))
		signature, err := sign(key, c.text, c.opts)
		if err != nil {
			t.Fatalf("%d: Sign: %v", i, err)
		}
		if pss, is := c.opts.(*rsa.PSSOptions); is {
			err = rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, pss)
		} else {
			err = rsa.VerifyPKCS1v15(public, c.opts.HashFunc(), digest[:], signature)
		}
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
		clear(signature) // is the caller's: the next is whole all the same
		if got := f.metric(t, signaturesAhead); got != c.ahead {
			t.Errorf("%d: %v signatures were made ahead, want %v", i, got, c.ahead)
		}
	}
}

// The vault's keys are ECDSA, whose signatures are never the same twice: one that is
// was made ahead.
func wasAhead(t testing.TB, key crypto.Signer, text string) bool {
	t.Helper()
	first, err := sign(key, text, crypto.SHA256)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	second, err := sign(key, text, crypto.SHA256)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	return bytes.Equal(first, second)
}

// Keys that are made later are asked, too, and all of them again when something else
// is expected; the other sizes are left alone.
func TestAnticipate(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 3, 3072: 1}, Workers: 2})
	f.mustWarm(t)
	if wasAhead(t, f.get(t, 2048), "first") {
		t.Error("a signature was there before anything was expected")
	}
	f.Anticipate(rsaSpec(2048), signing("first"))
	f.Anticipate(rsaSpec(8192), signing("first")) // not in the pool
	f.Anticipate(keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 2048}, signing("second"))
	for range 2 { // the second time they are new
		f.wantLevel(t, 2048, 3, 3)
		f.wantAhead(t, 2048)
		for i := range 3 {
			if !wasAhead(t, f.get(t, 2048), "first") {
				t.Errorf("key %d did not sign ahead", i)
			}
		}
	}
	if wasAhead(t, f.get(t, 3072), "first") {
		t.Error("a key of another size signed ahead")
	}
	f.wantLevel(t, 2048, 3, 3)
	f.wantAhead(t, 2048)
	f.Anticipate(rsaSpec(2048), signing("second"))
	f.wantAhead(t, 2048)
	key := f.get(t, 2048)
	if !wasAhead(t, key, "second") || wasAhead(t, key, "first") {
		t.Error("a key signed ahead what was expected before")
	}
}

// A size that shrank to one key has all of them sign when it is back.
func TestSignsAheadAfterRest(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 3}, Workers: 1})
	f.mustWarm(t)
	f.Anticipate(rsaSpec(2048), signing("expected"))
	f.wantAhead(t, 2048)
	f.endWindow()
	f.wantLevel(t, 2048, 1, 1)
	f.take(t, 2048)
	f.wantLevel(t, 2048, 3, 3)
	f.wantAhead(t, 2048)
	for i := range 3 {
		if !wasAhead(t, f.get(t, 2048), "expected") {
			t.Errorf("key %d did not sign ahead", i)
		}
	}
}

// What goes wrong ahead of time is said once, and the keys are handed out all the
// same.
func TestSigningAheadFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(crypto.Signer) error{
		"error": func(crypto.Signer) error { return errors.New("no ink") },
		"panic": func(crypto.Signer) error { panic("no ink") },
	} {
		f := open(t, pool.Options{Targets: map[int]int{2048: 3}, Workers: 2})
		f.Anticipate(rsaSpec(2048), fail)
		f.mustWarm(t)
		f.wantAhead(t, 2048)
		if wasAhead(t, f.get(t, 2048), "first") {
			t.Errorf("%s: there is a signature", name)
		}
		f.wantLevel(t, 2048, 3, 3)
		f.wantAhead(t, 2048)
		if n := strings.Count(f.log.String(), "no ink"); n != 1 {
			t.Errorf("%s: said %d times\n%s", name, n, f.log.String())
		}
	}
}

// A key can be taken while it is asked to sign: nobody waits for that.
func TestTakenWhileSigning(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 1}, Workers: 1})
	f.mustWarm(t)
	begun, finish := make(chan struct{}), make(chan struct{})
	f.Anticipate(rsaSpec(2048), func(key crypto.Signer) error {
		close(begun)
		<-finish
		return signing("expected")(key)
	})
	<-begun
	key := f.get(t, 2048)
	if wasAhead(t, key, "expected") {
		t.Error("a signature is there that is still to be made")
	}
	f.Anticipate(rsaSpec(2048), signing("expected")) // for those after it
	close(finish)
	f.wantLevel(t, 2048, 1, 1)
	f.wantAhead(t, 2048)
	if !wasAhead(t, key, "expected") || !wasAhead(t, f.get(t, 2048), "expected") {
		t.Error("a signature that was begun is lost")
	}
}

// Demand, expectations and signatures all at once, for the race detector.
func TestAnticipateUnderLoad(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 16}, Workers: 4})
	texts := []string{"a", "b", "c"}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 200 {
				text := texts[(c+i/20)%len(texts)]
				if i%20 == 0 {
					f.Anticipate(rsaSpec(2048), signing(text))
				}
				key, err := f.Generate(t.Context(), rsaSpec(2048))
				if err != nil {
					t.Errorf("Generate: %v", err)
					return
				}
				if err := errors.Join(signing(text)(key), key.Discard()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

package keystoretest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"testing"

	"attestcsr/keystore"
)

// OpenCustodian opens the custodian that lives in a folder, making it where
// there is none. Closing is the suite's business.
type OpenCustodian func(t *testing.T, dir string) keystore.Custodian

// TestCustodian runs the contract of keystore.Custodian. The custodian must be
// able to make EC keys on P-256 and RSA keys of 2048 bits, and none of 1024.
func TestCustodian(t *testing.T, open OpenCustodian) {
	for name, test := range map[string]func(*testing.T, OpenCustodian){
		"generates what was asked for":  testGenerate,
		"opens the key that was bound":  testOpenBound,
		"survives reopening":            testCustodianReopen,
		"rebind":                        testRebind,
		"refuses what is not a key":     testGarbage,
		"a key ends once":               testEndsOnce,
		"destroyed and swept keys":      testSweep,
		"keys print nothing":            testPrint,
		"a foreign custodian's key":     testForeign,
		"closed custodian":              testCustodianClosed,
		"every key is a different one":  testDistinct,
		"refused bind leaves a discard": testDiscard,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open)
		})
	}
}

func ec256() keystore.KeySpec { return keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256} }

func openNewCustodian(t *testing.T, open OpenCustodian) keystore.Custodian {
	t.Helper()
	c := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func generate(t testing.TB, c keystore.Custodian, spec keystore.KeySpec) keystore.Key {
	t.Helper()
	key, err := c.Generate(t.Context(), spec)
	if err != nil {
		t.Fatalf("Generate %s: %v", spec, err)
	}
	return key
}

// bound makes a key that is bound, and returns its public key too.
func bound(t testing.TB, c keystore.Custodian, at keystore.Binding) (keystore.Ref, crypto.PublicKey) {
	t.Helper()
	key := generate(t, c, ec256())
	ref, err := key.Bind(t.Context(), at)
	if err != nil || len(ref) == 0 {
		t.Fatalf("Bind: %d bytes, %v", len(ref), err)
	}
	return ref, key.Public()
}

// wantKey checks that a signer has the public key and signs with its private key.
func wantKey(t testing.TB, signer crypto.Signer, want crypto.PublicKey) {
	t.Helper()
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(want) {
		t.Fatal("the signer has another public key")
	}
	digest := sha256.Sum256([]byte("to be signed"))
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatalf("Sign: %v", err)
	}
	switch public := want.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(public, digest[:], signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	default:
		t.Fatalf("public key of type %T", want)
	}
	if !ok {
		t.Fatal("the signature does not verify")
	}
}

func testGenerate(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	for _, spec := range []keystore.KeySpec{ec256(), {Algorithm: keystore.RSA, Bits: 2048}} {
		key := generate(t, c, spec)
		bits := 0
		switch public := key.Public().(type) {
		case *ecdsa.PublicKey:
			bits = public.Params().BitSize
		case *rsa.PublicKey:
			bits = public.N.BitLen()
		}
		if bits != spec.Bits {
			t.Errorf("%s: a key of %d bits, %T", spec, bits, key.Public())
		}
		wantKey(t, key, key.Public())
		if err := key.Discard(); err != nil {
			t.Errorf("Discard: %v", err)
		}
	}
	for _, spec := range []keystore.KeySpec{
		{}, {Algorithm: keystore.RSA}, {Algorithm: keystore.RSA, Bits: 1024}, {Algorithm: keystore.RSA, Bits: -1},
		{Algorithm: keystore.ECDSA, Bits: 255}, {Algorithm: "DSA", Bits: 2048},
	} {
		if key, err := c.Generate(t.Context(), spec); err == nil || key != nil {
			t.Errorf("%s: a key, error %v", spec, err)
		}
	}
}

func testOpenBound(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	for _, spec := range []keystore.KeySpec{ec256(), {Algorithm: keystore.RSA, Bits: 2048}} {
		at := keystore.Bind(slot("c", spec.String()), []byte("payload"))
		key := generate(t, c, spec)
		ref, err := key.Bind(t.Context(), at)
		if err != nil {
			t.Fatalf("Bind: %v", err)
		}
		if len(ref) > keystore.MaxRefLen {
			t.Errorf("a reference of %d bytes", len(ref))
		}
		for range 2 {
			signer, err := c.Open(t.Context(), at, ref)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			wantKey(t, signer, key.Public())
		}
	}
}

func testCustodianReopen(t *testing.T, open OpenCustodian) {
	dir := t.TempDir()
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	c := open(t, dir)
	ref, public := bound(t, c, at)
	if err := c.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	c = open(t, dir)
	defer c.Close()
	if err := c.Sweep(t.Context(), func(r keystore.Ref) bool { return string(r) == string(ref) }); err != nil {
		t.Fatalf("Sweep: %v", err)
	}
	signer, err := c.Open(t.Context(), at, ref)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	wantKey(t, signer, public)
}

func testRebind(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	from := keystore.Bind(slot("c", "a"), []byte("old"))
	to := keystore.Bind(slot("d", "b"), []byte("new"))
	ref, public := bound(t, c, from)
	moved, err := c.Rebind(t.Context(), from, to, ref)
	if err != nil {
		t.Fatalf("Rebind: %v", err)
	}
	for _, x := range []struct {
		at  keystore.Binding
		ref keystore.Ref
	}{{from, ref}, {to, moved}} { // the old reference is good until destroyed
		signer, err := c.Open(t.Context(), x.at, x.ref)
		if err != nil {
			t.Fatalf("Open at %s: %v", x.at.Slot, err)
		}
		wantKey(t, signer, public)
	}
}

func testGarbage(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	ref, _ := bound(t, c, at)
	bad := []keystore.Ref{nil, {}, {0}, {1}, {2, 3, 4}, ref[:len(ref)-1], append(append(keystore.Ref{}, ref...), 0)}
	for i := range ref {
		flipped := append(keystore.Ref{}, ref...)
		flipped[i] ^= 0x40
		bad = append(bad, flipped)
	}
	for _, r := range bad {
		if signer, err := c.Open(t.Context(), at, r); err == nil || signer != nil {
			t.Fatalf("Open takes a damaged reference of %d bytes", len(r))
		}
		if out, err := c.Rebind(t.Context(), at, at, r); err == nil || out != nil {
			t.Fatalf("Rebind takes a damaged reference of %d bytes", len(r))
		}
		if err := c.Destroy(t.Context(), r); err != nil {
			t.Fatalf("Destroy of an absent key: %v", err)
		}
	}
}

func testEndsOnce(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	key := generate(t, c, ec256())
	if _, err := key.Bind(t.Context(), at); err != nil {
		t.Fatalf("Bind: %v", err)
	}
	if _, err := key.Bind(t.Context(), at); err == nil {
		t.Error("a key was bound twice")
	}
	if err := key.Discard(); err == nil {
		t.Error("a bound key was discarded")
	}
	key = generate(t, c, ec256())
	if err := key.Discard(); err != nil {
		t.Errorf("Discard: %v", err)
	}
	if _, err := key.Bind(t.Context(), at); err == nil {
		t.Error("a discarded key was bound")
	}
}

func testSweep(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	kept, public := bound(t, c, at)
	gone, _ := bound(t, c, at)
	if err := c.Destroy(t.Context(), gone); err != nil {
		t.Errorf("Destroy: %v", err)
	}
	if err := c.Destroy(t.Context(), gone); err != nil {
		t.Errorf("Destroy again: %v", err)
	}
	if err := c.Sweep(t.Context(), func(r keystore.Ref) bool { return string(r) == string(kept) }); err != nil {
		t.Errorf("Sweep: %v", err)
	}
	signer, err := c.Open(t.Context(), at, kept)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	wantKey(t, signer, public)
}

func testPrint(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	key := generate(t, c, ec256())
	ref, err := key.Bind(t.Context(), at)
	if err != nil {
		t.Fatalf("Bind: %v", err)
	}
	signer, err := c.Open(t.Context(), at, ref)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	if _, ok := signer.(*ecdsa.PrivateKey); ok {
		t.Error("Open gives the private key itself away")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		if a, b := fmt.Sprintf(verb, signer), fmt.Sprintf(verb, key); len(a) > 60 || len(b) > 60 {
			t.Errorf("%s prints %q and %q", verb, a, b)
		}
	}
}

func testForeign(t *testing.T, open OpenCustodian) {
	a, b := openNewCustodian(t, open), openNewCustodian(t, open)
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	ref, _ := bound(t, a, at)
	if _, err := b.Open(t.Context(), at, ref); err == nil {
		t.Error("a key opens at another custodian")
	}
}

func testCustodianClosed(t *testing.T, open OpenCustodian) {
	c := open(t, t.TempDir())
	at := keystore.Bind(slot("c", "a"), []byte("payload"))
	ref, _ := bound(t, c, at)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, err := c.Generate(t.Context(), ec256())
	wantError(t, "Generate", err, keystore.ErrUnavailable)
	_, err = c.Open(t.Context(), at, ref)
	wantError(t, "Open", err, keystore.ErrUnavailable)
	_, err = c.Rebind(t.Context(), at, at, ref)
	wantError(t, "Rebind", err, keystore.ErrUnavailable)
	wantError(t, "Sweep", c.Sweep(t.Context(), func(keystore.Ref) bool { return true }), keystore.ErrUnavailable)
}

func testDistinct(t *testing.T, open OpenCustodian) {
	c := openNewCustodian(t, open)
	var keys []keystore.Key
	for range 8 {
		key := generate(t, c, ec256())
		for _, other := range keys {
			if key.Public().(*ecdsa.PublicKey).Equal(other.Public()) {
				t.Fatal("a key was handed out twice")
			}
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := key.Discard(); err != nil {
			t.Errorf("Discard: %v", err)
		}
	}
}

// testDiscard closes the custodian under a fresh key: Bind has to fail, and the
// key is then still there to be discarded.
func testDiscard(t *testing.T, open OpenCustodian) {
	c := open(t, t.TempDir())
	key := generate(t, c, ec256())
	if err := c.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, err := key.Bind(context.WithoutCancel(t.Context()), keystore.Bind(slot("c", "a"), nil)); err == nil {
		t.Fatal("a closed custodian binds a key")
	}
	if err := key.Discard(); err != nil {
		t.Errorf("Discard after a Bind that failed: %v", err)
	}
}

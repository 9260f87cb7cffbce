package sealed_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
)

func open(t testing.TB, dir string) *sealed.Custodian {
	t.Helper()
	c, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func TestContract(t *testing.T) {
	t.Parallel()
	keystoretest.TestCustodian(t, func(t *testing.T, dir string) keystore.Custodian { return open(t, dir) })
}

var (
	rsa2048 = keystore.KeySpec{Algorithm: keystore.RSA, Bits: 2048}
	p256    = keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256}
	here    = keystore.Bind(keystore.Slot{Collection: "c", ID: "a"}, []byte("payload"))
)

func bind(t testing.TB, c *sealed.Custodian, spec keystore.KeySpec, at keystore.Binding) (keystore.Ref, crypto.PublicKey) {
	t.Helper()
	key, err := c.Generate(t.Context(), spec)
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	ref, err := key.Bind(t.Context(), at)
	if err != nil {
		t.Fatalf("Bind: %v", err)
	}
	return ref, key.Public()
}

func TestSizes(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	for _, spec := range []keystore.KeySpec{
		{Algorithm: keystore.RSA, Bits: 2048}, {Algorithm: keystore.RSA, Bits: 3072},
		{Algorithm: keystore.ECDSA, Bits: 256}, {Algorithm: keystore.ECDSA, Bits: 384}, {Algorithm: keystore.ECDSA, Bits: 521},
	} {
		ref, public := bind(t, c, spec, here)
		signer, err := c.Open(t.Context(), here, ref)
		if err != nil {
			t.Fatalf("%s: Open: %v", spec, err)
		}
		if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(signer.Public()) {
			t.Errorf("%s: another key", spec)
		}
		bits := 0
		switch public := public.(type) {
		case *rsa.PublicKey:
			bits = public.N.BitLen()
		case *ecdsa.PublicKey:
			bits = public.Params().BitSize
		}
		if bits != spec.Bits {
			t.Errorf("%s: %d bits", spec, bits)
		}
	}
	for _, bits := range []int{0, 512, 2040, 2049, 8200, 1 << 30} {
		if _, err := c.Generate(t.Context(), keystore.KeySpec{Algorithm: keystore.RSA, Bits: bits}); err == nil {
			t.Errorf("RSA of %d bits was made", bits)
		}
	}
}

// Who can write to the store must not be able to pair a key with another slot or
// payload, also not by shifting bytes between the parts of a slot's name.
func TestBinding(t *testing.T) {
	t.Parallel()
	c := open(t, t.TempDir())
	at := keystore.Bind(keystore.Slot{Collection: "ab", ID: "cd"}, []byte("payload"))
	ref, _ := bind(t, c, p256, at)
	for name, other := range map[string]keystore.Binding{
		"another payload":    keystore.Bind(at.Slot, []byte("payloae")),
		"no payload":         keystore.Bind(at.Slot, nil),
		"another id":         {Slot: keystore.Slot{Collection: "ab", ID: "ce"}, Digest: at.Digest},
		"another collection": {Slot: keystore.Slot{Collection: "aa", ID: "cd"}, Digest: at.Digest},
		"shifted":            {Slot: keystore.Slot{Collection: "abc", ID: "d"}, Digest: at.Digest},
		"swapped":            {Slot: keystore.Slot{Collection: "cd", ID: "ab"}, Digest: at.Digest},
		"all in one":         {Slot: keystore.Slot{Collection: "abcd"}, Digest: at.Digest},
	} {
		signer, err := c.Open(t.Context(), other, ref)
		if err == nil || signer != nil {
			t.Errorf("the key opens at %s", name)
		} else if !strings.Contains(err.Error(), other.Slot.String()) {
			t.Errorf("%s: the error does not name the slot: %v", name, err)
		}
		if _, err := c.Rebind(t.Context(), other, at, ref); err == nil {
			t.Errorf("the key is rebound from %s", name)
		}
	}
}

func TestCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "keyset.json")
	_, err := sealed.Open(sealed.Options{KeysetFile: file})
	if !errors.Is(err, sealed.ErrKeysetLost) || !strings.Contains(err.Error(), file) {
		t.Errorf("Open without Create: %v", err)
	}
	ref, _ := bind(t, open(t, dir), p256, here)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir).Open(t.Context(), here, ref); err != nil {
		t.Errorf("the second Open has another keyset: %v", err)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("Create changed a keyset that was there: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	if err := os.Chmod(file, 0o604); err != nil {
		t.Fatal(err)
	}
	if _, err := sealed.Open(sealed.Options{KeysetFile: file}); err == nil || !strings.Contains(err.Error(), "accessible to others") {
		t.Errorf("a keyset that others may read: %v", err)
	}
	if _, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "no", "such", "folder"), Create: true}); err == nil {
		t.Error("a keyset in a folder that does not exist")
	}
}

func TestCreateAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	custodians := make([]*sealed.Custodian, 8)
	var wg sync.WaitGroup
	for i := range custodians {
		wg.Go(func() { custodians[i] = open(t, dir) })
	}
	wg.Wait()
	ref, _ := bind(t, custodians[0], p256, here)
	for _, c := range custodians {
		if _, err := c.Open(t.Context(), here, ref); err != nil {
			t.Errorf("two keysets were made: %v", err)
		}
	}
}

var value = regexp.MustCompile(`"value":\s*"([^"]+)"`) // key material in a keyset

// What is wrong with a keyset is said without any of its bytes.
func TestDamagedKeyset(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	secret := value.FindSubmatch(whole)
	if secret == nil {
		t.Fatalf("no key material in the keyset")
	}
	for name, content := range map[string][]byte{
		"empty":          {},
		"cut short":      whole[:len(whole)-5],
		"cut in the key": whole[:bytes.Index(whole, secret[1])+10],
		"no JSON":        secret[1],
		"key cut":        bytes.Replace(whole, secret[1], secret[1][:8], 1),
		"key no base64":  bytes.Replace(whole, secret[1], append([]byte("!"), secret[1]...), 1),
		"another type":   bytes.Replace(whole, []byte("AesGcmSivKey"), []byte("AesGcmKey"), 1),
		"unknown type":   bytes.Replace(whole, []byte("AesGcmSivKey"), []byte("NoSuchKey"), 1),
		"no keys":        []byte("{}"),
		"too long":       append(bytes.Repeat([]byte(" "), 64<<10), whole...),
	} {
		file := filepath.Join(t.TempDir(), "keyset.json")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := sealed.Open(sealed.Options{KeysetFile: file, Create: true})
		switch {
		case err == nil:
			t.Errorf("%s: opened", name)
		case errors.Is(err, sealed.ErrKeysetLost):
			t.Errorf("%s: %v", name, err)
		case strings.Contains(err.Error(), string(secret[1][:8])):
			t.Errorf("%s: the error holds key material", name)
		case !strings.Contains(err.Error(), file):
			t.Errorf("%s: the error does not name the file: %v", name, err)
		}
		if left, err := os.ReadFile(file); err != nil || !bytes.Equal(left, content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// golden is a sealed key of format 1, as an earlier version left it.
type golden struct {
	Collection, ID, Payload, Ref, PublicKeySHA256 string // Ref and digest in hex
}

// Keys that were sealed once must open for ever: these files are never changed,
// a new format gets new ones.
func TestGolden(t *testing.T) {
	t.Parallel()
	const keysetFile, refFile = "testdata/keyset-v1.json", "testdata/ref-v1.json"
	content, err := os.ReadFile(refFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(content, &all); err != nil || len(all) == 0 {
		t.Fatalf("%d golden references: %v", len(all), err)
	}
	keyset, err := os.ReadFile(keysetFile)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() // version control does not keep the mode
	if err := os.WriteFile(filepath.Join(dir, "keyset.json"), keyset, 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	for _, g := range all {
		ref, err := hex.DecodeString(g.Ref)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := c.Open(t.Context(), keystore.Bind(keystore.Slot{Collection: g.Collection, ID: g.ID}, []byte(g.Payload)), ref)
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		if got := publicDigest(t, signer.Public()); got != g.PublicKeySHA256 {
			t.Errorf("another key: %s, want %s", got, g.PublicKeySHA256)
		}
	}
}

func publicDigest(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:])
}

func FuzzOpen(f *testing.F) {
	c, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(f.TempDir(), "keyset.json"), Create: true})
	if err != nil {
		f.Fatal(err)
	}
	whole, _ := bind(f, c, p256, here)
	for _, seed := range [][]byte{nil, {1}, {2}, whole, whole[:len(whole)-1], append([]byte{0}, whole[1:]...)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref []byte) {
		signer, err := c.Open(t.Context(), here, ref)
		if (err == nil) != bytes.Equal(ref, whole) || (err == nil) != (signer != nil) {
			t.Fatalf("a reference of %d bytes: signer %t, error %v", len(ref), signer != nil, err)
		}
	})
}

func FuzzKeyset(f *testing.F) {
	file := filepath.Join(f.TempDir(), "keyset.json")
	if _, err := sealed.Open(sealed.Options{KeysetFile: file, Create: true}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"primaryKeyId":1,"key":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "keyset.json")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := sealed.Open(sealed.Options{KeysetFile: file})
		if err != nil {
			if c != nil {
				t.Fatal("a custodian and an error")
			}
			return
		}
		// What opens must work: seal and open.
		ref, _ := bind(t, c, p256, here)
		if _, err := c.Open(t.Context(), here, ref); err != nil {
			t.Fatalf("a keyset that opens does not work: %v", err)
		}
	})
}

func BenchmarkBind(b *testing.B) {
	c := open(b, b.TempDir())
	key, err := c.Generate(b.Context(), rsa2048)
	if err != nil {
		b.Fatal(err)
	}
	ref, err := key.Bind(b.Context(), here)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() { // a key is bound once; rebinding is the same work and an unsealing
		if _, err := c.Rebind(b.Context(), here, here, ref); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	c := open(b, b.TempDir())
	ref, _ := bind(b, c, rsa2048, here)
	b.ResetTimer()
	for b.Loop() {
		if _, err := c.Open(b.Context(), here, ref); err != nil {
			b.Fatal(err)
		}
	}
}

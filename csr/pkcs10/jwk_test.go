package pkcs10_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"testing"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// The key and its thumbprint are those of RFC 7638 section 3.1.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	modulus, err := base64.RawURLEncoding.DecodeString("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pkcs10.Thumbprint(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
	if err != nil || got != "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs" {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := pkcs10.Thumbprint(ed25519.PublicKey(make([]byte, 32))); err == nil {
		t.Errorf("an Ed25519 key has %s", got)
	}
}

// Coordinates have their full length, also where they begin with zeros (RFC 7518 section
// 6.2.1.2), and the members are those that identify the key.
func TestJWK(t *testing.T) {
	t.Parallel()
	for curve, size := range map[elliptic.Curve]int{elliptic.P256(): 32, elliptic.P384(): 48, elliptic.P521(): 66} {
		for range 300 { // about one of them begins with a zero
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			jwk, err := pkcs10.NewJWK(key.Public())
			x, xErr := base64.RawURLEncoding.DecodeString(jwk.X)
			y, yErr := base64.RawURLEncoding.DecodeString(jwk.Y)
			if err != nil || xErr != nil || yErr != nil || len(x) != size || len(y) != size || jwk.Curve != curve.Params().Name || jwk.Type != "EC" {
				t.Fatalf("%+v, %v", jwk, err)
			}
			again, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
			if err != nil || !again.Equal(key.Public()) {
				t.Fatalf("another key: %v", err)
			}
			if read, err := jwk.Key(); err != nil || !again.Equal(read) {
				t.Fatalf("another key is read: %v", err)
			}
		}
	}
	text, err := json.Marshal(pkcs10.JWK{Type: "EC", Curve: "c", X: "x", Y: "y"})
	if want := `{"crv":"c","kty":"EC","x":"x","y":"y"}`; err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := pkcs10.NewJWK(crypto.PublicKey(nil)); err == nil {
		t.Error("nothing has a JSON Web Key")
	}
}

// FuzzJWK: what is read as a key is written as a JSON Web Key that is read as the same key.
func FuzzJWK(f *testing.F) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	for _, key := range []crypto.Signer{rsaKey, kit.NewKey(f)} {
		jwk, err := pkcs10.NewJWK(key.Public())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(jwk.Type, jwk.Curve, jwk.Modulus, jwk.Exponent, jwk.X, jwk.Y)
		f.Add(jwk.Type, jwk.Curve, "AA"+jwk.Modulus, "AAAA"+jwk.Exponent, jwk.Y, jwk.X)
		f.Add(jwk.Type, "P-384", "AQAB", "AQ", jwk.X+"A", "")
	}
	f.Add("oct", "", "", "", "", "")
	f.Add("RSA", "", rsaText(rsaKey), "_____w", "", "")
	f.Fuzz(func(t *testing.T, kind, curve, n, e, x, y string) {
		key, err := pkcs10.JWK{Type: kind, Curve: curve, Modulus: n, Exponent: e, X: x, Y: y}.Key()
		if err != nil {
			if key != nil {
				t.Fatal("a key beside an error")
			}
			return
		}
		written, err := pkcs10.NewJWK(key)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := written.Key(); err != nil || !pkcs10.SameKey(key, again) {
			t.Fatalf("another key: %v", err)
		}
	})
}

func rsaText(key *rsa.PrivateKey) string { return base64.RawURLEncoding.EncodeToString(key.N.Bytes()) }

package command_test

import (
	"reflect"
	"strings"
	"testing"

	"attestcsr/command"
	"attestcsr/csr/pkcs10"
)

// FuzzSignatureFile: a signature is never empty, and nothing stands beside an error.
func FuzzSignatureFile(f *testing.F) {
	for _, seed := range []string{
		"", "AAEC", "AAEC\n", "vault:v1:AAEC", "vault:v0:AAEC", "vault:v1:", "vault:", `{"signature": "AAEC", "version": 1, "hash": "sha256"}`,
		`{"signature": ""}`, `{"signature": "?"}`, "{", "\x00\x01", "{\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		signature, err := command.ParseSignature(content)
		if (err == nil) != (len(signature) > 0) {
			t.Fatalf("%q: %x, %v", content, signature, err)
		}
	})
}

// FuzzKeySet: a set that is taken has keys, and those can be shown.
func FuzzKeySet(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"keys": []}`, `{"keys": [{"kty": "oct", "k": "AAAA"}]}`, `{"keys": [{"kty": "EC", "crv": "P-256", "x": "", "y": ""}]}`,
		`{"keys": [{"kty": "RSA", "n": "` + strings.Repeat("_", 171) + `", "e": "AQAB", "kid": "a", "x5c": ["AAAA"]}]}`, `{"keys": null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if n, err := command.ReadKeySet(text); (err == nil) != (n > 0) {
			t.Fatalf("%d keys, %v", n, err)
		}
	})
}

// FuzzSpec: a spec that is refused is empty.
func FuzzSpec(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "country: NO\n", `{"common_name": "a", "subject_alt_name": ["b"], "key_size": 3072}`, "key_size: many", "subject_alt_name: {}",
		"unknown: 1", "a: &a [*a]", "common_name: a\ncommon_name: b\n", "- a", "\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if spec, err := command.ParseSpec(text); err != nil && !reflect.DeepEqual(spec, pkcs10.Spec{}) {
			t.Fatalf("%q: %+v, %v", text, spec, err)
		}
	})
}

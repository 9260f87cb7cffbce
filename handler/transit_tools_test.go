//go:build tools

package handler_test

import (
	"encoding/base64"
	"os/exec"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// TestOpenSSLVerifies: OpenSSL takes every signature that a key can make, and none of them
// for another message.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	v := s.vault("admin", adminPassword)
	dir := t.TempDir()
	message, other := kit.Overwrite(t, dir, "message", "what is signed"), kit.Overwrite(t, dir, "other", "what is not signed")
	verified := 0
	for _, name := range []string{"attestation", s.nsxKey(t, `"key_size":3072`), s.nsxKey(t, `"algorithm":"EC"`), s.nsxKey(t, `"algorithm":"EC","key_size":521`)} {
		public := kit.Overwrite(t, dir, "public.pem", data[vaultKey](t, v, "GET", transitKeys+"/"+name, "").Keys["1"].PublicKey)
		for hash := range vaultHashes {
			for scheme, options := range map[string][]string{"pss": {"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}, "pkcs1v15": nil} {
				made := data[signed](t, v, "POST", transitSign+name+"/"+hash, kit.JSON(map[string]any{"input": []byte("what is signed"), "signature_algorithm": scheme}))
				raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(made.Signature, "vault:v1:"))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(data[vaultKey](t, v, "GET", transitKeys+"/"+name, "").Type, "rsa") {
					options = nil
				}
				arguments := append([]string{"dgst", "-sha" + strings.TrimPrefix(hash, "sha2-"), "-verify", public, "-signature", kit.Overwrite(t, dir, "signature", string(raw))}, options...)
				if out, err := exec.CommandContext(t.Context(), "openssl", append(arguments, message)...).CombinedOutput(); err != nil {
					t.Errorf("%s %s %s: %v %s", name, hash, scheme, err, out)
				}
				if err := exec.CommandContext(t.Context(), "openssl", append(arguments, other)...).Run(); err == nil {
					t.Errorf("%s %s %s: another message verifies", name, hash, scheme)
				}
				verified++
			}
		}
	}
	kit.Count(t, "signatures that OpenSSL verified", verified)
}

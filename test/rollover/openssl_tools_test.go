//go:build tools

package rollover_test

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestOpenSSLVerifies: OpenSSL verifies what the service signed, with the certificates of
// the published keys.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0, time.Hour)
	s, dir := w.service.Load(), t.TempDir()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(s.Must(200, "GET", keySetPath, "", start.Anonymous)), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%v: %+v", err, set)
	}
	for i, key := range []string{"RSA", "EC"} { // the installed one comes first
		file := kit.Overwrite(t, dir, key+".pem", kit.PEM(set.Keys[i].Certificates[0]))
		openssl(t, "x509", "-in", file, "-pubkey", "-noout", "-out", filepath.Join(dir, key))
	}
	data := kit.Overwrite(t, dir, "data", "a token")
	pss := []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}
	for _, c := range []struct {
		algorithm, name, key string
		parameters           map[string]string
		options              []string
	}{
		{"RS256", "attestation", "RSA", parameters[jose.RS256], nil},
		{"PS256", "attestation", "RSA", parameters[jose.PS256], pss},
		{"ES256", "nsx-" + w.named, "EC", nil, nil},
	} {
		var client signer
		signed, err := client.sign(s, c.name, "a token", c.parameters)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := base64.StdEncoding.DecodeString(signed.encoded)
		if err != nil {
			t.Fatal(err)
		}
		file := kit.Overwrite(t, dir, c.algorithm, string(signature))
		openssl(t, append([]string{"dgst", "-sha256", "-verify", filepath.Join(dir, c.key), "-signature", file}, append(c.options, data)...)...)
	}
}

func openssl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Errorf("openssl %v: %v\n%s", args, err, out)
	}
}

package handler_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"attestcsr/test/kit"
)

// caFile is the certificate of the server, for clients that read a file.
func (s *stack) caFile(t *testing.T) string {
	t.Helper()
	certificate := s.server.Certificate()
	return kit.Overwrite(t, t.TempDir(), "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})))
}

// vaultClient is HashiCorp's own client, logged in.
func (s *stack) vaultClient(t *testing.T) *api.Client {
	t.Helper()
	cfg := api.DefaultConfig()
	cfg.Address, cfg.MaxRetries = s.url, 0
	if err := cfg.ConfigureTLS(&api.TLSConfig{CACert: s.caFile(t)}); err != nil {
		t.Fatal(err)
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client.ClearToken()
	got, err := client.Logical().Write("auth/userpass/login/admin", map[string]any{"password": adminPassword})
	if err != nil {
		t.Fatal(err)
	}
	token, err := got.TokenID()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(token)
	return client
}

// TestVaultClient: HashiCorp's client logs in, finds the key, signs and verifies, alone and
// in a batch, and reads errors as it reads those of Vault.
func TestVaultClient(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	client := s.vaultClient(t)
	logical := client.Logical()

	listed, err := logical.List("transit/keys")
	if err != nil || len(listed.Data["keys"].([]any)) != 1 || listed.Data["keys"].([]any)[0] != "attestation" {
		t.Fatalf("list: %+v, %v", listed, err)
	}
	key, err := logical.Read("transit/keys/attestation")
	if err != nil || key.Data["type"] != "rsa-2048" || key.Data["latest_version"] != json.Number("1") {
		t.Fatalf("read: %+v, %v", key, err)
	}
	if none, err := logical.Read("transit/keys/nsx-none"); none != nil || err != nil {
		t.Errorf("read of nothing: %+v, %v", none, err)
	}
	input := base64.StdEncoding.EncodeToString([]byte("a blob"))
	made, err := logical.Write("transit/sign/attestation/sha2-384", map[string]any{"input": input, "signature_algorithm": "pkcs1v15", "key_version": "0", "prehashed": "false"})
	if err != nil {
		t.Fatal(err)
	}
	found, err := logical.Write("transit/verify/attestation/sha2-384", map[string]any{"input": input, "signature_algorithm": "pkcs1v15", "signature": made.Data["signature"]})
	if err != nil || found.Data["valid"] != true {
		t.Errorf("verify: %+v, %v", found, err)
	}
	several, err := logical.Write("transit/sign/attestation", map[string]any{"batch_input": []map[string]any{{"input": input, "reference": "one"}, {"input": "!"}}})
	if err != nil {
		t.Fatal(err)
	}
	results := several.Data["batch_results"].([]any)
	if first, second := results[0].(map[string]any), results[1].(map[string]any); len(results) != 2 || first["reference"] != "one" || second["error"] == nil {
		t.Errorf("batch: %+v", results)
	}
	var refused *api.ResponseError
	if _, err := logical.Write("transit/sign/attestation", map[string]any{"input": "!"}); !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest || !strings.Contains(refused.Errors[0], "base64") {
		t.Errorf("bad input: %v", err)
	}
	if _, err := client.WithNamespace("team").Logical().Write("transit/sign/attestation", map[string]any{"input": input}); !errors.As(err, &refused) || refused.StatusCode != http.StatusNotFound {
		t.Errorf("a namespace: %v", err)
	}
	health, err := client.Sys().Health()
	if err != nil || !health.Initialized || health.Sealed || health.Standby {
		t.Errorf("health: %+v, %v", health, err)
	}
}

func TestVaultClientToken(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	client := s.vaultClient(t)
	token := client.Auth().Token()
	self, err := token.LookupSelf()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := self.TokenID()
	ttl, err := self.TokenTTL()
	policies, policiesErr := self.TokenPolicies()
	renewable, _ := self.TokenIsRenewable()
	if err != nil || policiesErr != nil || id != client.Token() || ttl.Minutes() < 29 || ttl.Minutes() > 30 || len(policies) == 0 || !renewable {
		t.Errorf("lookup: %+v", self)
	}
	renewed, err := token.RenewSelf(3600)
	if err != nil || renewed.Auth.ClientToken != client.Token() || renewed.Auth.LeaseDuration < 1790 || !renewed.Auth.Renewable {
		t.Errorf("renew: %+v, %v", renewed, err)
	}
	if err := token.RevokeSelf(""); err != nil {
		t.Fatal(err)
	}
	var refused *api.ResponseError
	if _, err := token.LookupSelf(); !errors.As(err, &refused) || refused.StatusCode != http.StatusForbidden {
		t.Errorf("after the end: %v", err)
	}
	_, err = client.Logical().Write("auth/userpass/login/admin", map[string]any{"password": "wrong"})
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusBadRequest || refused.Errors[0] != "invalid username or password" {
		t.Errorf("a wrong password: %v", err)
	}
}

// TestSigstore: the provider behind cosign's hashivault:// signs a blob. It verifies with
// keys of elliptic curves only: for RSA it signs with PKCS #1 v1.5, and asks for a verify
// without saying so, which Vault takes for PSS as well.
func TestSigstore(t *testing.T) {
	s := newStack(t)
	t.Setenv("VAULT_CACERT", s.caFile(t)) // the provider has no other way
	token := s.vaultClient(t).Token()
	blob := []byte("a blob")
	digest := sha256.Sum256(blob)
	for _, name := range []string{"attestation", s.nsxKey(t, `"algorithm":"EC"`), s.nsxKey(t, `"algorithm":"EC","key_size":384`)} {
		signer, err := hashivault.LoadSignerVerifier("hashivault://"+name, crypto.SHA256,
			options.WithRPCAuthOpts(options.RPCAuth{Address: s.url, Token: token, Path: "transit"}))
		if err != nil {
			t.Fatal(err)
		}
		made, err := signer.SignMessage(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		public, err := signer.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		local, err := signature.LoadVerifier(public, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := local.VerifySignature(bytes.NewReader(made), bytes.NewReader(blob)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if key, isRSA := public.(*rsa.PublicKey); isRSA {
			if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], made); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err := signer.VerifySignature(bytes.NewReader(made), bytes.NewReader(blob)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := signer.VerifySignature(bytes.NewReader(made), strings.NewReader("another blob")); err == nil {
			t.Errorf("%s verifies another blob", name)
		}
	}
}

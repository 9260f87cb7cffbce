package handler_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
)

// secret is an answer as clients of Vault read it.
type secret[T any] struct {
	RequestID     string `json:"request_id"`
	LeaseID       string `json:"lease_id"`
	Renewable     bool   `json:"renewable"`
	LeaseDuration int    `json:"lease_duration"`
	Data          *T     `json:"data"`
	WrapInfo      *int   `json:"wrap_info"`
	Warnings      *int   `json:"warnings"`
	Auth          *struct {
		ClientToken   string            `json:"client_token"`
		Accessor      string            `json:"accessor"`
		Policies      []string          `json:"policies"`
		TokenPolicies []string          `json:"token_policies"`
		Metadata      map[string]string `json:"metadata"`
		LeaseDuration int               `json:"lease_duration"`
		Renewable     bool              `json:"renewable"`
		EntityID      string            `json:"entity_id"`
		TokenType     string            `json:"token_type"`
		Orphan        bool              `json:"orphan"`
		NumUses       int               `json:"num_uses"`
	} `json:"auth"`
}

type signed struct {
	Signature  string `json:"signature"`
	KeyVersion int    `json:"key_version"`
	Reference  string `json:"reference"`
	Error      string `json:"error"`
}

type verified struct {
	Valid     *bool  `json:"valid"`
	Reference string `json:"reference"`
	Error     string `json:"error"`
}

type batch[T any] struct {
	Results []T `json:"batch_results"`
}

type vaultKey struct {
	Name          string `json:"name"`
	Type          string `json:"type"`
	LatestVersion int    `json:"latest_version"`
	MinDecryption int    `json:"min_decryption_version"`
	Keys          map[string]struct {
		Name         string    `json:"name"`
		PublicKey    string    `json:"public_key"`
		CreationTime time.Time `json:"creation_time"`
		Chain        string    `json:"certificate_chain"`
	} `json:"keys"`
	MinAvailable int  `json:"min_available_version"`
	MinEncrypt   int  `json:"min_encryption_version"`
	Signing      bool `json:"supports_signing"`
	Encryption   bool `json:"supports_encryption"`
	Decryption   bool `json:"supports_decryption"`
	Derivation   bool `json:"supports_derivation"`
	Derived      bool `json:"derived"`
	Exportable   bool `json:"exportable"`
	Backup       bool `json:"allow_plaintext_backup"`
	Deletion     bool `json:"deletion_allowed"`
	Imported     bool `json:"imported_key"`
	Rotate       int  `json:"auto_rotate_period"`
}

// vault is a client with a token of a user.
type vault struct {
	*stack
	token string
}

func (s *stack) vault(user, password string) vault {
	s.t.Helper()
	a := s.do(call{method: "POST", path: userpassLogin + user, anonymous: true, raw: true, body: kit.JSON(map[string]string{"password": password})})
	if a.status != http.StatusOK {
		s.t.Fatalf("login: %d %s", a.status, a.body)
	}
	return vault{s, decode[secret[struct{}]](s.t, a).Auth.ClientToken}
}

// send sends what clients send: a token, and no Content-Type.
func (v vault) send(method, path, body string) answer {
	v.t.Helper()
	return v.do(call{method: method, path: path, body: body, raw: true, anonymous: true, lines: tokenHeader(v.token)})
}

// data sends a request that has to succeed.
func data[T any](t testing.TB, v vault, method, path, body string) T {
	t.Helper()
	a := v.send(method, path, body)
	if a.status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return *decode[secret[T]](t, a).Data
}

// public is a version of a key.
func (v vault) public(t testing.TB, name string, version int) crypto.PublicKey {
	t.Helper()
	key := data[vaultKey](t, v, "GET", transitKeys+"/"+name, "")
	block, rest := pem.Decode([]byte(key.Keys[strconv.Itoa(version)].PublicKey))
	if block == nil || len(rest) > 0 {
		t.Fatalf("%s has no version %d: %+v", name, version, key)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// nsxKey makes an NSX certificate with a key and returns the name of the key.
func (s *stack) nsxKey(t *testing.T, members string) string {
	t.Helper()
	spec := `{"subject":{"attributes":[{"key":"CN","value":"x"}]},` + members + `}`
	a := s.do(call{method: "POST", path: nsxCSRs + "?action=self_sign", body: spec})
	if a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	return "nsx-" + *decode[nsxCertificate](t, a).ID
}

var vaultHashes = map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}

func digestOf(h crypto.Hash, message []byte) []byte {
	sum := h.New()
	sum.Write(message)
	return sum.Sum(nil)
}

// check verifies a signature with the library alone.
func check(public crypto.PublicKey, scheme, marshaling string, h crypto.Hash, digest []byte, text string) error {
	encoding := base64.StdEncoding
	if marshaling == "jws" {
		encoding = base64.RawURLEncoding
	}
	raw, err := encoding.DecodeString(text[strings.LastIndex(text, ":")+1:])
	if err != nil {
		return err
	}
	switch key := public.(type) {
	case *rsa.PublicKey:
		if scheme == "pkcs1v15" {
			return rsa.VerifyPKCS1v15(key, h, digest, raw)
		}
		return rsa.VerifyPSS(key, h, digest, raw, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case *ecdsa.PublicKey:
		size := (key.Params().BitSize + 7) / 8
		if marshaling == "jws" && len(raw) != 2*size {
			return fmt.Errorf("%d bytes, want %d", len(raw), 2*size)
		}
		if marshaling == "jws" && ecdsa.Verify(key, digest, new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])) ||
			marshaling != "jws" && ecdsa.VerifyASN1(key, digest, raw) {
			return nil
		}
	}
	return errors.New("no valid signature")
}

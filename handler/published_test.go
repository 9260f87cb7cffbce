package handler_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/test/kit"
)

// keySet is the key set as a library of verifiers reads it, which also compares each key
// with its certificate and the certificate with its thumbprint.
func (a answer) keySet(t *testing.T) []jose.JSONWebKey {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(a.body, &set); err != nil || a.status != http.StatusOK {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
	for _, k := range set.Keys {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil || k.KeyID != base64.RawURLEncoding.EncodeToString(sum) || k.Use != "sig" || !k.IsPublic() || !k.Valid() {
			t.Errorf("%v: %+v", err, k)
		}
	}
	return set.Keys
}

func (s *stack) anonymous(method, path string, header ...string) answer {
	s.t.Helper()
	c := call{method: method, path: path, raw: true, anonymous: true, header: map[string]string{}}
	for i := 0; i < len(header); i += 2 {
		c.header[header[i]] = header[i+1]
	}
	return s.do(c)
}

// The keys are there before they sign and after, and the one that signs is the first.
func TestKeySet(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{freshKeys: true})
	first := s.anonymous("GET", keySetPath)
	if keys := first.keySet(t); len(keys) != 1 || len(keys[0].Certificates) != 1 || keys[0].Algorithm != "" {
		t.Fatalf("%s", first.body)
	}
	text := s.createCSR(validSpec)
	pending := s.anonymous("GET", keySetPath).keySet(t)
	if len(pending) != 2 || !kit.SameKey(pending[1].Key, parseCSR(t, text).PublicKey) || len(pending[1].Certificates) != 0 {
		t.Fatalf("%+v", pending)
	}
	chain := chainFor(t, text, 0)
	if a := s.setCertificate(chain); a.status != http.StatusNoContent && a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.createCSR(validSpec)
	keys := s.anonymous("GET", keySetPath).keySet(t)
	if len(keys) != 3 || keys[0].KeyID != pending[1].KeyID || keys[2].KeyID != pending[0].KeyID {
		t.Fatalf("%+v", keys)
	}
	if got := kit.PEM(keys[0].Certificates...); got != chain || len(keys[1].Certificates) != 0 || len(keys[2].Certificates) != 1 {
		t.Errorf("certificates %s", got)
	}
	if strings.Contains(s.anonymous("GET", keySetPath).header.Get("Etag"), first.header.Get("Etag")) {
		t.Error("another set has the same ETag")
	}
}

// Caches ask whether what they have is still true.
func TestKeySetCaching(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, path := range []string{keySetPath, discoveryPath} {
		got := s.anonymous("GET", path)
		tag := got.header.Get("ETag")
		for _, c := range []struct {
			method, field, value string
			want                 int
		}{
			{"GET", "If-None-Match", tag, 304}, {"HEAD", "If-None-Match", "W/" + tag, 304}, {"GET", "If-None-Match", `"x", ` + tag, 304}, {"GET", "If-None-Match", "*", 304},
			{"GET", "If-None-Match", `"x"`, 200}, {"GET", "If-None-Match", "x", 200}, {"HEAD", "Accept", "text/html", 200},
			{"GET", "Range", "bytes=0-1", 200}, {"GET", "Range", "bytes=99999999-", 200}, {"GET", "Authorization", "Basic eDp5", 200},
		} {
			a := s.anonymous(c.method, path, c.field, c.value)
			if a.status != c.want || a.header.Get("ETag") != tag || a.header.Get("Cache-Control") != "public, max-age=300" ||
				c.method == "GET" && c.want == 200 && !bytes.Equal(a.body, got.body) || c.want == 304 && len(a.body) > 0 {
				t.Errorf("%s %s with %s: %s: %d %v %s", c.method, path, c.field, c.value, a.status, a.header, a.body)
			}
		}
	}
}

// What is off is a path that does not exist.
func TestNotPublished(t *testing.T) {
	t.Parallel()
	off := newStack(t, func(c *handler.Config) { c.Publish = nil })
	noIssuer := newStack(t, func(c *handler.Config) { c.Publish = &handler.Publish{MaxAge: time.Second} })
	for _, a := range []answer{off.anonymous("GET", keySetPath), off.anonymous("GET", discoveryPath), noIssuer.anonymous("GET", discoveryPath)} {
		if d := a.vapiError(t); a.status != http.StatusNotFound || d.ErrorType != "NOT_FOUND" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
	}
	if a := noIssuer.anonymous("GET", keySetPath); a.status != http.StatusOK || a.header.Get("Cache-Control") != "public, max-age=1" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// A key on a curve has one algorithm. For RSA the operator says which, or there is none.
func TestKeySetAlgorithms(t *testing.T) {
	t.Parallel()
	set := &csr.Published{}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, publishedKey(t, csr.StateNamed, key.Public(), ""))
	}
	set.Keys = append(set.Keys, publishedKey(t, csr.StateInstalled, parseCSR(t, newStack(t).createCSR(validSpec)).PublicKey, ""))
	for rsa, want := range map[string]string{"": "[ ES512 ES384 ES256]", "PS256": "[PS256 ES512 ES384 ES256]"} {
		keys, discovery := documentsOf(t, handler.Publish{RSA: rsa, Issuer: issuer}, set)
		var algorithms []string
		for _, k := range (answer{status: http.StatusOK, body: keys}).keySet(t) {
			algorithms = append(algorithms, k.Algorithm)
		}
		if fmt.Sprint(algorithms) != want {
			t.Errorf("%q, want %s", algorithms, want)
		}
		for _, part := range []string{`"issuer":"https://tokens.example.com",`, `"jwks_uri":"https://tokens.example.com/.well-known/jwks.json",`} {
			if !strings.Contains(string(discovery), part) {
				t.Errorf("no %s in %s", part, discovery)
			}
		}
	}
}

func documentsOf(t *testing.T, p handler.Publish, set *csr.Published) (keySet, discovery []byte) {
	t.Helper()
	keySet, discovery, err := handler.DocumentsOf(p, set)
	if err != nil {
		t.Fatal(err)
	}
	return keySet, discovery
}

func publishedKey(t *testing.T, state csr.KeyState, public crypto.PublicKey, chain string) csr.PublishedKey {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return csr.PublishedKey{State: state, KeyID: base64.RawURLEncoding.EncodeToString(sum), Public: public, Certificate: chain}
}

// However many keys are remembered and however long their chains are, all keys are in the
// set. The certificates of the oldest are left out.
func TestKeySetSize(t *testing.T) {
	t.Parallel()
	const retired = 1000
	ca := kit.NewCA(t, "CA", time.Now())
	set := &csr.Published{}
	for i := range retired + 1 {
		state := csr.StateRetired
		if i == 0 {
			state = csr.StateInstalled
		}
		key := kit.NewKey(t).Public()
		set.Keys = append(set.Keys, publishedKey(t, state, key, kit.PEM(ca.Issue(t, "host", key), ca.Cert)))
	}
	text, _ := documentsOf(t, handler.Publish{}, set)
	keys := (answer{status: http.StatusOK, body: text}).keySet(t)
	bare := slices.IndexFunc(keys, func(k jose.JSONWebKey) bool { return len(k.Certificates) == 0 })
	if len(keys) != retired+1 || keys[0].KeyID != set.Keys[0].KeyID || keys[1].KeyID != set.Keys[retired].KeyID || bare < 20 || bare > 200 {
		t.Errorf("%d keys, those from %d on without certificate", len(keys), bare)
	}
	chain, err := kit.ParseChain(set.Keys[1].Certificate)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sha256.Sum256(chain[0].Raw)
	if last := keys[retired]; last.KeyID != set.Keys[1].KeyID || !bytes.Equal(last.CertificateThumbprintSHA256, leaf[:]) {
		t.Errorf("the oldest: %+v", last)
	}
	if len(text) > 512<<10 {
		t.Errorf("%d bytes", len(text))
	}
}

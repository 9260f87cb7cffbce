package transit_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"attestcsr/handler/client"
	"attestcsr/handler/transit"
	"attestcsr/test/kit"
)

func serve(t *testing.T, handle http.HandlerFunc) *transit.Client {
	t.Helper()
	keys := transit.NewClient(kit.ForeignServer(t, handle))
	keys.Use(client.Session{ID: "old"}, nil)
	return keys
}

// TestClientRequests: what is sent is what Vault documents.
func TestClientRequests(t *testing.T) {
	t.Parallel()
	var got string
	keys := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("X-Vault-Token") + " " + string(body)
		switch {
		case strings.Contains(r.URL.Path, "/login/"):
			_, _ = fmt.Fprint(w, `{"auth": {"client_token": "new", "policies": []}}`)
		case strings.Contains(r.URL.Path, "/sign/"):
			_, _ = fmt.Fprint(w, `{"data": {"signature": "vault:v3:AAEC", "key_version": 3}, "lease_id": ""}`)
		case strings.Contains(r.URL.Path, "/verify/"):
			_, _ = fmt.Fprint(w, `{"data": {"valid": true}}`)
		case strings.Contains(r.URL.Path, "/keys/"):
			_, _ = fmt.Fprint(w, `{"data": {"name": "a/b", "type": "rsa-2048", "latest_version": 3, "keys": {"3": {"public_key": "PEM"}}, "exportable": false}}`)
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	ctx := t.Context()
	check := func(what string, right bool, err error, want string) {
		t.Helper()
		if err != nil || !right || got != want {
			t.Errorf("%s: %v; sent %q, want %q", what, err, got, want)
		}
	}
	session, err := keys.Login(ctx, "me/you", `p"ü`)
	check("login", session.ID == "new", err, `POST /v1/auth/userpass/login/me%2Fyou  {"password":"p\"ü"}`)
	info, err := keys.Key(ctx, "a/b")
	check("key", info.Latest == 3 && info.Versions["3"].PublicKey == "PEM", err, "GET /v1/transit/keys/a%2Fb old ")
	digest := transit.ToSign{Digest: []byte{1, 2}, Hash: "sha2-256", Scheme: "pss"}
	const body = `{"input":"AQI=","prehashed":true,"hash_algorithm":"sha2-256","signature_algorithm":"pss","salt_length":"hash"`
	version, signature, err := keys.Sign(ctx, "k", digest)
	check("sign", version == 3 && bytes.Equal(signature, []byte{0, 1, 2}), err, "POST /v1/transit/sign/k old "+body+"}")
	valid, err := keys.Verify(ctx, "k", digest, 2, []byte{0, 1, 2})
	check("verify", valid, err, "POST /v1/transit/verify/k old "+body+`,"signature":"vault:v2:AAEC"}`)
	check("logout", true, keys.Logout(ctx), "POST /v1/auth/token/revoke-self old ")
}

// TestClientRefused: 403 is a missing privilege where the session is known, and otherwise
// its end.
func TestClientRefused(t *testing.T) {
	t.Parallel()
	sessions := map[string]bool{}
	keys := serve(t, func(w http.ResponseWriter, r *http.Request) {
		known := sessions[r.Header.Get("X-Vault-Token")]
		switch {
		case known && strings.HasSuffix(r.URL.Path, "/lookup-self"), known && strings.HasSuffix(r.URL.Path, "/mine"):
			_, _ = fmt.Fprint(w, `{"data": {"name": "mine"}}`)
		default:
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `{"errors": ["permission denied"]}`)
		}
	})
	ask := func(name string) int {
		_, err := keys.Key(t.Context(), name)
		return client.Status(err)
	}
	if got := ask("mine"); got != 401 {
		t.Errorf("without a session: %d", got)
	}
	sessions["old"] = true
	if got := ask("mine"); got != 0 {
		t.Errorf("with a session: %d", got)
	}
	if got := ask("other"); got != 403 {
		t.Errorf("without the privilege: %d", got)
	}
	delete(sessions, "old")
	renewed := 0
	keys.Use(client.Session{ID: "old"}, func(context.Context) (client.Session, error) {
		renewed++
		sessions["new"] = true
		return client.Session{ID: "new"}, nil
	})
	if got := ask("mine"); got != 0 || renewed != 1 {
		t.Errorf("with a new session: %d, renewed %d times", got, renewed)
	}
	if got := ask("mine"); got != 0 || renewed != 1 {
		t.Errorf("again: %d, renewed %d times", got, renewed)
	}
}

// TestClientErrors: error documents of this dialect, of others, and none.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		want   int
		text   string
	}{
		{400, `{"errors": ["one", "other"]}`, 400, "one\nother"},
		{404, `{"errors": []}`, 404, "the server answers 404 Not Found"},
		{429, `{"errors": ["too\u0007 many"]}`, 429, "too. many"},
		{503, `<html>`, 503, "the server answers 503 Service Unavailable"},
		{200, `<html>`, 0, "the answer is not one of Vault's API: is it the right server?"},
	} {
		keys := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			_, _ = fmt.Fprint(w, test.body)
		})
		if _, err := keys.Key(t.Context(), "x"); client.Status(err) != test.want || err == nil || err.Error() != test.text {
			t.Errorf("%d %s: %d, %v", test.status, test.body, client.Status(err), err)
		}
	}
	wrong := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprint(w, `{"errors": ["invalid username or password"]}`)
	})
	if _, err := wrong.Login(t.Context(), "me", "wrong"); client.Status(err) != 401 {
		t.Errorf("a wrong password: %v", err)
	}
	none := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data": {"signature": "v1:AAAA"}}`)
	})
	if _, err := none.Login(t.Context(), "me", "right"); err == nil {
		t.Error("a login without a token")
	}
	if version, signature, err := none.Sign(t.Context(), "k", transit.ToSign{}); err == nil || signature != nil {
		t.Errorf("a signature without a version: %d %x", version, signature)
	}
}

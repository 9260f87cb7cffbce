package kit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"attestcsr/handler/client"
)

// ForeignServer starts a server that is not ours, and returns a client that trusts it.
func ForeignServer(t testing.TB, handle http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewTLSServer(handle)
	t.Cleanup(server.Close)
	sum := sha256.Sum256(server.Certificate().RawSubjectPublicKeyInfo)
	c, err := client.New(client.Options{Server: server.URL, Fingerprint: "sha256:" + hex.EncodeToString(sum[:]), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

package handler_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/handler"
	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
)

// BenchmarkCreate measures csr create over the handler, the request log
// included, with a key that is ready. The floor is what no service can do
// without: signing the request, and one fsynced commit to a bare bbolt file.
func BenchmarkCreate(b *testing.B) {
	b.Run("floor", func(b *testing.B) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			b.Fatal(err)
		}
		db, err := bbolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "esx-01.example.com"}}
		b.ReportAllocs()
		for b.Loop() {
			der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
			if err == nil {
				err = db.Update(func(tx *bbolt.Tx) error {
					bucket, err := tx.CreateBucketIfNotExists([]byte("c"))
					if err != nil {
						return err
					}
					return bucket.Put([]byte("a"), der)
				})
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("handler", func(b *testing.B) {
		s := benchStack(b)
		benchRequests(b, s.handler, "POST", csrPath, http.StatusCreated)
	})
}

// BenchmarkGet measures reads with each kind of credentials.
func BenchmarkGet(b *testing.B) {
	s := benchStack(b)
	s.createCSR(validSpec)
	b.Run("basic", func(b *testing.B) { benchRequests(b, s.handler, "GET", csrPath, http.StatusOK) })
}

func benchStack(b *testing.B) *stack {
	b.Helper()
	s := newStackOver(b, func(c keystore.Custodian) keystore.Custodian { return keystoretest.NewHandedIn(c) },
		func(c *handler.Config) { c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) }) //nolint:sloglint // the log line is part of what is measured
	s.createCSR(validSpec) // the key is made, the password remembered
	return s
}

func benchRequests(b *testing.B, h http.Handler, method, path string, want int) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		r := httptest.NewRequest(method, path, strings.NewReader(validSpec))
		r.Header.Set("Content-Type", "application/json")
		r.SetBasicAuth("admin", adminPassword)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

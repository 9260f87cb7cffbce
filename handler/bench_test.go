package handler_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"attestcsr/handler"
	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
)

// BenchmarkCreate measures a create through the handler, with its log line and a key
// that is ready. The floor is one signature and one fsynced commit.
func BenchmarkCreate(b *testing.B) {
	b.Run("floor", keystoretest.BenchmarkFloor)
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

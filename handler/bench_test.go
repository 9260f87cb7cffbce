package handler_test

import (
	"io"
	"log/slog"
	"net/http"
	"testing"

	"attestcsr/handler"
	"attestcsr/keystore/keystoretest"
)

// BenchmarkCreate measures a create through the handler, with its log line and a key
// that is ready. The floor is one signature and one fsynced commit.
func BenchmarkCreate(b *testing.B) {
	b.Run("floor", keystoretest.BenchmarkFloor)
	b.Run("handler", func(b *testing.B) {
		benchCalls(b, call{method: "POST", path: csrPath, body: validSpec}, http.StatusCreated)
	})
}

// BenchmarkGet measures a read with a remembered password.
func BenchmarkGet(b *testing.B) {
	benchCalls(b, call{method: "GET", path: csrPath}, http.StatusOK)
}

func benchCalls(b *testing.B, c call, want int) {
	b.Helper()
	s := newStack(b, func(c *handler.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // the log line is part of what is measured
	})
	s.createCSR(validSpec) // the key is made, the password remembered
	b.ReportAllocs()
	for b.Loop() {
		if a := s.serve(c); a.status != want {
			b.Fatalf("%d %s", a.status, a.body)
		}
	}
}

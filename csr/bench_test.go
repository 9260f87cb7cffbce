package csr_test

import (
	"testing"

	"attestcsr/csr"
)

// BenchmarkGet is a read as the API does it: one snapshot read and a decode.
func BenchmarkGet(b *testing.B) {
	service := newBench(b)
	service.create(b, fullSpec())
	grant := service.grant(b, csr.GetCSR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := grant.CSR(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

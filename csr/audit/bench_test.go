package audit_test

import (
	"testing"

	"attestcsr/csr/audit"
)

// BenchmarkRefuse is what a refusal costs the request.
func BenchmarkRefuse(b *testing.B) {
	tr := newTrail(b)
	b.ReportAllocs()
	for b.Loop() {
		tr.log.Refuse(audit.Refusal{Request: audit.Request{RequestID: "r", Address: "192.0.2.1", Route: "GET /x", Method: "none"}, Outcome: "unauthenticated"})
	}
}

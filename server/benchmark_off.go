//go:build !bench

package server

// startBenchmark does nothing: the audit trail cannot be turned off. Only a binary with
// the tag "bench" can turn it off, to measure what the trail costs.
func startBenchmark(string) (withoutAudit bool) { return false }

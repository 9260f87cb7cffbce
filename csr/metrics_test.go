package csr_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/keystore"
)

func TestCollectors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.Collectors()...)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	const notAfter = `
# HELP attestcsr_certificate_not_after_timestamp_seconds End of validity of the installed attestation certificate, as a Unix time.
# TYPE attestcsr_certificate_not_after_timestamp_seconds gauge
attestcsr_certificate_not_after_timestamp_seconds 2.0959344e+09
`
	const created = `
# HELP attestcsr_csr_created_timestamp_seconds Creation of the pending certification request, as a Unix time.
# TYPE attestcsr_csr_created_timestamp_seconds gauge
attestcsr_csr_created_timestamp_seconds 1.7803152e+09
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(notAfter)); err != nil {
		t.Error(err)
	}
	b.create(t, csr.Spec{})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(notAfter+created)); err != nil {
		t.Error(err)
	}
	// A store that does not answer takes its metrics away, not the scrape.
	onGet := func(keystore.Slot) error { return errors.New("gone") }
	b.store.onGet.Store(&onGet)
	if n, err := testutil.GatherAndCount(registry); err != nil || n != 0 {
		t.Errorf("%d metrics, error %v", n, err)
	}
}

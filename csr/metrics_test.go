package csr_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
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
	ofKey := []string{"attestcsr_certificate_not_after_timestamp_seconds", "attestcsr_csr_created_timestamp_seconds"}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(notAfter), ofKey...); err != nil {
		t.Error(err)
	}
	b.create(t, csr.Spec{})
	if err := testutil.GatherAndCompare(registry, strings.NewReader(notAfter+created), ofKey...); err != nil {
		t.Error(err)
	}
	// A store that does not answer takes its metrics away, not the scrape.
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(registry, append(ofKey, "attestcsr_objects")...); err != nil || n != 0 {
		t.Errorf("%d metrics, error %v", n, err)
	}
}

func TestExpiryMetrics(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	now := noon()
	b := newBench(t).with(t, func(c *csr.Config) { c.Now = func() time.Time { return now } })
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.Collectors()...)
	expect := func(what, soonest string, requests, certificates int, buckets ...int) {
		t.Helper()
		text := fmt.Sprintf(`
# HELP attestcsr_objects Named certification requests and named certificates that are stored.
# TYPE attestcsr_objects gauge
attestcsr_objects{collection="certificates"} %d
attestcsr_objects{collection="csrs"} %d
# HELP attestcsr_certificates_by_time_left Named certificates by the days until they end: at most the label's, and more than that of the bucket before.
# TYPE attestcsr_certificates_by_time_left gauge
`, certificates, requests)
		for i, label := range []string{"expired", "1", "7", "30", "90", "more"} {
			text += fmt.Sprintf("attestcsr_certificates_by_time_left{days=%q} %d\n", label, buckets[i])
		}
		if soonest != "" {
			text += `
# HELP attestcsr_certificates_soonest_not_after_timestamp_seconds Earliest end of validity among the named certificates, as a Unix time.
# TYPE attestcsr_certificates_soonest_not_after_timestamp_seconds gauge
attestcsr_certificates_soonest_not_after_timestamp_seconds ` + soonest + "\n"
		}
		names := []string{"attestcsr_objects", "attestcsr_certificates_by_time_left", "attestcsr_certificates_soonest_not_after_timestamp_seconds"}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), names...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	expect("nothing", "", 0, 0, 0, 0, 0, 0, 0, 0)

	now = now.Add(time.Minute)
	start := now
	for i, days := range []int64{1, 2, 7, 8, 30, 90, 91, 500} {
		id := fmt.Sprint(i)
		b.createNamed(t, csr.NewRequest{ID: id, Spec: commonName("x")})
		if _, err := b.selfSign(t, id, &days); err != nil {
			t.Fatal(err)
		}
	}
	b.createNamed(t, csr.NewRequest{ID: "left", Spec: commonName("x")})
	at := func(d time.Duration) string {
		return strconv.FormatFloat(float64(start.Add(d).Unix()), 'g', -1, 64)
	}
	expect("eight", at(day), 1, 8, 0, 0, 2, 2, 1, 3) // a certificate of one day has not less than a day left

	now = now.Add(time.Second) // counts are remembered for a minute, the number of objects is not
	b.createNamed(t, csr.NewRequest{ID: "left too", Spec: commonName("x")})
	expect("a second later", at(day), 2, 8, 0, 0, 2, 2, 1, 3)
	now = now.Add(time.Minute)
	expect("a minute later", at(day), 2, 8, 0, 1, 2, 2, 1, 2)
	now = start.Add(day + time.Minute)
	expect("a day later", at(day), 2, 8, 1, 1, 2, 1, 2, 1)
	now = start.Add(1000 * day)
	expect("all ended", at(day), 2, 8, 8, 0, 0, 0, 0, 0)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

package csr_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
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
	b.create(t, pkcs10.Spec{})
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

func TestNamedMetrics(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(b.Collectors()...)
	expect := func(soonest string, requests, certificates int) {
		t.Helper()
		text := fmt.Sprintf(`
# HELP attestcsr_objects Named certification requests and named certificates that are stored.
# TYPE attestcsr_objects gauge
attestcsr_objects{collection="certificates"} %d
attestcsr_objects{collection="csrs"} %d
`, certificates, requests)
		if soonest != "" {
			text += `
# HELP attestcsr_certificates_soonest_not_after_timestamp_seconds Earliest end of validity among the named certificates, as a Unix time.
# TYPE attestcsr_certificates_soonest_not_after_timestamp_seconds gauge
attestcsr_certificates_soonest_not_after_timestamp_seconds ` + soonest + "\n"
		}
		names := []string{"attestcsr_objects", "attestcsr_certificates_soonest_not_after_timestamp_seconds"}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), names...); err != nil {
			t.Error(err)
		}
	}
	expect("", 0, 0)
	certificates := 0
	var ids []string
	for _, c := range []struct{ days, soonest int64 }{{30, 30}, {7, 7}, {8, 7}, {1, 1}, {500, 1}} {
		id := fmt.Sprint(c.days)
		b.createNamed(t, csr.NewRequest{ID: id, Spec: commonName("x")})
		made, err := b.selfSign(t, id, &c.days)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ID)
		certificates++
		end := noon().AddDate(0, 0, int(c.soonest))
		expect(strconv.FormatFloat(float64(end.Unix()), 'g', -1, 64), 0, certificates)
	}
	b.createNamed(t, csr.NewRequest{ID: "left", Spec: commonName("x")})
	expect(strconv.FormatFloat(float64(noon().AddDate(0, 0, 1).Unix()), 'g', -1, 64), 1, certificates)
	b.damage(t, csr.CertificateSlot(ids[3])) // what cannot be read hides no other
	expect(strconv.FormatFloat(float64(noon().AddDate(0, 0, 7).Unix()), 'g', -1, 64), 1, certificates)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

package csr

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
)

// scrapeTimeout bounds the reads of one scrape.
const scrapeTimeout = 2 * time.Second

// Collectors returns the metrics of this package, which read the store at each
// scrape and open no key:
//
//   - attestcsr_certificate_not_after_timestamp_seconds: when the installed
//     certificate ends;
//   - attestcsr_csr_created_timestamp_seconds: when the pending CSR was made.
//
// Both are absent where there is no such thing.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		timestampCollector{s, installedSlot(), func(p payload) time.Time { return p.NotAfter }, prometheus.NewDesc(
			"attestcsr_certificate_not_after_timestamp_seconds",
			"End of validity of the installed attestation certificate, as a Unix time.", nil, nil)},
		timestampCollector{s, pendingSlot(), func(p payload) time.Time { return p.Created }, prometheus.NewDesc(
			"attestcsr_csr_created_timestamp_seconds",
			"Creation of the pending certification request, as a Unix time.", nil, nil)},
	}
}

// timestampCollector is a gauge of a time that a slot's payload holds.
type timestampCollector struct {
	service *Service
	slot    keystore.Slot
	of      func(payload) time.Time
	desc    *prometheus.Desc
}

func (c timestampCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c timestampCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	p, _, err := c.service.read(ctx, c.slot)
	if err != nil {
		// Absent rather than invalid: an invalid metric fails the whole scrape,
		// and with it the ones that say what is wrong with the store.
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(c.of(p).Unix()))
}

package csr

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// scrapeTimeout bounds the reads of one scrape.
const scrapeTimeout = 2 * time.Second

// Collectors returns the metrics of this package, which read the store at each
// scrape and open no key:
//
//   - attestcsr_certificate_not_after_timestamp_seconds: when the installed
//     certificate ends;
//   - attestcsr_csr_created_timestamp_seconds: when the pending CSR was made;
//   - attestcsr_objects: named certification requests and named certificates;
//   - attestcsr_certificates_soonest_not_after_timestamp_seconds: when the first
//     of the named certificates ends.
//
// A time is absent where there is nothing that it is of.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		timestampCollector{s, installedSlot(), notAfter, prometheus.NewDesc(
			"attestcsr_certificate_not_after_timestamp_seconds",
			"End of validity of the installed attestation certificate, as a Unix time.", nil, nil)},
		timestampCollector{s, pendingSlot(), created, prometheus.NewDesc(
			"attestcsr_csr_created_timestamp_seconds",
			"Creation of the pending certification request, as a Unix time.", nil, nil)},
		countCollector{s, prometheus.NewDesc("attestcsr_objects",
			"Named certification requests and named certificates that are stored.", []string{"collection"}, nil)},
		soonestCollector{s, prometheus.NewDesc("attestcsr_certificates_soonest_not_after_timestamp_seconds",
			"Earliest end of validity among the named certificates, as a Unix time.", nil, nil)},
	}
}

// countCollector counts the named objects.
type countCollector struct {
	service *Service
	desc    *prometheus.Desc
}

func (c countCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c countCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	for _, collection := range []struct{ name, label string }{
		{collectionRequests, "csrs"}, {collectionCertificates, "certificates"},
	} {
		if n, err := c.service.keys.Count(ctx, collection.name); err == nil {
			metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), collection.label)
		}
	}
}

// soonestCollector tells when the first of the named certificates ends: that is
// the first entry of their index by time.
type soonestCollector struct {
	service *Service
	desc    *prometheus.Desc
}

func (c soonestCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c soonestCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	first, err := c.service.keys.List(ctx, keystore.Query{Collection: collectionCertificates, Index: indexNotAfter, Limit: 1})
	if err != nil || len(first) == 0 {
		return // absent, as in timestampCollector
	}
	certificate, err := certificateIn(first[0].Record)
	if err != nil {
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(certificate.Chain[0].NotAfter.Unix()))
}

// timestampCollector is a gauge of a time that a slot's payload holds.
type timestampCollector struct {
	service *Service
	slot    keystore.Slot
	of      func(payload) (time.Time, error)
	desc    *prometheus.Desc
}

func (c timestampCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c timestampCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	t, err := c.read(ctx)
	if err != nil {
		// Absent rather than invalid: an invalid metric fails the whole scrape,
		// and with it the ones that say what is wrong with the store.
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(t.Unix()))
}

func (c timestampCollector) read(ctx context.Context) (time.Time, error) {
	record, err := c.service.keys.Get(ctx, c.slot)
	if err != nil {
		return time.Time{}, err
	}
	p, err := decodePayload(record)
	if err != nil {
		return time.Time{}, err
	}
	return c.of(p)
}

func created(p payload) (time.Time, error) { return p.Created, nil }

func notAfter(p payload) (time.Time, error) {
	chain, err := pkcs10.ParseCertificates(p.PEM)
	if err != nil {
		return time.Time{}, err
	}
	return chain[0].NotAfter, nil
}

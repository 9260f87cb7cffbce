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
//   - attestcsr_csr_created_timestamp_seconds: when the pending CSR was made;
//   - attestcsr_objects: named certification requests and named certificates;
//   - attestcsr_certificates_soonest_not_after_timestamp_seconds: when the first
//     of the named certificates ends.
//
// A time is absent where there is no such CSR or certificate.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		timeCollector{s.installedUntil, prometheus.NewDesc(
			"attestcsr_certificate_not_after_timestamp_seconds",
			"End of validity of the installed attestation certificate, as a Unix time.", nil, nil)},
		timeCollector{s.pendingSince, prometheus.NewDesc(
			"attestcsr_csr_created_timestamp_seconds",
			"Creation of the pending certification request, as a Unix time.", nil, nil)},
		countCollector{s, prometheus.NewDesc("attestcsr_objects",
			"Named certification requests and named certificates that are stored.", []string{"collection"}, nil)},
		timeCollector{s.soonestUntil, prometheus.NewDesc("attestcsr_certificates_soonest_not_after_timestamp_seconds",
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

// timeCollector is a gauge of a time that is read from the store.
type timeCollector struct {
	read func(context.Context) (time.Time, error)
	desc *prometheus.Desc
}

func (c timeCollector) Describe(descs chan<- *prometheus.Desc) { descs <- c.desc }

func (c timeCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	t, err := c.read(ctx)
	if err != nil {
		// Absent rather than invalid: an invalid metric fails the whole scrape,
		// and with it the metrics that say what is wrong with the store.
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(t.Unix()))
}

func (s *Service) pendingSince(ctx context.Context) (time.Time, error) {
	record, err := s.keys.Get(ctx, pendingSlot())
	if err != nil {
		return time.Time{}, err
	}
	p, err := decodePayload(record)
	return p.Created, err
}

func (s *Service) installedUntil(ctx context.Context) (time.Time, error) {
	record, err := s.keys.Get(ctx, installedSlot())
	if err != nil {
		return time.Time{}, err
	}
	return notAfter(record)
}

// soonestUntil reads the first entry of the index by time.
func (s *Service) soonestUntil(ctx context.Context) (time.Time, error) {
	first, err := s.keys.List(ctx, keystore.Query{Collection: collectionCertificates, Index: indexNotAfter, Limit: 1})
	if err != nil {
		return time.Time{}, err
	}
	if len(first) == 0 {
		return time.Time{}, keystore.ErrNotFound
	}
	return notAfter(first[0].Record)
}

func notAfter(r keystore.Record) (time.Time, error) {
	c, err := certificateIn(r)
	if err != nil {
		return time.Time{}, err
	}
	return c.Chain[0].NotAfter, nil
}

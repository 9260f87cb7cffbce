package csr

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// scrapeTimeout bounds the reads of one scrape.
const scrapeTimeout = 2 * time.Second

// Collectors returns the metrics of this package. Most read the store at each scrape;
// none opens a key:
//
//   - attestcsr_certificate_not_after_timestamp_seconds: when the installed
//     certificate ends;
//   - attestcsr_csr_created_timestamp_seconds: when the pending CSR was made;
//   - attestcsr_objects: named certification requests and named certificates;
//   - attestcsr_certificates_soonest_not_after_timestamp_seconds: when the first
//     of the named certificates ends;
//   - attestcsr_certificate_warnings_total: warnings of certificates that were accepted,
//     by the check that they are about;
//   - attestcsr_certificate_activation_timestamp_seconds: when the staged certificate
//     becomes active;
//   - attestcsr_published_keys: public keys that verifiers are told of;
//   - attestcsr_signatures_total: signatures that were asked for, by their outcome.
//
// A time is absent where there is no such CSR or certificate, and published keys are
// where publishing is off.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		gauge{s.installedUntil, prometheus.NewDesc(
			"attestcsr_certificate_not_after_timestamp_seconds",
			"End of validity of the installed attestation certificate, as a Unix time.", nil, nil)},
		gauge{s.pendingSince, prometheus.NewDesc(
			"attestcsr_csr_created_timestamp_seconds",
			"Creation of the pending certification request, as a Unix time.", nil, nil)},
		s.counted(collectionRequests, "csrs"),
		s.counted(collectionCertificates, "certificates"),
		gauge{s.soonestUntil, prometheus.NewDesc("attestcsr_certificates_soonest_not_after_timestamp_seconds",
			"Earliest end of validity among the named certificates, as a Unix time.", nil, nil)},
		gauge{s.stagedUntil, prometheus.NewDesc("attestcsr_certificate_activation_timestamp_seconds",
			"When the staged attestation certificate becomes active, as a Unix time.", nil, nil)},
		gauge{s.publishedKeys, prometheus.NewDesc("attestcsr_published_keys",
			"Public keys that verifiers are told of.", nil, nil)},
		s.warnings, s.signatures,
	}
}

// newSignatures has each of its labels from the start.
func newSignatures() *prometheus.CounterVec {
	signatures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attestcsr_signatures_total", Help: "Signatures that callers with the privilege asked for, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range []string{signed, NotFound.String(), Invalid.String(), Unavailable.String(), TooMany.String(), Internal.String()} {
		signatures.WithLabelValues(outcome)
	}
	return signatures
}

// newWarnings has each of its labels from the start.
func newWarnings() *prometheus.CounterVec {
	warnings := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attestcsr_certificate_warnings_total",
		Help: "Warnings of certificates that were accepted all the same, by check.",
	}, []string{"check"})
	for _, check := range []pkcs10.Check{pkcs10.CheckNames, pkcs10.CheckRenewal} {
		warnings.WithLabelValues(string(check))
	}
	return warnings
}

// gauge is a number, or a Unix time, that is read from the store.
type gauge struct {
	read func(context.Context) (int64, error)
	desc *prometheus.Desc
}

func (g gauge) Describe(descs chan<- *prometheus.Desc) { descs <- g.desc }

func (g gauge) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	value, err := g.read(ctx)
	if err != nil {
		// Absent rather than invalid: an invalid metric fails the whole scrape,
		// and with it the metrics that say what is wrong with the store.
		return
	}
	metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(value))
}

// counted is the number of objects in a collection.
func (s *Service) counted(collection, label string) gauge {
	count := func(ctx context.Context) (int64, error) {
		n, err := s.keys.Count(ctx, collection)
		return int64(n), err
	}
	return gauge{count, prometheus.NewDesc("attestcsr_objects",
		"Named certification requests and named certificates that are stored.", nil, prometheus.Labels{"collection": label})}
}

func (s *Service) pendingSince(ctx context.Context) (int64, error) {
	record, err := s.keys.Get(ctx, pendingSlot())
	if err != nil {
		return 0, err
	}
	p, err := decodePayload(record)
	return p.Created.Unix(), err
}

func (s *Service) publishedKeys(ctx context.Context) (int64, error) {
	set, err := s.Published(ctx)
	if err != nil {
		return 0, err
	}
	return int64(len(set.Keys)), nil
}

func (s *Service) stagedUntil(ctx context.Context) (int64, error) {
	p, _, err := s.stagedPair(ctx)
	return p.Due.Unix(), err
}

func (s *Service) installedUntil(ctx context.Context) (int64, error) {
	record, err := s.keys.Get(ctx, installedSlot())
	if err != nil {
		return 0, err
	}
	return notAfter(record)
}

// soonestUntil reads the beginning of the index by time: the first that can be read.
func (s *Service) soonestUntil(ctx context.Context) (int64, error) {
	first, err := s.keys.List(ctx, keystore.Query{Collection: collectionCertificates, Index: indexNotAfter, Limit: 10})
	if err != nil {
		return 0, err
	}
	for _, item := range first {
		if until, err := notAfter(item.Record); err == nil {
			return until, nil
		}
	}
	return 0, keystore.ErrNotFound
}

func notAfter(r keystore.Record) (int64, error) {
	c, err := certificateIn(r)
	if err != nil {
		return 0, err
	}
	until := c.Facts[0].NotAfter
	if until.IsZero() {
		return 0, fmt.Errorf("%s: the certificate cannot be parsed", r.Slot)
	}
	return until.Unix(), nil
}

package csr

import (
	"context"
	"errors"
	"sync"
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
//   - attestcsr_certificates_soonest_not_after_timestamp_seconds and
//     attestcsr_certificates_by_time_left: when the named certificates end.
//
// A time is absent where there is nothing that it is of.
func (s *Service) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		timestampCollector{s, installedSlot(), func(p payload) time.Time { return p.NotAfter }, prometheus.NewDesc(
			"attestcsr_certificate_not_after_timestamp_seconds",
			"End of validity of the installed attestation certificate, as a Unix time.", nil, nil)},
		timestampCollector{s, pendingSlot(), func(p payload) time.Time { return p.Created }, prometheus.NewDesc(
			"attestcsr_csr_created_timestamp_seconds",
			"Creation of the pending certification request, as a Unix time.", nil, nil)},
		countCollector{s, prometheus.NewDesc("attestcsr_objects",
			"Named certification requests and named certificates that are stored.", []string{"collection"}, nil)},
		&expiryCollector{
			service: s,
			soonest: prometheus.NewDesc("attestcsr_certificates_soonest_not_after_timestamp_seconds",
				"Earliest end of validity among the named certificates, as a Unix time.", nil, nil),
			byDays: prometheus.NewDesc("attestcsr_certificates_by_time_left",
				"Named certificates by the days until they end: at most the label's, and more than that of the bucket before.", []string{"days"}, nil),
		},
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

// expiryLifetime is how long a scrape is answered with what an earlier one found.
const expiryLifetime = time.Minute

// expiryCollector tells when the named certificates end. It walks the part of
// the index that is about to end and leaves the rest to subtraction, at most
// once in expiryLifetime.
type expiryCollector struct {
	service         *Service
	soonest, byDays *prometheus.Desc

	lock  sync.Mutex // guards the fields below
	at    time.Time  // when known was read
	known expiry
}

type expiry struct {
	soonest time.Time // zero: there is no certificate
	buckets []int     // as expiryBuckets has them, and then one for the rest
}

// expiryBucket holds what ends before now and days.
type expiryBucket struct {
	label string
	days  int
}

func expiryBuckets() []expiryBucket {
	return []expiryBucket{{"expired", 0}, {"1", 1}, {"7", 7}, {"30", 30}, {"90", 90}}
}

func (c *expiryCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.soonest
	descs <- c.byDays
}

func (c *expiryCollector) Collect(metrics chan<- prometheus.Metric) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if now := c.service.now(); c.at.IsZero() || now.Sub(c.at).Abs() >= expiryLifetime {
		ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
		defer cancel()
		known, err := c.service.expiry(ctx, now)
		if err != nil {
			return // absent, as in timestampCollector
		}
		c.known, c.at = known, now
	}
	if !c.known.soonest.IsZero() {
		metrics <- prometheus.MustNewConstMetric(c.soonest, prometheus.GaugeValue, float64(c.known.soonest.Unix()))
	}
	for i, n := range c.known.buckets {
		label := "more"
		if buckets := expiryBuckets(); i < len(buckets) {
			label = buckets[i].label
		}
		metrics <- prometheus.MustNewConstMetric(c.byDays, prometheus.GaugeValue, float64(n), label)
	}
}

// expiry reads when the named certificates end.
func (s *Service) expiry(ctx context.Context, now time.Time) (expiry, error) {
	var e expiry
	first := errors.New("the first is enough")
	err := s.keys.Values(ctx, collectionCertificates, indexNotAfter, nil, func(value []byte) error {
		e.soonest = sortedTime(value)
		return first
	})
	if err != nil && !errors.Is(err, first) {
		return expiry{}, err
	}

	buckets := expiryBuckets()
	e.buckets = make([]int, len(buckets)+1)
	ends := func(b expiryBucket) time.Time { return now.AddDate(0, 0, b.days) }
	walked, i := 0, 0
	err = s.keys.Values(ctx, collectionCertificates, indexNotAfter, sortable(ends(buckets[len(buckets)-1])), func(value []byte) error {
		for i+1 < len(buckets) && !sortedTime(value).Before(ends(buckets[i])) {
			i++ // values ascend
		}
		e.buckets[i]++
		walked++
		return nil
	})
	if err != nil {
		return expiry{}, err
	}
	all, err := s.keys.Count(ctx, collectionCertificates)
	e.buckets[len(buckets)] = max(0, all-walked) // some may have gone since the walk
	return e, err
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

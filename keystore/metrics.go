package keystore

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is what became of a commit: the closed set of values of the label.
type outcome string

const (
	committed      outcome = "committed"
	conflict       outcome = "conflict"
	notFound       outcome = "not_found"
	notCommitted   outcome = "not_committed"
	unavailable    outcome = "unavailable"
	outcomeUnknown outcome = "outcome_unknown"
)

// outcomeOf classifies the error of Records.Commit. An error outside the contract
// counts as unknown: keys are only destroyed on certainty.
func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return committed
	case errors.Is(err, ErrOutcomeUnknown):
		return outcomeUnknown
	case errors.Is(err, ErrConflict):
		return conflict
	case errors.Is(err, ErrNotFound):
		return notFound
	case errors.Is(err, ErrNotCommitted):
		return notCommitted
	case errors.Is(err, ErrUnavailable):
		return unavailable
	}
	return outcomeUnknown
}

type metrics struct {
	commit      *prometheus.HistogramVec
	unauthentic prometheus.Counter
}

func newMetrics() metrics {
	native := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels)
	}
	m := metrics{
		commit: native("attestcsr_store_commit_seconds",
			"Time of a commit to the key store, until it was durable or had failed.", "outcome"),
		unauthentic: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attestcsr_store_unauthentic_total",
			Help: "Records that were read from the key store and were not authentic.",
		}),
	}
	for _, o := range []outcome{committed, conflict, notFound, notCommitted, unavailable, outcomeUnknown} {
		m.commit.WithLabelValues(string(o))
	}
	return m
}

func (m metrics) commits(err error, since time.Time) {
	m.commit.WithLabelValues(string(outcomeOf(err))).Observe(time.Since(since).Seconds())
}

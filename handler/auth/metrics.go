package auth

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
)

// outcome is how an attempt to authenticate ended.
type outcome string

const (
	success   outcome = "success"
	failure   outcome = "failure"
	forged    outcome = "forged"    // another site may have sent it
	throttled outcome = "throttled" // too many wrong passwords from there
	busy      outcome = "busy"      // too many passwords to check
	canceled  outcome = "canceled"  // the client did not wait for the answer
	failed    outcome = "error"     // our fault
)

type metrics struct {
	attempts *prometheus.CounterVec
	sessions prometheus.GaugeFunc
}

func newMetrics(sessions *sessions) metrics {
	m := metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_authentication_attempts_total",
			Help: "Requests by the kind of their credentials and what came of them.",
		}, []string{"method", "outcome"}),
		sessions: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_sessions",
			Help: "Sessions that have not ended.",
		}, func() float64 { return float64(sessions.count()) }),
	}
	// From zero, so that a rate sees the first of each.
	for method, outcomes := range map[string][]outcome{
		byPassword: {success, failure, forged, throttled, busy, canceled, failed},
		byForm:     {success, failure, throttled, busy, canceled, failed},
		bySession:  {success, failure, forged},
		byOther:    {failure, forged},
		byNothing:  {failure, forged},
	} {
		for _, o := range outcomes {
			m.attempts.WithLabelValues(method, string(o))
		}
	}
	return m
}

// outcomeOf classifies the error of a verification.
func outcomeOf(err error) outcome {
	var known *csr.Error
	switch {
	case err == nil:
		return success
	case !errors.As(err, &known):
		return failed
	case known.Kind == csr.Unauthenticated:
		return failure
	case known.Kind == csr.Forged:
		return forged
	case errors.Is(err, errThrottled):
		return throttled
	case known.Kind == csr.Busy:
		return busy
	case known.Kind == csr.Unavailable:
		return canceled
	}
	return failed
}

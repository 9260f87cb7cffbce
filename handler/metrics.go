package handler

import (
	"errors"
	"time"

	"attestcsr/csr"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of HTTP requests. Every label comes from a closed set: route
// templates, known methods, status codes, dialects and error kinds.
type metrics struct {
	duration *prometheus.HistogramVec
	created  *prometheus.CounterVec
	inFlight prometheus.GaugeFunc
}

func newMetrics(registry *prometheus.Registry, inFlight func() int) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "attestcsr_http_request_duration_seconds",
			Help:                            "Time from the end of a request's header to the end of its answer, by route template.",
			Buckets:                         []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"route", "method", "code"}),
		created: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_csrs_created_total",
			Help: "Requests to create a CSR, by dialect and outcome: created, or the kind of error.",
		}, []string{"dialect", "outcome"}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_http_requests_in_flight",
			Help: "API requests that are being answered.",
		}, func() float64 { return float64(inFlight()) }),
	}
	// From zero, so that a rate sees the first of each.
	for _, dialect := range []string{esx().Dialect, nsx().Dialect} {
		m.created.WithLabelValues(dialect, outcomeCreated)
		for _, kind := range csr.Kinds() {
			m.created.WithLabelValues(dialect, kind.String())
		}
	}
	return m, errors.Join(registry.Register(m.duration), registry.Register(m.created), registry.Register(m.inFlight))
}

// outcomeCreated stands beside the kinds of errors.
const outcomeCreated = "created"

func (m *metrics) countCreate(c echo.Context, dialect string, err error) {
	outcome := outcomeCreated
	if err != nil {
		outcome, _ = classify(c.Request().Context(), err)
	}
	m.created.WithLabelValues(dialect, outcome).Inc()
}

package audit

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	events, failures *prometheus.CounterVec
	pending, lag     prometheus.GaugeFunc
}

func newMetrics(l *Log) metrics {
	m := metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_audit_events_total",
			Help: "Lines written to the audit trail, without those that open a file.",
		}, []string{"stream"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_audit_export_failures_total",
			Help: "Attempts to write the audit trail that failed.",
		}, []string{"stream"}),
		pending: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_audit_outbox_notes",
			Help: "Changes that are not in the audit trail yet; they wait in the store.",
		}, func() float64 {
			n, err := l.o.Outbox.Pending(context.Background())
			if err != nil {
				return 0 // the store's own metrics say what is wrong
			}
			return float64(n)
		}),
		lag: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "attestcsr_audit_lag_seconds",
			Help: "Age of the oldest change that is not in the audit trail yet; 0 where none waits.",
		}, l.lag),
	}
	for _, stream := range Streams() {
		m.events.WithLabelValues(stream)
		m.failures.WithLabelValues(stream)
	}
	return m
}

func (m metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.events, m.failures, m.pending, m.lag}
}

// lag is 0 where the store cannot be read, and for a note that is none.
func (l *Log) lag() (seconds float64) {
	err := l.o.Outbox.Outbox(context.Background(), 0, 1, func(_ uint64, _, _, note []byte) error {
		e, err := decodeNote(note)
		if err == nil {
			seconds = max(0, l.o.Now().Sub(e.Time).Seconds())
		}
		return err
	})
	if err != nil {
		return 0 // the store's own metrics say what is wrong
	}
	return seconds
}

package pool

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
)

// origin says what a key was made for: the closed set of values of the label.
type origin string

const (
	foreground origin = "foreground" // somebody waited for it
	background origin = "background"
)

// The reasons for which a caller is turned away.
const (
	shedQueueFull = "queue_full"
	shedDeadline  = "deadline"
)

// otherSize is the label of all sizes without a target.
const otherSize = "other"

type metrics struct {
	generation   *prometheus.HistogramVec
	wait         prometheus.Histogram
	hits, misses *prometheus.CounterVec
	shed         *prometheus.CounterVec
}

func newMetrics() metrics {
	native := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{
			Name: name, Help: help,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := metrics{
		generation: prometheus.NewHistogramVec(native("attestcsr_key_generation_seconds",
			"Time to generate a key pair, without the wait for a processor."), []string{"algorithm", "size", "origin"}),
		wait: prometheus.NewHistogram(native("attestcsr_key_wait_seconds",
			"Time a request waited for its RSA key; 0 when one was ready.")),
		hits:   counter("attestcsr_key_pool_hits_total", "Requests for an RSA key that was ready.", "size"),
		misses: counter("attestcsr_key_pool_misses_total", "Requests for an RSA key that was not ready.", "size"),
		shed:   counter("attestcsr_key_requests_shed_total", "Requests turned away because too many waited for a key.", "reason"),
	}
	m.shed.WithLabelValues(shedQueueFull)
	m.shed.WithLabelValues(shedDeadline)
	return m
}

// of returns the counters of a size. Those without a target share theirs.
func (m metrics) of(s *size) (hits, misses prometheus.Counter) {
	label := otherSize
	if s.target > 0 {
		label = strconv.Itoa(s.spec.Bits)
	}
	return m.hits.WithLabelValues(label), m.misses.WithLabelValues(label)
}

func (m metrics) generated(spec keystore.KeySpec, from origin, took time.Duration) {
	m.generation.WithLabelValues(string(spec.Algorithm), strconv.Itoa(spec.Bits), string(from)).Observe(took.Seconds())
}

// Collectors returns the metrics of the pool for a registry.
func (p *Pool) Collectors() []prometheus.Collector {
	all := []prometheus.Collector{p.metrics.generation, p.metrics.wait, p.metrics.hits, p.metrics.misses, p.metrics.shed}
	gauge := func(s *size, name, help string, value func() int) {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: name, Help: help, ConstLabels: prometheus.Labels{"size": strconv.Itoa(s.spec.Bits)},
		}, func() float64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return float64(value())
		}))
	}
	for _, s := range p.pooled {
		gauge(s, "attestcsr_key_pool_keys", "RSA keys that are ready.", func() int { return len(s.ready) })
		gauge(s, "attestcsr_key_pool_target", "RSA keys that are to be ready.", func() int { return s.target })
	}
	return append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "attestcsr_key_requests_waiting", Help: "Requests that wait for an RSA key.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(len(p.queue))
	}))
}

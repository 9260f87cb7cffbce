package console_test

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/handler/console"
	"attestcsr/test/kit"
)

// charts are series over metrics and a clock that a test moves.
type charts struct {
	*console.Series
	clock    *kit.Clock
	requests *prometheus.HistogramVec
	ready    prometheus.Gauge
}

func newCharts(t *testing.T) charts {
	t.Helper()
	c := charts{
		clock:    kit.NewClock(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "attestcsr_http_request_duration_seconds", Help: "Requests."}, []string{"route", "code"}),
		ready:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "attestcsr_key_pool_keys", Help: "Keys."}),
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.requests, c.ready)
	c.Series = console.NewSeries(registry, c.clock.Now)
	return c
}

// last returns the newest points of a series; -1 is a gap.
func (c charts) last(name string, n int) []float64 {
	points := c.Read(name)
	var values []float64
	for _, p := range points[len(points)-n:] {
		if p == nil {
			values = append(values, -1)
		} else {
			values = append(values, *p)
		}
	}
	return values
}

func TestSeries(t *testing.T) {
	t.Parallel()
	c := newCharts(t)
	want := func(name string, values ...float64) {
		t.Helper()
		if got := c.last(name, len(values)); !slices.Equal(got, values) {
			t.Errorf("%s ends with %v, want %v", name, got, values)
		}
	}
	if names := c.Names(); len(names) != 12 || len(c.Read("requests")) != 360 {
		t.Fatalf("series %q, %d points", names, len(c.Read("requests")))
	}
	c.ready.Set(8)
	c.Sample()
	want("keys_ready", -1, 8)
	want("requests", -1, -1) // a rate needs two samples

	for range 20 {
		c.requests.WithLabelValues("/console/state", "200").Observe(0.5)
	}
	c.requests.WithLabelValues("/readyz", "503").Observe(100) // a probe
	c.clock.Advance(10 * time.Second)
	c.Sample()
	want("requests", -1, 2)
	want("answer_time", -1, 0.5)
	want("failures", -1, 0)

	c.requests.WithLabelValues("/console/state", "500").Observe(0.5)
	c.clock.Advance(30 * time.Second) // two samples are missing
	c.ready.Set(3)
	c.Sample()
	want("keys_ready", 8, 8, -1, -1, 3)
	want("failures", 0, -1, -1, 1)
	want("requests", 2, -1, -1, 1.0/30)

	c.clock.Advance(10 * time.Second)
	c.Sample()
	want("answer_time", 0.5, -1) // nobody asked

	c.clock.Advance(-20 * time.Second) // the clock goes back
	c.Sample()
	want("keys_ready", 8, 8, -1, 3)
	c.clock.Advance(2 * time.Hour)
	c.Sample()
	want("keys_ready", -1, -1, -1, 3)
	for i, v := range c.last("keys_ready", 359)[:358] {
		if v != -1 {
			t.Fatalf("point %d is %v after two hours without a sample", i, v)
		}
	}
}

package console

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/handler/vapi"
)

const (
	seriesInterval = 10 * time.Second
	seriesPoints   = 360 // an hour
)

// Series keeps an hour of figures in memory, for charts that need no Prometheus. They are
// those of this process: a restart begins anew, and what was before is a gap.
type Series struct {
	registry prometheus.Gatherer
	now      func() time.Time

	mu     sync.Mutex
	last   figures // of the sample before; nil: there is none
	taken  time.Time
	at     int64 // the interval of that, counted from 1970
	points map[string]*[seriesPoints]float64
}

// NewSeries makes series that have no point yet.
func NewSeries(registry prometheus.Gatherer, now func() time.Time) *Series {
	s := &Series{registry: registry, now: now, points: map[string]*[seriesPoints]float64{}}
	for _, d := range declaredSeries() {
		p := new([seriesPoints]float64)
		for i := range p {
			p[i] = math.NaN()
		}
		s.points[d.name] = p
	}
	return s
}

// declaration is what a series shows, and how it comes from the metrics.
type declaration struct {
	name, unit string
	// value is that of now. counts and sums count up from the start of the process: the
	// points are what came since the sample before, by the second where the unit says so,
	// and as a mean where there are sums.
	value, counts, sums func(figures) float64
}

const (
	perSecond  = "per second"
	inInterval = "in 10 s"
	seconds    = "s"
	inBytes    = "bytes"
	number     = ""
)

// declaredSeries are all series.
func declaredSeries() []declaration {
	const requests = "attestcsr_http_request_duration_seconds"
	sum := func(name string, keep func(map[string]string) bool) func(figures) float64 {
		return func(f figures) float64 { return f.sum(name, keep) }
	}
	observed := func(name string, keep func(map[string]string) bool) func(figures) float64 {
		return func(f figures) float64 { return f.observed(name, keep) }
	}
	return []declaration{
		{name: "requests", unit: perSecond, counts: sum(requests, asked)},
		{name: "failures", unit: inInterval, counts: sum(requests, failed)},
		{name: "answer_time", unit: seconds, counts: sum(requests, asked), sums: observed(requests, asked)},
		{name: "in_flight", unit: number, value: sum("attestcsr_http_requests_in_flight", nil)},
		{name: "connections", unit: number, value: sum("attestcsr_connections", nil)},
		{name: "csrs", unit: inInterval, counts: sum("attestcsr_csrs_created_total", is("outcome", "created"))},
		{name: "signatures", unit: inInterval, counts: sum("attestcsr_signatures_total", is("outcome", "signed"))},
		{name: "refused_logins", unit: inInterval, counts: sum("attestcsr_authentication_attempts_total", refused)},
		{name: "keys_ready", unit: number, value: sum("attestcsr_key_pool_keys", nil)},
		{name: "key_wait", unit: seconds, counts: sum("attestcsr_key_wait_seconds", nil), sums: observed("attestcsr_key_wait_seconds", nil)},
		{name: "commit_time", unit: seconds, counts: sum("attestcsr_store_commit_seconds", nil), sums: observed("attestcsr_store_commit_seconds", nil)},
		{name: "memory", unit: inBytes, value: sum("process_resident_memory_bytes", nil)},
	}
}

// Keep takes a sample every ten seconds until ctx ends. Only it calls sample.
func (s *Series) Keep(ctx context.Context) {
	for {
		s.sample()
		wait := seriesInterval - time.Duration(s.now().UnixNano()%int64(seriesInterval))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// sample adds a point to each series. Intervals of which there was no sample, since the
// machine slept or its clock jumped, are gaps.
func (s *Series) sample() {
	now, taken := gather(s.registry), s.now()
	at := taken.UnixNano() / int64(seriesInterval)
	s.mu.Lock()
	defer s.mu.Unlock()
	if at <= s.at-seriesPoints || at >= s.at+seriesPoints {
		s.at = at - seriesPoints
	}
	for gap := min(at, s.at) + 1; gap < max(at, s.at+1); gap++ { // also what a clock that went back leaves
		for _, p := range s.points {
			p[gap%seriesPoints] = math.NaN()
		}
	}
	for _, d := range declaredSeries() {
		s.points[d.name][at%seriesPoints] = d.point(s.last, now, taken.Sub(s.taken))
	}
	s.last, s.taken, s.at = now, taken, at
}

// point is what a series shows of now. NaN: nothing.
func (d declaration) point(before, now figures, passed time.Duration) float64 {
	if d.value != nil {
		return d.value(now)
	}
	if before == nil {
		return math.NaN()
	}
	n := d.counts(now) - d.counts(before)
	switch {
	case d.sums != nil && n == 0:
		return math.NaN()
	case d.sums != nil:
		return (d.sums(now) - d.sums(before)) / n
	case d.unit == perSecond:
		return n / max(passed, time.Second).Seconds()
	}
	return n
}

// seriesReply is the answer of GET /console/series.
type seriesReply struct {
	Interval int      `json:"interval"` // in seconds
	End      string   `json:"end"`      // of the last point
	Series   []series `json:"series"`
}

type series struct {
	Name   string     `json:"name"`
	Unit   string     `json:"unit"`
	Points []*float64 `json:"points"` // the oldest first; null is a gap
}

// read returns the last hour.
func (s *Series) read() seriesReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := seriesReply{Interval: int(seriesInterval.Seconds()), End: formatTime(time.Unix(s.at*int64(seriesInterval.Seconds()), 0))}
	for _, d := range declaredSeries() {
		one := series{Name: d.name, Unit: d.unit, Points: make([]*float64, seriesPoints)}
		for i := range one.Points {
			if v := s.points[d.name][(s.at+1+int64(i))%seriesPoints]; !math.IsNaN(v) {
				one.Points[i] = &v
			}
		}
		reply.Series = append(reply.Series, one)
	}
	return reply
}

func (s *Series) handle(c echo.Context, _ csr.Caller, _ Authorise) error {
	if _, err := readQuery(c, nil); err != nil {
		return err
	}
	return vapi.Reply(c, http.StatusOK, s.read())
}

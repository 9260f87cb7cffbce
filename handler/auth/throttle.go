package auth

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"attestcsr/csr"
)

const (
	failureWindow = time.Minute
	// turnWindow is how long a check counts against the next one of its network. In a
	// minute there is time for about a thousand checks: with more guessers than that, all
	// would be as good as new.
	turnWindow = 10 * time.Minute
	maxSources = 8192 // networks; about 200 bytes each
)

var errThrottled = errors.New("too many wrong passwords from this address")

// throttle counts wrong passwords for the network that they come from, and never for
// the user alone, so that nobody can lock out a user from elsewhere. Each network has a
// bucket of tokens. A wrong password takes one; a check needs one in the bucket.
type throttle struct {
	failures int // tokens of a full bucket, which takes a minute to fill
	networks *Networks

	mu      sync.Mutex
	sources map[netip.Prefix]*source // those with checks, or with checks within a minute
}

// source is a network that passwords come from.
type source struct {
	bucket  *rate.Limiter
	pending int       // checks that wait or run; it is not forgotten meanwhile
	running int       // of these, those that run. Each may yet take a token
	last    time.Time // when the last check ended
}

func newThrottle(cfg Config) *throttle {
	return &throttle{failures: cfg.Failures, networks: cfg.Networks, sources: make(map[netip.Prefix]*source)}
}

// enter takes note of a check that will wait for its turn; the caller calls leave. The
// error is csr.Busy where the bucket is empty, with the time until it is not.
func (t *throttle) enter(network netip.Prefix) (standing, error) {
	isKnown := t.networks.known(network)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s, present := t.sources[network]
	if present && !t.mayStart(s, now) {
		return standing{}, t.throttled(s, now)
	}
	if !present {
		s = &source{bucket: rate.NewLimiter(rate.Limit(float64(t.failures)/failureWindow.Seconds()), t.failures)}
		t.sources[network] = s
	}
	s.pending++
	last := s.last
	switch {
	case s.pending > 1: // one after another
		last = now
	case now.Sub(last) >= turnWindow:
		last = time.Time{}
	}
	return standing{isKnown, last}, nil
}

func (t *throttle) leave(network netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sources[network]
	s.pending--
	if s.pending == 0 && s.last.IsZero() { // its wait came to nothing
		delete(t.sources, network)
	}
}

// start is for a check that has its turn and may take a token; the caller calls end. The
// error is that of enter: others of the same network had their turn before.
func (t *throttle) start(network netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, s := time.Now(), t.sources[network]
	if !t.mayStart(s, now) {
		return t.throttled(s, now)
	}
	s.running++
	return nil
}

func (t *throttle) end(network netip.Prefix, wrong bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, s := time.Now(), t.sources[network]
	s.running--
	s.last = now
	if wrong {
		s.bucket.AllowN(now, 1)
	}
	if len(t.sources) > maxSources {
		t.makeRoom(now)
	}
}

// countFailure counts a wrong password that had no check of its own, because another
// request of the same network sent the same one at the same time.
func (t *throttle) countFailure(network netip.Prefix) error {
	if _, err := t.enter(network); err != nil {
		return err
	}
	defer t.leave(network)
	if err := t.start(network); err != nil {
		return err
	}
	t.end(network, true)
	return nil
}

// mayStart: guesses made at the same time do not get past the bucket together.
func (t *throttle) mayStart(s *source, now time.Time) bool {
	return s.bucket.TokensAt(now) >= float64(1+s.running)
}

// throttled says when the bucket has a token. Where running checks alone may take all,
// any of them may soon leave it one.
func (t *throttle) throttled(s *source, now time.Time) error {
	wait := time.Second
	if missing := 1 - s.bucket.TokensAt(now); missing > 0 {
		wait = time.Duration(missing / float64(s.bucket.Limit()) * float64(time.Second))
	}
	return &csr.Error{Kind: csr.Busy, RetryAfter: max(wait, time.Second), Err: errThrottled}
}

// makeRoom forgets the networks whose buckets are full again, else the one with the
// most tokens. It comes after a check: whoever wants an empty bucket forgotten has to
// have passwords checked from thousands of other networks. That takes longer than the
// minute in which the bucket fills by itself.
func (t *throttle) makeRoom(now time.Time) {
	var fullest netip.Prefix
	most := -1.0
	for network, s := range t.sources {
		switch tokens := s.bucket.TokensAt(now); {
		case s.pending > 0:
		case now.Sub(s.last) >= failureWindow:
			delete(t.sources, network)
		case tokens > most:
			fullest, most = network, tokens
		}
	}
	if len(t.sources) > maxSources && most >= 0 {
		delete(t.sources, fullest)
	}
}

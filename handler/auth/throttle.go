package auth

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"attestcsr/csr"
)

const (
	failureWindow = time.Minute
	throttleWait  = 5 * time.Second // how long a check waits to be admitted
	maxQueue      = 64              // checks that wait, per source
	maxQueued     = 1024            // checks that wait, in all
	maxSources    = 8192            // a full one is about 1 kB, and its timers 3 kB
)

var errThrottled = errors.New("too many wrong passwords from this address")

// throttle slows down guessing. Wrong passwords are counted for the address that they
// come from, and never for the user alone, so that nobody can lock out a user from
// elsewhere. Up to a limit a minute they are answered at once. Beyond it further
// checks from there wait until older failures are a minute old. How many wait is
// bounded, and how long.
type throttle struct {
	limit int // failures a minute from one source

	mu      sync.Mutex
	sources map[netip.Prefix]*source // those with checks or failures
	queued  int
}

// source is an address or network that passwords come from.
type source struct {
	network netip.Prefix
	// room is for checks. A check takes its part before it starts, so that guesses made
	// at the same time do not get past the limit together. A right password gives it
	// back at once, a wrong one after a minute.
	room     *semaphore.Weighted
	failures []time.Time // within the last minute, oldest first
	queued   int         // checks that wait for room, first come first served
	checks   int         // that wait or run; the source is not forgotten meanwhile
}

func newThrottle(cfg Config) *throttle {
	return &throttle{limit: cfg.Failures, sources: make(map[netip.Prefix]*source)}
}

// admit returns once a check may run; the caller has to finish it. Otherwise the
// error is csr.Busy, with the time until it is worth trying again.
//
// A check that cannot be admitted in time waits nevertheless. So a guesser has no
// more attempts at a time than may wait.
func (t *throttle) admit(from netip.Prefix) (*source, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sourceOf(from)
	s.checks++
	admitted := s.room.TryAcquire(1)
	if !admitted && s.queued < maxQueue && t.queued < maxQueued {
		admitted = t.wait(s)
	}
	if !admitted {
		s.checks--
		return nil, s.throttled()
	}
	return s, nil
}

// wait reports whether there was room in time. The lock is held, but not while it
// waits.
func (t *throttle) wait(s *source) bool {
	s.queued++
	t.queued++
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), throttleWait)
	defer cancel()
	err := s.room.Acquire(ctx, 1)
	t.mu.Lock()
	s.queued--
	t.queued--
	return err == nil
}

// finish ends an admitted check.
func (t *throttle) finish(s *source, wrong bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.checks--
	if wrong {
		t.fail(s)
		return
	}
	s.room.Release(1)
	t.forgetUnused(s)
}

// countFailure counts a wrong password that had no check of its own, because another
// request from the same address sent the same one at the same time. Beyond the limit
// the error is that of admit.
func (t *throttle) countFailure(from netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sourceOf(from)
	if !s.room.TryAcquire(1) {
		return s.throttled()
	}
	t.fail(s)
	return nil
}

// fail counts a failure, whose room is taken already.
func (t *throttle) fail(s *source) {
	s.failures = append(s.failures, time.Now())
	time.AfterFunc(failureWindow, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.failures = s.failures[1:]
		s.room.Release(1)
		t.forgetUnused(s)
	})
}

func (t *throttle) forgetUnused(s *source) {
	if s.checks == 0 && len(s.failures) == 0 && t.sources[s.network] == s {
		delete(t.sources, s.network)
	}
}

// sourceOf returns the source of a network. While there are too many, it forgets
// another one for a new one: strangers fill the table.
func (t *throttle) sourceOf(network netip.Prefix) *source {
	if known, ok := t.sources[network]; ok {
		return known
	}
	for other, s := range t.sources {
		if len(t.sources) < maxSources {
			break
		}
		if s.checks == 0 {
			delete(t.sources, other)
		}
	}
	s := &source{network: network, room: semaphore.NewWeighted(int64(t.limit))}
	t.sources[network] = s
	return s
}

// throttled is the error of a check for which there is no room. Where running checks
// alone take all of it, any of them may give it back soon.
func (s *source) throttled() error {
	wait := time.Second
	if len(s.failures) > 0 {
		wait = time.Until(s.failures[0].Add(failureWindow))
	}
	return &csr.Error{Kind: csr.Busy, RetryAfter: max(wait, time.Second), Err: errThrottled}
}

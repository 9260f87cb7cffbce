package pool

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
)

const (
	// window is the time over which demand is looked at: a size nobody asks for
	// during one shrinks to one key.
	window = 10 * time.Minute
	// dryLogInterval bounds how often a size may say that it ran dry: with a
	// target of one key it does so at every other request.
	dryLogInterval = time.Minute
)

// size is everything about one size of key. It is guarded by Pool.mu.
type size struct {
	spec         keystore.KeySpec
	configured   int // the target that was asked for; 0: not pooled, misses only
	max          int
	hits, misses prometheus.Counter

	target  int            // how many are to be ready now
	ready   []keystore.Key // the oldest first
	filling int            // in the making in the background
	turn    uint64         // when the last background generation began
	full    bool           // the target was reached since it was last raised or missed
	warm    bool           // the configured target was reached once
	dryAt   time.Time      // when it was last said that it ran dry
	saidDry bool           // and not yet that it is full again

	waiters []*waiter     // in order of arrival
	making  int           // in the making in the foreground
	took    time.Duration // moving average of a foreground generation; 0: none yet

	since  time.Time // begin of the window
	asked  bool      // during the window
	lowest int       // keys that stayed unused throughout the window

	failures int  // background generations that failed in a row
	resting  bool // until the next may be tried
}

func newSize(bits, target, limit int, now time.Time) *size {
	return &size{
		spec:       keystore.KeySpec{Algorithm: keystore.RSA, Bits: bits},
		configured: target, target: target, max: limit, since: now,
	}
}

// request notes that somebody asks for a key, which ends the rest of a size that
// nobody asked for: it then reports true.
func (s *size) request() bool {
	s.asked = true
	if s.target >= s.configured {
		return false
	}
	s.target, s.full = s.configured, false
	return true
}

// take returns the key that has been waiting for longest, or nil.
func (s *size) take() keystore.Key {
	if len(s.ready) == 0 {
		return nil
	}
	key := s.ready[0]
	s.ready[0] = nil // the array must not keep what is no longer the pool's
	s.ready = s.ready[1:]
	s.lowest = min(s.lowest, len(s.ready))
	return key
}

// trim takes out the keys beyond n, to be discarded.
func (s *size) trim(n int) []keystore.Key {
	if len(s.ready) <= n {
		return nil
	}
	surplus := slices.Clone(s.ready[n:])
	s.ready = slices.Delete(s.ready, n, len(s.ready))
	return surplus
}

// store puts a key among those that are ready, unless there are enough.
func (s *size) store(k keystore.Key) bool {
	if len(s.ready) >= s.max || s.configured == 0 {
		return false
	}
	s.ready = append(s.ready, k)
	if len(s.ready) >= s.target {
		s.full = true
	}
	return true
}

// ranDry notes that somebody found no key, and reports whether that is worth a
// line. When the burst has used up a full pool, the next one finds twice as many
// keys. Where demand is above what the processors make, the pool is never full
// in between and the target stays.
func (s *size) ranDry(now time.Time) bool {
	s.lowest = 0
	if !s.full {
		return false
	}
	s.full = false
	s.target = min(2*s.target, s.max)
	if s.saidDry || now.Sub(s.dryAt) < dryLogInterval {
		return false
	}
	s.dryAt, s.saidDry = now, true
	return true
}

// adapt ends a window, if it is over: the target falls to one where nobody
// asked, and else by the keys that stayed unused, but not below what was
// configured. It returns the keys that are now too many.
func (s *size) adapt(now time.Time) []keystore.Key {
	if now.Sub(s.since) >= window {
		if s.asked {
			s.target = max(s.configured, s.target-s.lowest)
		} else {
			s.target = 1
		}
		s.since, s.asked, s.lowest = now, false, len(s.ready)
	}
	return s.trim(s.target)
}

// measured takes a foreground generation into the average.
func (s *size) measured(took time.Duration) {
	if s.took == 0 {
		s.took = took
	}
	s.took += (took - s.took) / 8
}

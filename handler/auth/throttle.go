package auth

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"attestcsr/csr"
)

const (
	failureWindow = time.Minute
	throttleWait  = 5 * time.Second // how long a check waits to be admitted
	maxQueue      = 64              // checks that wait, per address
	maxQueued     = 1024            // checks that wait, in all
	maxCounters   = 8192            // a full one is about 1 kB
)

var errThrottled = errors.New("too many wrong passwords from this address")

// throttle slows down guessing. Wrong passwords are counted per user and address,
// and per address. They are never counted per user alone, so that nobody can lock out
// a user from elsewhere. Up to a limit a minute they are answered at once; beyond it
// further checks from there wait until older failures are a minute old. How many wait
// is bounded, and how long.
//
// A check counts from before it starts until it is found right, so that guesses made
// at the same time do not get past the limit together.
type throttle struct {
	now func() time.Time
	// limits of failures a minute, for one user from one address and for an address
	userLimit, addressLimit int

	mu       sync.Mutex
	counters *lru[source, *counter] // strangers fill it
	queued   int
}

// source is what failures are counted for. The user is empty for all of a network.
type source struct {
	user    string
	network netip.Prefix
}

// counter counts the failures of one source.
type counter struct {
	limit    int
	failures []time.Time // within the last minute, oldest first; never more than limit
	running  int         // checks that are admitted and not finished
	checks   int         // that refer to this counter; it is not forgotten meanwhile
	queue    []*check    // waiting to be admitted, first come first served; of networks only
}

// wait returns how long it takes until there is room for a check, 0 if there is room
// now. Where running checks alone fill the counter, any of them may make room soon.
func (c *counter) wait(now time.Time) time.Duration {
	old := 0
	for old < len(c.failures) && !now.Before(c.failures[old].Add(failureWindow)) {
		old++
	}
	c.failures = slices.Delete(c.failures, 0, old)
	switch {
	case len(c.failures)+c.running < c.limit:
		return 0
	case len(c.failures) == 0:
		return time.Second
	}
	return c.failures[0].Add(failureWindow).Sub(now)
}

// check is one password check. It is counted for its user at its address, and for
// its address.
type check struct {
	user, address *counter
	admitted      chan struct{} // closed on admission
}

func (c *check) wait(now time.Time) time.Duration {
	return max(c.user.wait(now), c.address.wait(now))
}

func (c *check) isAdmitted() bool {
	select {
	case <-c.admitted:
		return true
	default:
		return false
	}
}

func (c *check) fail(now time.Time) {
	c.user.failures = append(c.user.failures, now)
	c.address.failures = append(c.address.failures, now)
}

func newThrottle(cfg Config) *throttle {
	return &throttle{
		now:          cfg.Now,
		userLimit:    cfg.UserFailures,
		addressLimit: cfg.AddressFailures,
		counters:     newLRU[source](maxCounters, func(c *counter) bool { return c.checks > 0 }),
	}
}

// admit returns once the check may run; the caller has to finish it. Otherwise the
// error is csr.Busy, with the time until it is worth trying again.
func (t *throttle) admit(user string, from netip.Prefix) (*check, error) {
	c, err := t.enqueue(user, from)
	if err != nil {
		return nil, err
	}
	// A check that cannot be admitted in time waits nevertheless: so a guesser has
	// no more attempts than there are places in the queue.
	deadline := time.Now().Add(throttleWait)
	for {
		left := time.Until(deadline)
		wait, err := t.poll(c, left)
		if err != nil {
			return nil, err
		}
		if wait == 0 {
			return c, nil
		}
		timer := time.NewTimer(min(wait, left))
		select {
		case <-c.admitted:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// finish ends an admitted check. A wrong one counts for a minute, any other makes
// room for the next in the queue.
func (t *throttle) finish(c *check, wrong bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.user.running--
	c.address.running--
	now := t.now()
	if wrong {
		c.fail(now)
	}
	t.drop(c)
	t.admitQueued(c.address, now)
}

// countFailure counts a wrong password that had no check of its own, because another
// request from the same address sent the same one at the same time. Beyond the limit
// the error is that of admit.
func (t *throttle) countFailure(user string, from netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.newCheck(user, from)
	defer t.drop(c)
	now := t.now()
	if wait := c.wait(now); wait > 0 {
		return throttledFor(wait)
	}
	c.fail(now)
	return nil
}

// enqueue admits a check or puts it into the queue. It refuses one that would have to
// wait where too many do.
func (t *throttle) enqueue(user string, from netip.Prefix) (*check, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.newCheck(user, from)
	c.address.queue = append(c.address.queue, c)
	t.queued++
	now := t.now()
	t.admitQueued(c.address, now)
	if wait := c.wait(now); !c.isAdmitted() && (len(c.address.queue) > maxQueue || t.queued > maxQueued) {
		t.leave(c)
		return nil, throttledFor(wait)
	}
	return c, nil
}

// poll returns how long a check has to wait yet, 0 when it is admitted. A check with
// no time left leaves the queue with an error.
func (t *throttle) poll(c *check, left time.Duration) (time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.admitQueued(c.address, now)
	if c.isAdmitted() {
		return 0, nil
	}
	wait := c.wait(now)
	if left <= 0 {
		t.leave(c)
		return 0, throttledFor(wait)
	}
	return wait, nil
}

// admitQueued admits the checks for which there is room, first come first served. One
// whose own user has no room does not hold up those behind it.
func (t *throttle) admitQueued(address *counter, now time.Time) {
	address.queue = slices.DeleteFunc(address.queue, func(c *check) bool {
		if c.wait(now) > 0 {
			return false
		}
		c.user.running++
		c.address.running++
		t.queued--
		close(c.admitted)
		return true
	})
}

// leave takes a check out of the queue.
func (t *throttle) leave(c *check) {
	c.address.queue = slices.DeleteFunc(c.address.queue, func(other *check) bool { return other == c })
	t.queued--
	t.drop(c)
}

// newCheck returns a check that has to be dropped.
func (t *throttle) newCheck(user string, from netip.Prefix) *check {
	return &check{
		user:     t.counterOf(source{user, from}, t.userLimit),
		address:  t.counterOf(source{"", from}, t.addressLimit),
		admitted: make(chan struct{}),
	}
}

func (t *throttle) drop(c *check) {
	c.user.checks--
	c.address.checks--
}

// counterOf returns the counter of a source, for one check more.
func (t *throttle) counterOf(of source, limit int) *counter {
	found, ok := t.counters.get(of)
	if !ok {
		found = &counter{limit: limit}
		t.counters.put(of, found)
	}
	found.checks++
	return found
}

func throttledFor(wait time.Duration) error {
	return &csr.Error{Kind: csr.Busy, RetryAfter: atLeastOneSecond(wait), Err: errThrottled}
}

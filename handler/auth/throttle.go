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
	failureWindow   = time.Minute
	throttleWait    = 5 * time.Second // how long a check waits for its turn
	maxQueue        = 64              // checks that wait, per address
	maxQueued       = 1024            // and in all
	maxTallies      = 8192            // a full one is about 1 kB
	ipv6NetworkBits = 64              // what one subscriber has at least
)

var errThrottled = errors.New("too many wrong passwords from this address")

// throttle slows down guessing. Wrong passwords are counted per user and address
// and per address, never per user alone, so that nobody can lock out a user from
// elsewhere. Up to a limit a minute they are answered at once; beyond it further
// checks from there wait for room, a bounded number of them for a bounded time.
//
// A check holds its place in the count from before it starts until it is found
// right, so that guesses made at the same time do not slip past the limit together.
type throttle struct {
	now func() time.Time
	// limits of failures a minute, for one user from one address and for an address
	userLimit, addressLimit int

	mu      sync.Mutex
	tallies *lru[origin, *tally] // strangers fill it: bounded, the least recent go first
	queued  int
}

// origin is what failures are counted for. The user is empty for all of a network.
type origin struct {
	user    string
	network netip.Prefix
}

// NetworkOf is the part of the network that counts as one address: an IPv4
// address, or a /64 of IPv6, any address of which its owner can take. Whatever is
// no address counts as one and the same.
func NetworkOf(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = ipv6NetworkBits
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// tally counts the failures of one origin.
type tally struct {
	limit    int
	failures []time.Time // within the last minute, oldest first; never more than limit
	running  int         // checks admitted whose result is not known
	holders  int         // checks that refer to this tally; it is not forgotten meanwhile
	queue    []*check    // waiting to be admitted, first come first served; of networks only
}

// opensIn returns how long it takes until the tally has room for a check, 0 if it
// has now. Where running checks alone fill it, any of them may make room soon.
func (t *tally) opensIn(now time.Time) time.Duration {
	old := 0
	for old < len(t.failures) && !now.Before(t.failures[old].Add(failureWindow)) {
		old++
	}
	t.failures = slices.Delete(t.failures, 0, old)
	switch {
	case len(t.failures)+t.running < t.limit:
		return 0
	case len(t.failures) == 0:
		return time.Second
	}
	return t.failures[0].Add(failureWindow).Sub(now)
}

// check is one password check, counted for its user at its address and for its
// address. It waits, is admitted and is settled.
type check struct {
	user, address *tally
	admitted      chan struct{} // closed on admission
}

func (c *check) opensIn(now time.Time) time.Duration {
	return max(c.user.opensIn(now), c.address.opensIn(now))
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
		tallies:      newLRU[origin](maxTallies, func(t *tally) bool { return t.holders > 0 }),
	}
}

// admit returns once the check may run; it must be settled then. Otherwise the
// error is csr.Busy, with the time until it is worth trying again.
func (t *throttle) admit(user string, from netip.Prefix) (*check, error) {
	c, err := t.enqueue(user, from)
	if err != nil {
		return nil, err
	}
	// A check that has no hope within its time waits nevertheless: that keeps a
	// guesser to as many attempts as there are places in the queue.
	deadline := time.Now().Add(throttleWait)
	for {
		patience := time.Until(deadline)
		wait, err := t.ask(c, patience)
		if err != nil {
			return nil, err
		}
		if wait == 0 {
			return c, nil
		}
		timer := time.NewTimer(min(wait, patience))
		select {
		case <-c.admitted:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// settle ends an admitted check: one that failed keeps its place in the count for
// a minute, any other leaves it to the next in the queue.
func (t *throttle) settle(c *check, wrong bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.user.running--
	c.address.running--
	now := t.now()
	if wrong {
		c.fail(now)
	}
	t.release(c)
	t.serve(c.address, now)
}

// charge counts a failure that was found without a check of its own, because
// another request from the same address sent the same wrong password at the same
// time. Beyond the limit the error is that of admit.
func (t *throttle) charge(user string, from netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.hold(user, from)
	defer t.release(c)
	now := t.now()
	if wait := c.opensIn(now); wait > 0 {
		return throttledFor(wait)
	}
	c.fail(now)
	return nil
}

// enqueue makes a check wait, or refuses it where it would have to and too many
// do so already.
func (t *throttle) enqueue(user string, from netip.Prefix) (*check, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.hold(user, from)
	c.address.queue = append(c.address.queue, c)
	t.queued++
	now := t.now()
	t.serve(c.address, now)
	// Only now is it known whether c waits: where there is room, a full queue
	// elsewhere is no reason to refuse.
	if wait := c.opensIn(now); !c.isAdmitted() && (len(c.address.queue) > maxQueue || t.queued > maxQueued) {
		t.leave(c)
		return nil, throttledFor(wait)
	}
	return c, nil
}

// ask returns how long a check has to wait yet, 0 when it is admitted. Out of
// patience it leaves the queue with an error.
func (t *throttle) ask(c *check, patience time.Duration) (time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.serve(c.address, now)
	if c.isAdmitted() {
		return 0, nil
	}
	wait := c.opensIn(now)
	if patience <= 0 {
		t.leave(c)
		return 0, throttledFor(wait)
	}
	return wait, nil
}

// serve admits the checks for which there is room, first come first served; one
// whose own user has no room does not hold up those behind it.
func (t *throttle) serve(address *tally, now time.Time) {
	address.queue = slices.DeleteFunc(address.queue, func(c *check) bool {
		if c.opensIn(now) > 0 {
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
	t.release(c)
}

func (t *throttle) hold(user string, from netip.Prefix) *check {
	return &check{
		user:     t.tally(origin{user, from}, t.userLimit),
		address:  t.tally(origin{"", from}, t.addressLimit),
		admitted: make(chan struct{}),
	}
}

func (t *throttle) release(c *check) {
	c.user.holders--
	c.address.holders--
}

// tally returns the tally of an origin, held.
func (t *throttle) tally(of origin, limit int) *tally {
	found, ok := t.tallies.get(of)
	if !ok {
		found = &tally{limit: limit}
		t.tallies.put(of, found)
	}
	found.holders++
	return found
}

func throttledFor(wait time.Duration) error {
	return &csr.Error{Kind: csr.Busy, RetryAfter: atLeastOneSecond(wait), Err: errThrottled}
}

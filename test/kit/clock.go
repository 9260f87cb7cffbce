package kit

import (
	"sync/atomic"
	"time"
)

// Clock is a time that a test moves.
type Clock struct{ ns atomic.Int64 }

// NewClock returns a clock that stands still.
func NewClock() *Clock {
	c := &Clock{}
	c.ns.Store(time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC).UnixNano())
	return c
}

// Now is the time of the clock.
func (c *Clock) Now() time.Time { return time.Unix(0, c.ns.Load()).UTC() }

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) { c.ns.Add(int64(d)) }

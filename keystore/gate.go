package keystore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// gate lets a fixed number of callers generate keys at once and makes the rest
// wait in order of arrival, up to a bound and a deadline. Key generation is pure
// CPU: more of them at once than processors only makes all of them late.
type gate struct {
	places   *semaphore.Weighted // first come, first served
	waiting  atomic.Int64
	bound    int64
	deadline time.Duration
}

func newGate(places, bound int, deadline time.Duration) *gate {
	return &gate{places: semaphore.NewWeighted(int64(places)), bound: int64(bound), deadline: deadline}
}

// enter returns nil once the caller may go on; it then has to leave. The error
// is ErrBusy when the queue is full or the deadline passed, or the context's.
func (g *gate) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if g.places.TryAcquire(1) { // fails while others wait: nobody overtakes
		return nil
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.bound {
		return fmt.Errorf("%w: %d wait already", ErrBusy, g.bound)
	}
	wait, cancel := context.WithTimeout(ctx, g.deadline)
	defer cancel()
	if g.places.Acquire(wait, 1) == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%w: none was free within %s", ErrBusy, g.deadline)
}

func (g *gate) leave() { g.places.Release(1) }

package pool

import (
	"context"
	"slices"
	"time"

	"attestcsr/keystore"
)

// Callers who find no key wait in one queue for all sizes. As many keys as there are
// processors are made for them at once, at normal priority, for those who came first.
//
// A key in the making belongs to nobody. When it is ready, the first who waits for its
// size gets it. So a caller who gives up wastes no key (crypto/rsa cannot be
// interrupted), and a background key that is ready earlier shortens the wait.

// dryLogInterval bounds how often a size may log that no key was ready.
const dryLogInterval = time.Minute

// waiter is a caller who found no key.
type waiter struct {
	size   *size
	served chan outcome // gets one, and has room for it, when the waiter leaves the queue
}

type outcome struct {
	key keystore.Key
	err error
}

// miss waits for a key. It is called with the lock held and releases it.
func (p *Pool) miss(ctx context.Context, s *size) (keystore.Key, error) {
	dry := s.full && time.Since(s.dryAt) >= dryLogInterval
	if dry {
		s.dryAt = time.Now()
	}
	w, err := p.enqueue(s)
	p.mu.Unlock()
	s.misses.Inc()
	if dry {
		p.log.WarnContext(ctx, "key pool ran dry: callers wait while their key is made", "size", s.spec.Bits)
	}
	if err != nil {
		p.metrics.shed.WithLabelValues(shedQueueFull).Inc()
		return nil, err
	}
	begun := time.Now()
	key, err := p.await(ctx, w)
	if err == nil {
		p.metrics.wait.Observe(time.Since(begun).Seconds())
	}
	return key, err
}

// enqueue makes the caller wait for a key of that size, unless too many wait.
func (p *Pool) enqueue(s *size) (*waiter, error) {
	if len(p.queue) >= p.queueBound+p.procs.count {
		return nil, p.busy("the queue is full")
	}
	w := &waiter{size: s, served: make(chan outcome, 1)}
	p.queue = append(p.queue, w)
	for s := p.nextMiss(); s != nil; s = p.nextMiss() {
		p.tasks.Go(func() { p.serveMisses(s) })
	}
	return w, nil
}

// serve takes the first who waits for that size out of the queue and gives him the
// outcome. It reports whether there was one.
func (p *Pool) serve(s *size, o outcome) bool {
	i := slices.IndexFunc(p.queue, func(w *waiter) bool { return w.size == s })
	if i < 0 {
		return false
	}
	p.queue[i].served <- o
	p.queue = slices.Delete(p.queue, i, i+1)
	return true
}

// await returns when the waiter is served, gives up, or has waited too long.
func (p *Pool) await(ctx context.Context, w *waiter) (keystore.Key, error) {
	deadline := time.NewTimer(p.queueDeadline)
	defer deadline.Stop()
	select {
	case o := <-w.served:
		return o.key, o.err
	case <-ctx.Done():
	case <-deadline.C:
	}
	p.mu.Lock()
	i := slices.Index(p.queue, w)
	if i < 0 { // served at the last moment
		p.mu.Unlock()
		o := <-w.served
		return o.key, o.err
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	busy := p.busy("none was ready within " + p.queueDeadline.String())
	p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.metrics.shed.WithLabelValues(shedDeadline).Inc()
	return nil, busy
}

// nextMiss finds the first waiter for whom no key is in the making, counts a key of that
// size as begun, and returns the size. It returns nil if there is no such waiter or no
// processor is free.
func (p *Pool) nextMiss() *size {
	if p.foreground >= p.procs.count {
		return nil
	}
	waiting := map[*size]int{}
	for _, w := range p.queue {
		waiting[w.size]++
		if waiting[w.size] > w.size.foreground {
			w.size.foreground++
			p.foreground++
			return w.size
		}
	}
	return nil
}

// serveMisses makes a key of that size, and then whatever is next, until nobody waits.
// An error goes to the first who waits for that size.
func (p *Pool) serveMisses(s *size) {
	for s != nil {
		key, took, err := p.generate(p.life, s.spec, nil)
		var surplus keystore.Key
		p.mu.Lock()
		s.foreground--
		p.foreground--
		if err == nil {
			s.measured(took)
			surplus = p.handOver(s, key)
		} else {
			p.serve(s, outcome{err: err})
		}
		s = p.nextMiss()
		p.mu.Unlock()
		if s == nil {
			p.work.Broadcast() // a processor is free for the background
		}
		p.discard(surplus)
	}
}

// measured takes the time of a foreground key into the average.
func (s *size) measured(took time.Duration) {
	if s.took == 0 {
		s.took = took
	}
	s.took += (took - s.took) / 8
}

// busy is the error for a caller who is turned away. Its RetryAfter estimates, from the
// time that keys took lately, when all who wait now are served. Nobody waits longer than
// the deadline.
func (p *Pool) busy(reason string) error {
	var work time.Duration
	for _, w := range p.queue {
		work += w.size.took
	}
	after := min(work/time.Duration(p.procs.count), p.queueDeadline)
	return &keystore.BusyError{Reason: reason, RetryAfter: max(after, time.Second)}
}

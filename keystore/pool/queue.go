package pool

import (
	"context"
	"slices"
	"time"

	"attestcsr/keystore"
)

// waiter is a caller who found no key.
type waiter struct {
	arrival uint64
	// served is given exactly one outcome when the waiter is taken out of the
	// queue; it has room for it.
	served chan outcome
}

type outcome struct {
	key keystore.Key
	err error
}

// size returns the state of a size. One without a target gets its state when it
// is asked for first; the sizes that are allowed above are few.
func (p *Pool) size(bits int) *size {
	s := p.sizes[bits]
	if s == nil {
		s = newSize(bits, 0, 0, p.now())
		s.hits, s.misses = p.metrics.of(0)
		p.sizes[bits] = s
	}
	return s
}

// miss is called with the lock held and releases it. It waits for a key.
func (p *Pool) miss(ctx context.Context, s *size) (keystore.Key, error) {
	dry := s.ranDry(p.now())
	w, err := p.enqueue(s)
	p.mu.Unlock()
	p.work.Broadcast() // the target may have been raised
	s.misses.Inc()
	if dry {
		p.log.WarnContext(ctx, "key pool ran dry: callers wait while their key is made", "size", s.spec.Bits)
	}
	if err != nil {
		p.metrics.shed.WithLabelValues(shedQueueFull).Inc()
		return nil, err
	}
	start := time.Now()
	key, err := p.await(ctx, s, w)
	if err == nil {
		p.metrics.wait.Observe(time.Since(start).Seconds())
	}
	return key, err
}

// enqueue makes the caller wait for a key of that size, unless too many do.
func (p *Pool) enqueue(s *size) (*waiter, error) {
	if p.waiting >= p.queueBound+p.processors {
		return nil, p.busy("the queue is full")
	}
	p.arrivals++
	w := &waiter{arrival: p.arrivals, served: make(chan outcome, 1)}
	s.waiters = append(s.waiters, w)
	p.waiting++
	p.startMisses()
	return w, nil
}

// dequeue takes out the first who waits for a key of that size and serves him.
func (p *Pool) dequeue(s *size, o outcome) {
	first := s.waiters[0]
	s.waiters = slices.Delete(s.waiters, 0, 1)
	p.waiting--
	first.served <- o
}

// await returns when the waiter is served, gives up, or has waited too long.
func (p *Pool) await(ctx context.Context, s *size, w *waiter) (keystore.Key, error) {
	deadline := time.NewTimer(p.queueDeadline)
	defer deadline.Stop()
	select {
	case o := <-w.served:
		return o.key, o.err
	case <-ctx.Done():
		p.leave(s, w)
		return nil, ctx.Err()
	case <-deadline.C:
	}
	p.mu.Lock()
	late := p.remove(s, w)
	busy := p.busy("none was ready within " + p.queueDeadline.String())
	p.mu.Unlock()
	if !late { // served at the last moment
		o := <-w.served
		return o.key, o.err
	}
	p.metrics.shed.WithLabelValues(shedDeadline).Inc()
	return nil, busy
}

// leave is for a caller who gives up. If he was served at that very moment, the
// key, which he never saw, goes to the next or into the pool.
func (p *Pool) leave(s *size, w *waiter) {
	var after aftermath
	p.mu.Lock()
	if !p.remove(s, w) {
		if o := <-w.served; o.key != nil {
			after = p.handOver(s, o.key)
		}
	}
	p.mu.Unlock()
	p.finish(after)
}

// remove takes a waiter out of the queue, unless he was served before. If a key
// was in the making for him, it is now for the next who waits for that size.
func (p *Pool) remove(s *size, w *waiter) bool {
	i := slices.Index(s.waiters, w)
	if i < 0 {
		return false
	}
	s.waiters = slices.Delete(s.waiters, i, i+1)
	p.waiting--
	return true
}

// aftermath is what remains to be done once the lock is released.
type aftermath struct {
	unused []keystore.Key // to be discarded
	full   int            // the size, in bits, that is to be said to be full
}

// handOver gives a key that is ready to the first who waits for its size, or else
// puts it into the pool. Only where that has no room for it is it discarded.
func (p *Pool) handOver(s *size, made keystore.Key) aftermath {
	if len(s.waiters) > 0 {
		p.dequeue(s, outcome{key: made})
		return aftermath{}
	}
	if p.closed || !s.store(made) {
		return aftermath{unused: []keystore.Key{made}}
	}
	if !s.full || s.warm && !s.saidDry {
		return aftermath{}
	}
	s.saidDry = false
	if !s.warm {
		s.warm = true
		p.cold--
		if p.cold == 0 {
			close(p.warm)
		}
	}
	return aftermath{full: s.spec.Bits}
}

func (p *Pool) finish(a aftermath) {
	if a.full > 0 {
		p.log.Info("key pool is full", "size", a.full)
	}
	if err := discard(a.unused); err != nil {
		p.log.Error("a key that was not used could not be discarded", "error", err)
	}
}

// startMisses has keys made for those who came first, as long as a processor is
// free for it.
func (p *Pool) startMisses() {
	for s := p.nextMiss(); s != nil; s = p.nextMiss() {
		p.tasks.Go(func() { p.serveMisses(s) })
	}
}

// nextMiss takes a free processor for the first caller who has no key in the
// making, and returns the size that he waits for; nil if there is neither.
func (p *Pool) nextMiss() *size {
	if p.foreground >= p.processors {
		return nil
	}
	var next *size
	for _, s := range p.sizes {
		if s.making < len(s.waiters) && (next == nil || s.waiters[s.making].arrival < next.waiters[next.making].arrival) {
			next = s
		}
	}
	if next != nil {
		next.making++
		p.foreground++
	}
	return next
}

// serveMisses makes a key of that size, and then for whoever is next, until
// nobody waits.
func (p *Pool) serveMisses(s *size) {
	for s != nil {
		key, took, err := p.generate(p.life, s.spec, foreground)
		var after aftermath
		p.mu.Lock()
		s.making--
		p.foreground--
		switch {
		case err == nil:
			s.measured(took)
			after = p.handOver(s, key)
		case len(s.waiters) > 0:
			p.dequeue(s, outcome{err: err})
			err = nil
		}
		spec := s.spec
		s = p.nextMiss()
		p.mu.Unlock()
		if s == nil {
			p.work.Broadcast() // a processor is free for the background
		}
		p.finish(after)
		if err != nil && p.life.Err() == nil {
			p.log.Error("a key that nobody waits for any more could not be made", "key", spec.String(), "error", err)
		}
	}
}

// busy is the error for those who cannot wait, or not any longer. Trying again
// makes sense once those who wait now are served, going by the time that keys
// take at present; after the deadline none of them waits in any case.
func (p *Pool) busy(reason string) error {
	var work time.Duration
	for _, s := range p.sizes {
		work += time.Duration(len(s.waiters)) * s.took
	}
	after := min(work/time.Duration(p.processors), p.queueDeadline)
	return &keystore.BusyError{Reason: reason, RetryAfter: max(after, time.Second)}
}

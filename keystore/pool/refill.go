package pool

import (
	"time"

	"attestcsr/keystore"
)

// restTime is the pause of a worker after a key that could not be made.
const restTime = time.Second

// startWorkers starts n workers; 0: as many as procs.workers says.
func (p *Pool) startWorkers(n int) {
	threads := []*thread{startThread(&p.tasks)}
	idle := threads[0].idle
	if n <= 0 {
		n = p.procs.workers(idle)
	}
	for len(threads) < n {
		threads = append(threads, startThread(&p.tasks))
	}
	p.procs.allowed = n
	p.log.Debug("key pool refills in the background", "workers", n, "idle_priority", idle)
	for _, t := range threads {
		p.tasks.Go(func() { p.refill(t) })
	}
}

// refill is a worker. Only the custodian runs on its thread. An idle thread may wait long
// for a processor, so it must not hold a lock that requests need.
func (p *Pool) refill(t *thread) {
	defer t.end()
	for s := p.nextRefill(); s != nil; s = p.nextRefill() {
		p.fill(t, s)
	}
}

// nextRefill waits until a size is below its target, and returns it with a key counted
// as begun. It returns nil once the pool is closed.
//
// While keys for the queue are made on every processor, the background begins none. Its
// thread would get almost no time. It would also delay the garbage collector, which
// waits until each thread has stopped, and a thread needs a processor to stop.
func (p *Pool) nextRefill() *size {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; !p.closed; p.work.Wait() {
		if p.foreground >= p.procs.count {
			continue
		}
		if s := p.belowTarget(); s != nil {
			p.turns++
			s.turn = p.turns
			s.background++
			return s
		}
	}
	return nil
}

// belowTarget returns the size below its target whose turn was longest ago. At the
// start one key of each is made first, and a size under heavy use does not keep the
// others from being filled.
func (p *Pool) belowTarget() *size {
	var next *size
	for _, s := range p.pooled {
		if len(s.ready)+s.background < s.target && (next == nil || s.turn < next.turn) {
			next = s
		}
	}
	return next
}

// fill has a key of that size made on the thread. A failure is logged once, until one
// succeeds, and the worker pauses.
func (p *Pool) fill(t *thread, s *size) {
	key, _, err := p.generate(p.life, s.spec, t)
	var surplus keystore.Key
	p.mu.Lock()
	s.background--
	failedBefore := s.failing
	s.failing = err != nil
	if err == nil {
		surplus = p.handOver(s, key)
	}
	p.mu.Unlock()
	p.discard(surplus)
	if err == nil {
		return
	}
	if !failedBefore && p.life.Err() == nil {
		p.log.Error("key pool cannot be refilled", "size", s.spec.Bits, "error", err)
	}
	select {
	case <-time.After(restTime):
	case <-p.life.Done():
	}
}

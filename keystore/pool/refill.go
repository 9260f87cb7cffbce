package pool

import (
	"time"
)

// maxRest bounds the pause after background generations that failed.
const maxRest = time.Minute

// startWorkers starts n workers, or as many as suit the priority that a thread
// can be given here.
func (p *Pool) startWorkers(n int) {
	threads := []*thread{startThread(&p.tasks)}
	if n <= 0 {
		n = p.places.workers(threads[0].priority)
	}
	for len(threads) < n {
		threads = append(threads, startThread(&p.tasks))
	}
	p.workers = n
	p.places.open(n)
	p.log.Debug("key pool refills in the background", "workers", n, "priority", threads[0].priority.String())
	for _, t := range threads {
		p.tasks.Go(func() { p.refill(t) })
	}
}

// refill is a worker. Only the making of keys runs on its thread: a thread that the system lets wait for a processor must not hold the pool's lock or
// the logger's meanwhile.
func (p *Pool) refill(t *thread) {
	defer t.end()
	for s := p.nextSize(); s != nil; s = p.nextSize() {
		p.fill(t, s)
	}
}

// fill has a key of that size made and puts it where it belongs.
func (p *Pool) fill(t *thread, s *size) {
	var made outcome
	t.run(func() { made.key, _, made.err = p.generate(p.life, s.spec, background) })
	var after aftermath
	var rest time.Duration
	p.mu.Lock()
	s.filling--
	p.background--
	if made.err != nil {
		rest = p.rest(s)
	} else {
		s.failures = 0
		after = p.handOver(s, made.key)
	}
	first := s.failures == 1
	p.mu.Unlock()
	p.finish(after)
	if first && p.life.Err() == nil {
		p.log.Error("key pool cannot be refilled", "size", s.spec.Bits, "retry_after", rest.String(), "error", made.err)
	}
}

// nextSize waits until there is a key to be made and returns its size. It returns nil
// once the pool is closed.
//
// It is the turn of the size below its target whose turn was longest ago: at the start one key of each is made first, and a size under heavy use does not
// keep the others from being filled.
//
// While a key is made on every processor for those who wait, nothing is begun here.
// It would get next to no time, and hold up the garbage collector, which has to
// wait until each thread has been given a processor to stop on.
func (p *Pool) nextSize() *size {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; !p.closed; p.work.Wait() {
		if p.foreground >= p.processors || p.background >= p.allowed() {
			continue
		}
		var next *size
		for _, s := range p.pooled {
			if !s.resting && len(s.ready)+s.filling < s.target && (next == nil || s.turn < next.turn) {
				next = s
			}
		}
		if next != nil {
			next.filling++
			p.background++
			p.turns++
			next.turn = p.turns
			return next
		}
	}
	return nil
}

// allowed returns how many keys may be made in the background now. In a rush, whose
// end wakes the workers, it is one fewer than there are workers, and at least one.
func (p *Pool) allowed() int {
	left := time.Until(p.rush.until)
	if left <= 0 {
		return p.workers
	}
	p.rush.over.Reset(left)
	return max(1, p.workers-1)
}

// rush tells when keys are taken in quick succession.
//
// A processor that runs an idle thread counts as one that has something to do. The
// kernel then does not fetch what waits for another processor, as it does for one
// that would sleep, and requests lie behind each other in one queue until the next
// regular balancing, for milliseconds. In a rush one processor is therefore left
// without an idle thread. What was begun before goes on: it cannot be interrupted.
type rush struct {
	last  time.Time // when a key was taken
	until time.Time // when it ends, unless another is taken
	over  *time.Timer
}

// rushGap is how soon the next key has to be taken for a rush to begin or go on. One
// client that sends its next request when it has an answer makes a rush, and fifty
// requests a second that come evenly do not.
const rushGap = 10 * time.Millisecond

func (r *rush) taken(now time.Time) {
	if end := now.Add(rushGap); now.Sub(r.last) < rushGap && end.After(r.until) {
		r.until = end
	}
	r.last = now
}

// rest keeps workers from a size that cannot be made just now: for a second, and
// twice as long after each further failure.
func (p *Pool) rest(s *size) time.Duration {
	pause := min(time.Second<<min(s.failures, 6), maxRest)
	s.failures++
	s.resting = true
	time.AfterFunc(pause, func() { // after Close it does no harm
		p.mu.Lock()
		s.resting = false
		p.mu.Unlock()
		p.work.Broadcast()
	})
	return pause
}

// tend adapts the targets to demand and the places to the processors there are.
func (p *Pool) tend() {
	ticker := time.NewTicker(tendInterval)
	defer ticker.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-ticker.C:
			p.adapt()
			p.follow()
		}
	}
}

// adapt ends the windows of demand that are over.
func (p *Pool) adapt() {
	var after aftermath
	now := p.now()
	p.mu.Lock()
	for _, s := range p.pooled {
		after.unused = append(after.unused, s.adapt(now)...)
	}
	p.mu.Unlock()
	p.finish(after)
}

// follow takes up a change of the processors that a cgroup or an affinity mask
// leaves to this process.
func (p *Pool) follow() {
	processors := p.places.follow()
	p.mu.Lock()
	p.processors = processors
	p.startMisses()
	p.mu.Unlock()
}

// Package pool makes RSA keys before anyone asks for them.
//
// Making an RSA key is nearly all of what a certification request costs. A Pool is a
// keystore.Custodian around another one. It keeps a fixed number of fresh keys of each
// size ready, hands each of them out once, and makes the next in the background.
//
// Keys that wait are in memory only, and in no backup. The kernel may write memory to
// swap. They belong to no slot and sign nothing until somebody has taken them. A key
// takes about 5.5 kB of heap for 2048 bits and 7 kB for 4096. A key that is dropped is
// not wiped: crypto/rsa and the garbage collector make copies that we cannot reach.
//
// A caller who finds no key waits in one queue, first come, first served (queue.go).
// Workers at the lowest priority refill the pool (refill.go, thread.go, procs.go).
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
)

// Options says what a Pool is made of.
type Options struct {
	// Custodian makes and keeps the keys. The Pool closes it.
	Custodian keystore.Custodian
	// Targets is how many keys of each RSA modulus length in bits are kept ready, at
	// least one. Empty: the pool is off, and every caller waits for an RSA key.
	Targets map[int]int
	// Workers is how many keys are made at once in the background. By default as many
	// as there are processors; one fewer, but at least one, where workers would take
	// time from requests (see workers).
	Workers int
	// Processors is how many keys are made at once for those who wait. By default
	// GOMAXPROCS, as the runtime sets it.
	Processors int
	// QueueBound is how many callers may wait beside those whose key is in the making.
	QueueBound int
	// QueueDeadline is how long a caller waits for a key at most.
	QueueDeadline time.Duration

	Logger *slog.Logger
}

// custodian makes the keys. A Pool passes all calls on to it except Generate and Close.
type custodian = keystore.Custodian

// Pool is a keystore.Custodian that has RSA keys ready. It changes GOMAXPROCS: a
// process has one Pool at a time.
type Pool struct {
	custodian
	log           *slog.Logger
	queueBound    int
	queueDeadline time.Duration
	procs         *procs
	metrics       metrics

	life  context.Context // ends with Close
	tasks sync.WaitGroup
	close func() error

	mu         sync.Mutex // never held while a key is made, discarded or logged about
	work       *sync.Cond // there may be a key to be made, or the pool is closed
	closed     bool
	sizes      map[int]*size // by bits; also those without a target
	pooled     []*size       // those with a target, in ascending order
	turns      uint64        // keys begun in the background
	queue      []*waiter     // in order of arrival
	foreground int           // keys in the making for those who wait
}

// size is everything about one size of key. Pool.mu guards it.
type size struct {
	spec         keystore.KeySpec
	target       int // how many keys are kept ready; 0: none
	hits, misses prometheus.Counter

	ready []keystore.Key // the oldest first
	full  bool           // the target was reached once
	dryAt time.Time      // when it was last logged that no key was ready

	foreground int           // keys in the making for those who wait
	took       time.Duration // moving average of what such a key takes; 0: none yet

	background int    // keys in the making for the pool
	turn       uint64 // when the last of them was begun
	failing    bool   // the last of them failed
}

var _ keystore.Custodian = (*Pool)(nil)

// New starts a Pool, which owns the custodian from then on.
func New(o Options) *Pool {
	life, end := context.WithCancel(context.Background())
	p := &Pool{
		custodian: o.Custodian, log: o.Logger,
		queueBound: o.QueueBound, queueDeadline: o.QueueDeadline,
		procs: newProcs(o.Processors), metrics: newMetrics(),
		life: life, sizes: map[int]*size{},
	}
	p.close = sync.OnceValue(func() error { return p.shutDown(end) })
	p.work = sync.NewCond(&p.mu)
	for _, bits := range slices.Sorted(maps.Keys(o.Targets)) {
		p.pooled = append(p.pooled, p.addSize(bits, o.Targets[bits]))
	}
	if len(p.pooled) > 0 {
		p.startWorkers(o.Workers)
	}
	return p
}

func (p *Pool) addSize(bits, target int) *size {
	s := &size{spec: keystore.KeySpec{Algorithm: keystore.RSA, Bits: bits}, target: target}
	s.hits, s.misses = p.metrics.of(s)
	p.sizes[bits] = s
	return s
}

// size returns the state of a size. The first request for a size without a target adds
// it; the layer above allows few sizes.
func (p *Pool) size(bits int) *size {
	if s := p.sizes[bits]; s != nil {
		return s
	}
	return p.addSize(bits, 0)
}

// Generate returns a key that was ready, or waits for one. Errors beside the
// custodian's: *keystore.BusyError beyond the bounds of the queue,
// keystore.ErrUnavailable once the pool is closed, and that of ctx. EC keys are
// fast to make: they are made at once, without the pool.
func (p *Pool) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if spec.Algorithm != keystore.RSA {
		key, _, err := p.generate(ctx, spec, nil)
		return key, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed()
	}
	s := p.size(spec.Bits)
	if len(s.ready) == 0 {
		return p.miss(ctx, s)
	}
	key := s.ready[0]
	s.ready = slices.Delete(s.ready, 0, 1)
	p.mu.Unlock()
	p.work.Signal()
	s.hits.Inc()
	p.metrics.wait.Observe(0)
	return key, nil
}

// handOver gives a key to the first who waits for its size, or else puts it among the
// ready ones. If the target is reached, or the pool is closed, it returns the key: the
// caller discards it when the lock is released.
func (p *Pool) handOver(s *size, key keystore.Key) (surplus keystore.Key) {
	if p.serve(s, outcome{key: key}) {
		return nil
	}
	if p.closed || len(s.ready) >= s.target {
		return key
	}
	s.ready = append(s.ready, key)
	s.full = s.full || len(s.ready) == s.target
	return nil
}

// discard gives up a key that nobody had; nil: there is none.
func (p *Pool) discard(surplus keystore.Key) {
	if surplus == nil {
		return
	}
	if err := surplus.Discard(); err != nil {
		p.log.Error("a key that was not used could not be discarded", "error", err)
	}
}

// Ready returns an error that says what is missing until every target was reached once.
// Then it returns nil for good: requests can be served while the pool refills.
func (p *Pool) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []error
	for _, s := range p.pooled {
		if !s.full {
			missing = append(missing, fmt.Errorf("key pool: %d of %d keys of %s are ready", len(s.ready), s.target, s.spec))
		}
	}
	return errors.Join(missing...)
}

// Close turns away those who wait, discards the keys that are ready, and closes the
// custodian. It waits for keys in the making, which cannot be interrupted: for RSA 4096
// a second or two.
func (p *Pool) Close() error { return p.close() }

func (p *Pool) shutDown(end context.CancelFunc) error {
	p.mu.Lock()
	p.closed = true
	for _, w := range p.queue {
		w.served <- outcome{err: errClosed()}
	}
	p.queue = nil
	var unused []keystore.Key
	for _, s := range p.pooled {
		unused = append(unused, s.ready...)
		s.ready = nil
	}
	p.mu.Unlock()
	end()
	p.work.Broadcast()
	var errs []error
	for _, key := range unused {
		errs = append(errs, key.Discard())
	}
	p.tasks.Wait()
	p.procs.close()
	return errors.Join(errors.Join(errs...), p.custodian.Close())
}

func errClosed() error {
	return fmt.Errorf("%w: the key pool is closed", keystore.ErrUnavailable)
}

// generate makes a key and returns how long that took. A key for the background is made
// on the thread t; a key that somebody waits for is made here, and t is nil.
func (p *Pool) generate(ctx context.Context, spec keystore.KeySpec, t *thread) (key keystore.Key, took time.Duration, err error) {
	from, run := foreground, func(f func()) { f() }
	if t != nil {
		from, run = background, t.run
	}
	if spec.Algorithm == keystore.RSA {
		p.procs.begin()
		defer p.procs.end()
	}
	start := time.Now()
	run(func() { key, err = p.custodian.Generate(ctx, spec) })
	took = time.Since(start)
	if err == nil {
		p.metrics.generated(spec, from, took)
	}
	return key, took, err
}

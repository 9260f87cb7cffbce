// Package pool makes RSA keys before anyone asks for them.
//
// Making an RSA key is nearly all of what a certification request costs. A Pool
// is a keystore.Custodian around another one: it keeps a number of fresh keys of
// each size ready, hands each of them out once, and makes the next in the
// background without slowing down what happens in the foreground. Keys wait in
// memory only, so that a key in the pool is on no disk and in no backup; it
// belongs to no slot until it is bound. Everything but Generate goes straight to
// the custodian behind.
//
// # Misses
//
// Who finds no key waits in one queue for all sizes. As many keys as there are
// processors are made for that queue at once, at normal priority, for those who
// came first. A key in the making belongs to nobody: it goes to the first who
// waits for its size when it is ready, so that a caller who gives up wastes
// nothing (crypto/rsa cannot be interrupted), and a key that the background had
// ready earlier shortens the wait. The queue is bounded in length and in time;
// beyond that the error is a *keystore.BusyError.
//
// # Background
//
// Workers make keys on operating system threads of their own, under SCHED_IDLE:
// such a thread runs when nothing else wants the processor. Each takes a place
// among the GOMAXPROCS goroutines that run at once, and one that is waiting for a
// processor gives its place to nobody; the Pool therefore raises GOMAXPROCS while keys are
// made. See places.
//
// While keys are taken one right after the other, one worker stays away: where an
// idle thread runs, the kernel does not look for work that waits for another
// processor. See rush.
//
// The idle threads give way to every other process too. The garbage collector
// has to wait until each of them has stopped, so that where others of the same
// cgroup take all processors for long, requests are slower while the pool is
// filled. Processes in other cgroups, such as containers, compete as groups, which
// leaves this one its share.
//
// # Memory
//
// A key that waits takes about 5.5 kB of heap for 2048 bits and 7 kB for 4096.
// Dropping a key means dropping the references to it: crypto/rsa and the
// garbage collector keep copies that nobody can wipe.
package pool

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"attestcsr/keystore"
)

// Options says what a Pool is made of. Zero values mean the defaults.
type Options struct {
	// Custodian makes and keeps the keys. The Pool closes it.
	Custodian keystore.Custodian
	// Targets is how many keys of each RSA modulus length in bits are to be
	// ready, at least one. Without any the pool is off: every RSA key is a miss.
	Targets map[int]int
	// Max is how many keys of one size are ready at most, however large the
	// bursts; at least the largest target. Default 256, or the largest target.
	Max int
	// Workers is how many keys are made at once in the background. Default: as
	// many as processors, or one fewer (but one) where the workers cannot be kept
	// from taking time from requests: without SCHED_IDLE, with GOMAXPROCS set in
	// the environment, and under a cgroup's quota, which idle threads use up too.
	Workers int
	// Processors is how many keys are made at once for those who wait. Default
	// GOMAXPROCS as found, and then as the runtime would set it when a cgroup's
	// limit changes.
	Processors int
	// QueueBound is how many callers may wait beside those whose key is in the
	// making; default 256.
	QueueBound int
	// QueueDeadline is how long a caller waits for a key at most; default 30 s.
	QueueDeadline time.Duration

	Logger *slog.Logger     // nil discards
	Now    func() time.Time // what the windows of demand are measured with; default time.Now
}

const (
	defaultMax           = 256
	defaultQueueBound    = 256
	defaultQueueDeadline = 30 * time.Second
	// tendInterval is how often targets and the processor limit are looked at.
	tendInterval = time.Minute
)

// Pool is a keystore.Custodian that has RSA keys ready. It changes GOMAXPROCS:
// a process has one of them at a time.
type Pool struct {
	custodian     keystore.Custodian
	log           *slog.Logger
	now           func() time.Time
	queueBound    int
	queueDeadline time.Duration
	places        *places
	metrics       metrics

	life  context.Context // ends with Close
	tasks sync.WaitGroup
	warm  chan struct{} // closed once every size was full
	close func() error

	mu         sync.Mutex // never held while a key is made, discarded or logged about
	work       *sync.Cond // there may be something to refill, or the pool is closed
	closed     bool
	sizes      map[int]*size // by bits; also those without a target
	pooled     []*size       // those with a target, in ascending order
	cold       int           // how many of them were never full
	turns      uint64        // background generations begun
	arrivals   uint64        // callers who had to wait
	waiting    int           // callers who wait now
	processors int
	foreground int // keys in the making for those who wait
	background int // keys in the making in the background
	workers    int // who make them
	rush       rush
}

var _ keystore.Custodian = (*Pool)(nil)

// New starts a Pool, which owns the custodian from then on, also when New fails.
func New(o Options) (*Pool, error) {
	if err := o.validate(); err != nil {
		return nil, errors.Join(err, o.Custodian.Close())
	}
	o.setDefaults()
	life, end := context.WithCancel(context.Background())
	p := &Pool{
		custodian: o.Custodian, log: o.Logger, now: o.Now,
		queueBound: o.QueueBound, queueDeadline: o.QueueDeadline,
		places: newPlaces(o.Processors), metrics: newMetrics(),
		life: life, warm: make(chan struct{}),
		sizes: map[int]*size{},
	}
	p.close = sync.OnceValue(func() error { return p.shutDown(end) })
	p.work = sync.NewCond(&p.mu)
	p.rush.over = time.AfterFunc(0, p.work.Broadcast)
	p.processors = p.places.processors
	for _, bits := range slices.Sorted(maps.Keys(o.Targets)) {
		s := newSize(bits, o.Targets[bits], o.Max, p.now())
		s.hits, s.misses = p.metrics.of(bits)
		p.sizes[bits] = s
		p.pooled = append(p.pooled, s)
	}
	p.cold = len(p.pooled)
	if len(p.pooled) == 0 {
		close(p.warm)
		return p, nil
	}
	p.startWorkers(o.Workers)
	p.tasks.Go(p.tend)
	return p, nil
}

func (o *Options) validate() error {
	for bits, target := range o.Targets {
		switch {
		case bits < 1:
			return fmt.Errorf("key pool: no RSA keys of %d bits", bits)
		case target < 1:
			return fmt.Errorf("key pool: a target of %d keys for RSA-%d: at least 1", target, bits)
		case o.Max > 0 && target > o.Max:
			return fmt.Errorf("key pool: the target of %d keys for RSA-%d is above the maximum of %d", target, bits, o.Max)
		}
	}
	return nil
}

func (o *Options) setDefaults() {
	if o.Max <= 0 {
		o.Max = defaultMax
		for _, target := range o.Targets {
			o.Max = max(o.Max, target)
		}
	}
	if o.QueueBound <= 0 {
		o.QueueBound = defaultQueueBound
	}
	if o.QueueDeadline <= 0 {
		o.QueueDeadline = defaultQueueDeadline
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Generate returns a key that was ready, or waits for one as the package says.
// Errors beside the custodian's: *keystore.BusyError (errors.Is
// keystore.ErrBusy) beyond the bounds of the queue, keystore.ErrUnavailable once
// the pool is closed, and that of ctx. EC keys take no time worth a pool and are
// made on the spot.
func (p *Pool) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if spec.Algorithm != keystore.RSA {
		key, _, err := p.generate(ctx, spec, foreground)
		return key, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errClosed()
	}
	s := p.size(spec.Bits)
	raised := s.request()
	if key := s.take(); key != nil {
		p.rush.taken(time.Now())
		p.mu.Unlock()
		if raised { // there is work for more than one
			p.work.Broadcast()
		} else {
			p.work.Signal()
		}
		s.hits.Inc()
		p.metrics.wait.Observe(0)
		return key, nil
	}
	return p.miss(ctx, s)
}

// Open implements keystore.Custodian.
func (p *Pool) Open(ctx context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	return p.custodian.Open(ctx, at, ref)
}

// Rebind implements keystore.Custodian.
func (p *Pool) Rebind(ctx context.Context, from, to keystore.Binding, ref keystore.Ref) (keystore.Ref, error) {
	return p.custodian.Rebind(ctx, from, to, ref)
}

// Destroy implements keystore.Custodian.
func (p *Pool) Destroy(ctx context.Context, ref keystore.Ref) error {
	return p.custodian.Destroy(ctx, ref)
}

// Sweep implements keystore.Custodian. Keys that wait are bound to nothing and
// no business of it.
func (p *Pool) Sweep(ctx context.Context, live func(keystore.Ref) bool) error {
	return p.custodian.Sweep(ctx, live)
}

// Ready reports, with an error that says what is missing, whether every size has
// reached its target since the start. It stays nil from then on: a pool that was
// drawn from is no reason to keep requests away.
func (p *Pool) Ready() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []error
	for _, s := range p.pooled {
		if !s.warm {
			missing = append(missing, fmt.Errorf("key pool: %d of %d keys of RSA-%d are ready", len(s.ready), s.target, s.spec.Bits))
		}
	}
	return errors.Join(missing...)
}

// Warm waits until Ready is nil. It returns the error of ctx if that ends
// before, and keystore.ErrUnavailable if the pool is closed before.
func (p *Pool) Warm(ctx context.Context) error {
	select {
	case <-p.warm:
		return nil
	case <-p.life.Done():
		return errClosed()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close turns away those who wait, discards the keys that wait, and closes the
// custodian. Keys in the making cannot be interrupted, so that it takes as long
// as they do: for RSA 4096 a second or two.
func (p *Pool) Close() error { return p.close() }

func (p *Pool) shutDown(end context.CancelFunc) error {
	p.mu.Lock()
	p.closed = true
	var unused []keystore.Key
	for _, s := range p.sizes {
		for len(s.waiters) > 0 {
			p.dequeue(s, outcome{err: errClosed()})
		}
		unused = append(unused, s.trim(0)...)
	}
	p.mu.Unlock()
	p.rush.over.Stop()
	end()
	p.work.Broadcast()
	err := discard(unused)
	p.tasks.Wait()
	p.places.close()
	return errors.Join(err, p.custodian.Close())
}

func errClosed() error {
	return fmt.Errorf("%w: the key pool is closed", keystore.ErrUnavailable)
}

// guard turns a panic into an error: a custodian that panics must not take the
// process with it from a goroutine that no request's recovery covers. Used as:
// defer guard(what, &err).
func guard(what string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: the custodian panicked: %v", what, r)
	}
}

// generate has the custodian make a key, here and now, and reports how long it
// took.
func (p *Pool) generate(ctx context.Context, spec keystore.KeySpec, from origin) (key keystore.Key, took time.Duration, err error) {
	defer guard(spec.String(), &err)
	if spec.Algorithm == keystore.RSA {
		p.places.enter()
		defer p.places.leave()
	}
	start := time.Now()
	key, err = p.custodian.Generate(ctx, spec)
	took = time.Since(start)
	if err == nil {
		p.metrics.generated(spec, from, took)
	}
	return key, took, err
}

// discard gives up keys that nobody had.
func discard(keys []keystore.Key) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, key.Discard())
	}
	return errors.Join(errs...)
}

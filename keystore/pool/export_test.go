package pool

import (
	"context"
	"sync"
	"time"
)

// Warm waits until Ready is nil, or returns its error when ctx ends.
func (p *Pool) Warm(ctx context.Context) error {
	for p.Ready() != nil {
		select {
		case <-ctx.Done():
			return p.Ready()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// Waiting returns how many callers wait for a key.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue)
}

// Level returns how many keys of a size are ready, and how many are to be.
func (p *Pool) Level(bits int) (ready, target int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sizes[bits].ready), p.sizes[bits].target
}

// Took sets what foreground generations of a size are taken to last.
func (p *Pool) Took(bits int, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size(bits).took = d
}

// LockThread turns the calling goroutine into a thread of the pool, if its own may be
// used, or else another, and waits for the end of the thread. It calls started with
// what ends it.
func LockThread(tasks *sync.WaitGroup, started func(end func())) {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	t.lock(func() { started(t.end) }, tasks)
}

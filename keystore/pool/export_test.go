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

// NewThread returns a function that makes the calling goroutine a thread of the pool,
// or another goroutine if this one is on the main thread.
func NewThread(tasks *sync.WaitGroup) (serve func(), started <-chan struct{}, end func()) {
	t := newThread()
	return func() { t.serve(tasks) }, t.started, t.end
}

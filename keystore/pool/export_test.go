package pool

import (
	"sync"
	"time"
)

// Window is how long a size has to be left alone to shrink.
const Window = window

// Adapt does what the pool does once a minute.
func (p *Pool) Adapt() { p.adapt() }

// Follow takes up a change of the processors there are.
func (p *Pool) Follow() { p.follow() }

// Waiting returns how many callers wait for a key.
func (p *Pool) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting
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

// LockThread turns the calling goroutine into a thread of the pool, if its own
// may be used, and waits for the thread's end; otherwise another. It calls started
// with what ends the thread.
func LockThread(tasks *sync.WaitGroup, started func(end func())) {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	t.lock(func() { started(t.end) }, tasks)
}

// Rush makes the pool believe that keys are taken in quick succession, for that
// long from now on.
func (p *Pool) Rush(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rush.until = time.Now().Add(d)
	p.work.Broadcast()
}

// Rushing reports whether it believes so.
func (p *Pool) Rushing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Now().Before(p.rush.until)
}

package handler

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
)

var (
	errDraining    = errors.New("the server is shutting down")
	errCrowded     = errors.New("too many requests are being answered")
	errCrowdedFrom = errors.New("too many requests of this address are being answered")
)

// gate bounds requests in flight, and can be closed for good. The bound is what
// connections have: HTTP/2, which carries many requests over one, gives no more
// room than HTTP/1. A request is in flight until its client has the answer or is
// gone (whenTaken): over HTTP/2 one can ask on many streams and take no answer.
//
// What it refuses gets an answer, too, and those are bounded as well. Beyond that the
// stream is reset.
type gate struct {
	mu       sync.Mutex
	admitted crowd
	refused  crowd
	closed   bool
	idle     chan struct{} // closed when the gate is closed and nothing admitted is in flight
}

// crowd counts requests, in all and by client.
type crowd struct {
	max, maxOfOne int
	always        int // of one, however many there are in all
	all           int
	from          map[netip.Prefix]int
}

// alwaysOfOne is how many requests of a client are let in although there are too
// many in all: a few clients cannot keep the others out. There are no more clients
// than connections.
const alwaysOfOne = 4

// newGate bounds refusals of one client by half of all: a burst of honest ones is to
// be told when to come again.
func newGate(maxInAll, maxOfOne int) *gate {
	return &gate{
		admitted: crowd{max: maxInAll, maxOfOne: maxOfOne, always: alwaysOfOne, from: map[netip.Prefix]int{}},
		refused:  crowd{max: maxInAll, maxOfOne: max(1, maxInAll/2), from: map[netip.Prefix]int{}},
	}
}

// enter lets a request in, or says why it is refused. leave, which is to be called
// once, is nil where not even a refusal can be told.
func (g *gate) enter(from netip.Prefix) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	in := &g.admitted
	if g.closed {
		err = errDraining
	} else {
		err = in.enter(from)
	}
	if err != nil {
		in = &g.refused
		if in.enter(from) != nil {
			return nil, err
		}
	}
	return func() { g.leave(in, from) }, err
}

func (g *gate) leave(in *crowd, from netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	in.leave(from)
	if g.closed && in == &g.admitted && in.all == 0 {
		close(g.idle)
	}
}

func (c *crowd) enter(from netip.Prefix) error {
	switch n := c.from[from]; {
	case n >= c.maxOfOne:
		return errCrowdedFrom
	case c.all >= c.max && n >= c.always:
		return errCrowded
	}
	c.all++
	c.from[from]++
	return nil
}

func (c *crowd) leave(from netip.Prefix) {
	c.all--
	if c.from[from]--; c.from[from] == 0 {
		delete(c.from, from)
	}
}

// whenTaken calls leave when the client has the answer, or is gone; it is called at
// the end of the handler. Over HTTP/1 that is of no matter: a connection has one
// request. Over HTTP/2 the handler's end is when the server begins to wait for room
// to send in, and the request's context ends then, too: only what was made for
// another purpose, and is called deprecated for that, tells of the stream's end.
func whenTaken(w http.ResponseWriter, r *http.Request, leave func()) {
	stream, is := w.(http.CloseNotifier) //nolint:staticcheck // see above
	if r.ProtoMajor < 2 || !is {
		leave()
		return
	}
	taken := stream.CloseNotify()
	go func() {
		<-taken
		leave()
	}()
}

// count returns how many are in flight, and how many are being refused.
func (g *gate) count() (admitted, refused int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.admitted.all, g.refused.all
}

func (g *gate) isClosed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// drain closes the gate and returns when nothing is in flight, or with ctx's error.
func (g *gate) drain(ctx context.Context) error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		g.idle = make(chan struct{})
		if g.admitted.all == 0 {
			close(g.idle)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

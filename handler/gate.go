package handler

import (
	"context"
	"errors"
	"net/netip"
	"sync"
)

var (
	errDraining        = errors.New("the server is shutting down")
	errTooManyRequests = errors.New("too many requests of this client are being answered")
)

// gate counts the requests in flight, bounds those of one client, and can be closed
// for good.
//
// In all they are bounded by the connections, each of which carries one request at a
// time. That does not bound one client behind a proxy, whose requests come over the
// proxy's connections.
type gate struct {
	maxPerClient int

	mu        sync.Mutex
	inFlight  int
	perClient map[netip.Prefix]int
	closed    bool
	drained   chan struct{} // closed once the gate is closed and nothing is in flight
}

func newGate(maxPerClient int) *gate {
	return &gate{maxPerClient: maxPerClient, perClient: map[netip.Prefix]int{}, drained: make(chan struct{})}
}

// enter lets a request in, or returns why it is refused. Whoever is let in calls
// leave once.
func (g *gate) enter(client netip.Prefix) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errDraining
	}
	if g.perClient[client] >= g.maxPerClient {
		return errTooManyRequests
	}
	g.inFlight++
	g.perClient[client]++
	return nil
}

func (g *gate) leave(client netip.Prefix) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	if g.perClient[client]--; g.perClient[client] == 0 {
		delete(g.perClient, client)
	}
	if g.closed && g.inFlight == 0 {
		close(g.drained)
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight
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
		if g.inFlight == 0 {
			close(g.drained)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

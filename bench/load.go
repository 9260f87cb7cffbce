package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 20

// call is one request and the status that its answer has to have.
type call struct {
	method, path, body string
	want               int
}

// client has one connection, which is kept.
type client struct {
	base   string
	header http.Header
	http   *http.Client
}

// newClients makes n clients of a server. HTTP/1.1 only, so that every client
// has a connection of its own whatever the server prefers.
func newClients(n int, base string, trust *tls.Config, header http.Header) []*client {
	clients := make([]*client, n)
	for i := range clients {
		clients[i] = &client{base: base, header: header, http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:     trust.Clone(),
			MaxConnsPerHost:     1,
			MaxIdleConnsPerHost: 1,
			DisableCompression:  true,
			TLSHandshakeTimeout: 10 * time.Second,
		}}}
	}
	return clients
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.http.CloseIdleConnections()
	}
}

// do sends the call and returns the body of the answer; an answer with another
// status is an error.
func (c *client) do(ctx context.Context, r call) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader([]byte(r.body)))
	if err != nil {
		return nil, err
	}
	req.Header = c.header.Clone()
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if resp.StatusCode != r.want {
		return nil, fmt.Errorf("%s %s: status %d, not %d: %.300s", r.method, r.path, resp.StatusCode, r.want, answer)
	}
	return answer, nil
}

// each makes all clients do a call at the same time, which also opens their
// connections and lets the server remember their credentials.
func each(ctx context.Context, clients []*client, r call) error {
	_, err := closedLoop(ctx, clients, limit{count: len(clients)}, func(int) call { return r })
	return err
}

// limit ends a closed loop after a number of requests, or after a time. What
// was begun is finished.
type limit struct {
	count int
	time  time.Duration
}

// closedLoop has each client send its next request when it has the answer to the
// one before. request gets the number of the request and is called by several
// goroutines at once.
func closedLoop(ctx context.Context, clients []*client, until limit, request func(i int) call) (samples, error) {
	var next atomic.Int64
	start := time.Now()
	return together(ctx, len(clients), func(ctx context.Context, k int) ([]time.Duration, error) {
		var latencies []time.Duration
		for {
			i := int(next.Add(1)) - 1
			begun := time.Now()
			if until.count > 0 && i >= until.count || until.count == 0 && begun.Sub(start) >= until.time {
				return latencies, nil
			}
			if _, err := clients[k].do(ctx, request(i)); err != nil {
				return nil, err
			}
			latencies = append(latencies, time.Since(begun))
		}
	})
}

// openLoop sends count requests at a fixed rate per second, whatever the answers
// do.
func openLoop(ctx context.Context, clients []*client, rate float64, count int, request func(i int) call) (samples, error) {
	return atRate(ctx, len(clients), rate, count, func(ctx context.Context, k, i int) error {
		_, err := clients[k].do(ctx, request(i))
		return err
	})
}

// atRate has workers do count pieces of work at a fixed rate per second, and
// measures each from the time it was due. A worker that is still busy then begins
// late, and the lateness counts: a closed loop would have hidden it.
func atRate(ctx context.Context, workers int, rate float64, count int, work func(ctx context.Context, k, i int) error) (samples, error) {
	interval := time.Duration(float64(time.Second) / rate)
	start := time.Now().Add(interval)
	return together(ctx, workers, func(ctx context.Context, k int) ([]time.Duration, error) {
		var latencies []time.Duration
		for i := k; i < count && ctx.Err() == nil; i += workers {
			due := start.Add(time.Duration(i) * interval)
			pause(time.Until(due))
			if err := work(ctx, k, i); err != nil {
				return nil, err
			}
			latencies = append(latencies, time.Since(due))
		}
		return latencies, ctx.Err()
	})
}

// together runs n workers at once, the number of each given to it, and joins
// what they measured. The first error ends all of them.
func together(ctx context.Context, n int, work func(ctx context.Context, k int) ([]time.Duration, error)) (samples, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		workers sync.WaitGroup
		parts   = make([][]time.Duration, n)
		start   = time.Now()
	)
	for k := range n {
		workers.Go(func() {
			var err error
			if parts[k], err = work(ctx, k); err != nil {
				cancel(err)
			}
		})
	}
	workers.Wait()
	s := samples{elapsed: time.Since(start)}
	for _, part := range parts {
		s.latencies = append(s.latencies, part...)
	}
	return s, context.Cause(ctx)
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// call is one request and the status that its answer has to have.
type call struct {
	method, path, body string
	want               int
}

const (
	esxCSR  = "/api/esx/attestation/certificate/csr"
	nsxCSRs = "/policy/api/v1/infra/csrs"
	host    = "esx-01.example.com"
)

// createESX replaces the pending attestation CSR, with a key of 2048 bits.
func createESX(int) call {
	return call{"POST", esxCSR, `{"common_name":"` + host + `","organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
		`"state_or_province":"California","country":"US","email_address":"pki@example.com","subject_alt_name":["` + host + `"]}`, http.StatusCreated}
}

func getESX(int) call { return call{"GET", esxCSR, "", http.StatusOK} }

// nsxKey is a kind of key in the words of the NSX dialect.
type nsxKey string

const (
	rsa2048 nsxKey = `"algorithm":"RSA","key_size":2048`
	ecP256  nsxKey = `"algorithm":"EC"`
)

// createNSX makes the object of that number.
func createNSX(i int, key nsxKey) call {
	return call{"POST", nsxCSRs + "/" + nsxID(i) + "?action=create", fmt.Sprintf(`{"subject":{"attributes":[{"key":"CN","value":"%s.example.com"},`+
		`{"key":"O","value":"Example Ltd"},{"key":"C","value":"US"}]},%s}`, nsxID(i), key), http.StatusCreated}
}

func deleteNSX(i int) call { return call{"DELETE", nsxCSRs + "/" + nsxID(i), "", http.StatusOK} }

func nsxID(i int) string { return fmt.Sprintf("csr-%06d", i) }

// listNSX asks for the first page.
func listNSX(size int) call {
	return call{"GET", nsxCSRs + "?page_size=" + strconv.Itoa(size), "", http.StatusOK}
}

// greeting opens a client's connection and lets the server verify its password,
// and changes nothing.
func greeting(int) call { return listNSX(1) }

// client has one connection, which is kept.
type client struct {
	base   string
	header http.Header
	http   *http.Client
}

// newClient makes a client of a loopback server that was started here.
func newClient(base string, header http.Header) *client {
	return &client{base: base, header: header, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it is ours
		MaxConnsPerHost:     1,
		MaxIdleConnsPerHost: 1,
		DisableCompression:  true,
	}}}
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
	answer, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	if resp.StatusCode != r.want {
		return nil, fmt.Errorf("%s %s: status %d, not %d: %.300s", r.method, r.path, resp.StatusCode, r.want, answer)
	}
	return answer, nil
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
func closedLoop(clients []*client, until limit, request func(i int) call) measure {
	return func(ctx context.Context) (samples, error) {
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
}

// openLoop has a client send count requests at a fixed rate per second, and measures
// each from the time it was due. A client that is still busy then begins late, and the
// lateness counts: a closed loop would have hidden it.
func openLoop(ctx context.Context, c *client, rate float64, count int, request func(i int) call) (samples, error) {
	interval := time.Duration(float64(time.Second) / rate)
	start := time.Now().Add(interval)
	return together(ctx, 1, func(ctx context.Context, _ int) ([]time.Duration, error) {
		var latencies []time.Duration
		for i := 0; i < count && ctx.Err() == nil; i++ {
			due := start.Add(time.Duration(i) * interval)
			if early := time.Until(due); early > 0 {
				time.Sleep(early)
				due = time.Now() // a timer of ours that fires late is not the server's
			}
			if _, err := c.do(ctx, request(i)); err != nil {
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

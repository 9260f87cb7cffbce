package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// portion is how many keys a round may take without emptying the pool.
func (b *bench) portion() int { return b.scale.pool * 3 / 4 }

// quiet fills the pools first, so that the machine is at rest.
func quiet(m measure, servers ...*server) measure {
	return func(ctx context.Context) (samples, error) {
		if err := filled(ctx, servers...); err != nil {
			return samples{}, err
		}
		return m(ctx)
	}
}

// creates measures creates that find a key ready.
func creates(ctx context.Context, b *bench) (err error) {
	s, err := b.start(ctx, b.binary, b.dataDir(), b.scale.pool)
	if err != nil {
		return err
	}
	floor, err := newCommitFloor(b.dataDir()+".floor", signCSR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.db.Close()) }()
	clients, err := s.greeted(ctx, 8)
	if err != nil {
		return err
	}
	const floorName = "sign + commit, 1 caller, ms"
	lone := quiet(floor.loop(1, b.scale.samples), s)
	c, err := compare(ctx, b.scale.rounds, lone, closedLoop(clients[:1], limit{count: b.portion()}, createESX))
	if err != nil {
		return err
	}
	b.report.atMost(1.6, c.figure("create, 1 client: p50", floorName, quantile(0.5), quantile(0.5)))

	ungrouped := quiet(floor.loop(8, b.scale.samples), s)
	c, err = compare(ctx, b.scale.rounds, ungrouped, closedLoop(clients, limit{count: b.portion()}, createESX))
	if err != nil {
		return err
	}
	b.report.atLeast(0.95, c.figure("create, 8 clients: throughput", "sign + commit, 8 callers, not grouped, /s", perSecond, perSecond))

	// Half of the keys are taken before each round, so that the pool is never full nor
	// ever empty. How long it takes to fill again says how many keys it can make; with
	// three fifths of that asked for it can follow.
	count := b.scale.pool / 2
	drain := closedLoop(clients, limit{count: count}, createESX)
	if _, err := drain(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := filled(ctx, s); err != nil {
		return err
	}
	rate := 0.6 * float64(count) / time.Since(begun).Seconds()
	c, err = compare(ctx, b.scale.rounds, lone, func(ctx context.Context) (samples, error) {
		if _, err := drain(ctx); err != nil {
			return samples{}, err
		}
		return openLoop(ctx, clients[0], rate, count, createESX)
	})
	if err != nil {
		return err
	}
	b.report.atMost(2, c.figure("create while the pool refills, from the time due: p50", floorName, quantile(0.5), quantile(0.5)))
	b.report.atMost(6, c.figure("create while the pool refills, from the time due: p99", floorName, quantile(0.99), quantile(0.5)))
	return nil
}

// audited measures what the audit trail costs a create: the same binary with it and
// without.
func audited(ctx context.Context, b *bench) error {
	without, err := b.start(ctx, b.profiled, b.dataDir(), b.scale.pool, withoutAudit)
	if err != nil {
		return err
	}
	with, err := b.start(ctx, b.profiled, b.dataDir(), b.scale.pool)
	if err != nil {
		return err
	}
	for _, n := range []int{1, 8} {
		c, err := b.beside(ctx, without, with, n, func(_ *server, clients []*client) measure {
			return closedLoop(clients, limit{count: b.portion()}, createESX)
		})
		if err != nil {
			return err
		}
		b.report.atMost(1.1, c.figure(fmt.Sprintf("create with the audit trail, clients: %d: p50", n), "without, ms", quantile(0.5), quantile(0.5)))
	}
	return nil
}

// beside measures the same of two servers in turn, with n clients each. Neither makes
// keys meanwhile.
func (b *bench) beside(ctx context.Context, floor, figure *server, n int, of func(*server, []*client) measure) (comparison, error) {
	floorClients, err := floor.greeted(ctx, n)
	if err != nil {
		return comparison{}, err
	}
	clients, err := figure.greeted(ctx, n)
	if err != nil {
		return comparison{}, err
	}
	return compare(ctx, b.scale.rounds, quiet(of(floor, floorClients), floor, figure), quiet(of(figure, clients), floor, figure))
}

const (
	sustainedClients = 32
	// keygen matches crypto/rsa.GenerateKey and what it calls of FIPS 140.
	keygen = `rsa\.GenerateKey`
)

// sustained measures creates as fast as keys can be made, by more clients than
// there are processors, and where the processors spend their time.
func sustained(ctx context.Context, b *bench) error {
	s, err := b.start(ctx, b.profiled, b.dataDir(), 1)
	if err != nil {
		return err
	}
	clients, err := s.greeted(ctx, sustainedClients)
	if err != nil {
		return err
	}
	var shares, waits []float64
	for range b.scale.rounds {
		file := filepath.Join(b.dir, "sustained.pprof")
		profiled := make(chan error, 1)
		// A little shorter than the load, so that it sees nothing else.
		go func() { profiled <- s.saveProfile(ctx, b.scale.sustained-2*time.Second, file) }()
		round, err := closedLoop(clients, limit{time: b.scale.sustained}, createESX)(ctx)
		if err := errors.Join(err, <-profiled); err != nil {
			return err
		}
		share, err := profileShare(ctx, file, keygen)
		if err != nil {
			return err
		}
		shares = append(shares, share)
		fair := sustainedClients / perSecond(round) // seconds
		waits = append(waits, slices.Max(round.latencies).Seconds()/fair)
	}
	what := fmt.Sprintf("sustained creates, %d clients: ", sustainedClients)
	b.report.atLeast(0.93, row{What: what + "key generation in the server's CPU", Value: median(shares), Unit: "of 1"})
	b.report.atMost(1.6, row{What: what + "longest wait / fair", Value: median(waits), Unit: "×"})
	return nil
}

// reads measures GET of the pending CSR beside an empty handler.
func reads(ctx context.Context, b *bench) error {
	s, err := b.start(ctx, b.binary, b.dataDir(), 1)
	if err != nil {
		return err
	}
	empty, err := b.startEmpty(ctx, s.dataDir)
	if err != nil {
		return err
	}
	if _, err := s.once(ctx, createESX(0)); err != nil {
		return err
	}
	session, err := s.once(ctx, call{"POST", "/api/session", "", http.StatusCreated}) // a JSON string
	if err != nil {
		return err
	}
	header := http.Header{"vmware-api-session-id": {strings.Trim(string(session), "\"\n")}}
	until := limit{time: b.scale.time}
	floor := closedLoop(empty.clients(8, http.Header{}), until, func(int) call { return call{"GET", "/", "", http.StatusOK} })
	figure := closedLoop(s.clients(8, header), until, getESX)
	if err := filled(ctx, s); err != nil {
		return err
	}
	c, err := compare(ctx, b.scale.rounds, floor, figure)
	if err != nil {
		return err
	}
	b.report.atLeast(0.5, c.figure("GET csr with a session, 8 clients: throughput", "empty handler, /s", perSecond, perSecond))
	return nil
}

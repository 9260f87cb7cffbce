package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// dueShare is the share of what the machine can make of keys that the fixed
	// rate asks for: the pool can follow, and refills without a pause.
	dueShare = 0.6
	burst    = 64
)

// warmed is a running service whose pool is filled again before each round.
type warmed struct {
	*server
	bench *bench
	floor *commitFloor
}

// warm measures creates whose key is there already.
func warm(ctx context.Context, b *bench) (err error) {
	s, err := b.start(ctx, b.binary, b.dataDir(), settings{pool: b.scale.pool})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	floor, err := newCommitFloor(b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	if err := s.waitWarm(ctx, b.scale.pool); err != nil {
		return err
	}
	w := warmed{s, b, floor}
	if err := w.due(ctx); err != nil {
		return err
	}
	for _, clients := range []int{1, 8, 32} {
		if err := w.inside(ctx, clients); err != nil {
			return err
		}
	}
	if err := w.burst(ctx); err != nil {
		return err
	}
	if err := w.named(ctx); err != nil {
		return err
	}
	misses, err := s.metric(ctx, "attestcsr_key_pool_misses_total")
	if err != nil {
		return err
	}
	b.report.add(value("creates of this phase that found no key", float64(misses["2048"]), "", "the first start makes one key before the pool has any"))
	return nil
}

// quiet fills the pool and then measures a floor: the machine is at rest.
func (w warmed) quiet(floor measure) measure {
	return func(ctx context.Context) (samples, error) {
		if err := w.waitWarm(ctx, w.bench.scale.pool); err != nil {
			return samples{}, err
		}
		return floor(ctx)
	}
}

// portion is how many keys a round may take without emptying the pool.
func (w warmed) portion() int { return w.bench.scale.pool * 3 / 4 }

// due measures one client that asks at a fixed rate while the pool refills: half
// of its keys are taken away just before.
func (w warmed) due(ctx context.Context) error {
	raw, err := w.bench.allCores()(ctx)
	if err != nil {
		return err
	}
	rate := perSecond(raw) * dueShare
	count := w.bench.scale.pool / 2 // the pool is never full, nor ever empty
	clients := w.clients(8, basic())
	defer closeAll(clients)
	if err := each(ctx, clients, greeting()); err != nil {
		return err
	}
	// The target is against the floor of a caller who never rests; the floor at
	// the same rate stands beside it, to tell what resting costs by itself.
	var resting []samples
	floor := func(ctx context.Context) (samples, error) {
		s, err := w.floor.due(ctx, rate, count/4)
		if err != nil {
			return s, err
		}
		resting = append(resting, s)
		return w.floor.run(ctx, 1, w.bench.scale.samples)
	}
	c, err := compare(ctx, w.bench.scale.rounds, w.quiet(floor), func(ctx context.Context) (samples, error) {
		if _, err := closedLoop(ctx, clients, limit{count: count}, createESX); err != nil {
			return samples{}, err
		}
		return openLoop(ctx, clients[:1], rate, count, createESX)
	})
	if err != nil {
		return err
	}
	r := figure(fmt.Sprintf("create, 1 client, %.0f/s, pool refilling, from due time", rate), c.figure)
	r.PerSecond = 0 // is what was asked for
	w.bench.report.add(r.besides(c, "floor p50", quantile(0.5), "ms"))
	w.bench.report.add(r.besides(comparison{figure: c.figure, floor: resting}, "floor at that rate, p50", quantile(0.5), "ms"))
	w.bench.report.atMost("create while the pool refills: p50 / floor", c.ratio(quantile(0.5), quantile(0.5)), 1.5, "×")
	w.bench.report.atMost("create while the pool refills: p99 / floor", c.ratio(quantile(0.99), quantile(0.5)), 6, "×")
	return nil
}

// besideFloor measures and reports creates beside the floor of one caller.
func (w warmed) besideFloor(ctx context.Context, what string, creates measure) (comparison, error) {
	c, err := compare(ctx, w.bench.scale.rounds, w.quiet(w.floor.lone(w.bench.scale.samples)), creates)
	if err == nil {
		w.bench.report.add(figure(what, c.figure).besides(c, "floor p50", quantile(0.5), "ms"))
	}
	return c, err
}

// inside measures clients that ask as fast as they get answers, for fewer keys
// than the pool holds.
func (w warmed) inside(ctx context.Context, n int) error {
	clients := w.clients(n, basic())
	defer closeAll(clients)
	if err := each(ctx, clients, greeting()); err != nil {
		return err
	}
	creates := func(request func(int) call) measure {
		return func(ctx context.Context) (samples, error) {
			return closedLoop(ctx, clients, limit{count: w.portion()}, request)
		}
	}
	what := fmt.Sprintf("create, %s, pool of %d", plural(n, "client"), w.bench.scale.pool)
	lone, err := w.besideFloor(ctx, what, creates(createESX))
	if err != nil || n > 8 {
		return err
	}
	if _, err := w.besideFloor(ctx, what+", of another host each time", creates(createESXOfAnother)); err != nil || n < 8 {
		return err
	}
	w.bench.report.atMost(what+": p99 / floor", lone.ratio(quantile(0.99), quantile(0.5)), 15, "×")
	grouped, err := compare(ctx, w.bench.scale.rounds, w.quiet(w.floor.ungrouped(n, w.bench.scale.samples)), creates(createESX))
	if err != nil {
		return err
	}
	w.bench.report.add(figure(what, grouped.figure).besides(grouped, "ungrouped loop, 8 callers", perSecond, "/s"))
	w.bench.report.atLeast(what+": throughput / ungrouped loop", grouped.ratio(perSecond, perSecond), 1, "×")
	return nil
}

// burst measures clients that all ask in the same moment, once.
func (w warmed) burst(ctx context.Context) error {
	clients := w.clients(burst, basic())
	defer closeAll(clients)
	if err := each(ctx, clients, greeting()); err != nil {
		return err
	}
	c, err := compare(ctx, w.bench.scale.rounds*2, w.quiet(w.floor.ungrouped(8, burst)), func(ctx context.Context) (samples, error) {
		return together(ctx, len(clients), func(ctx context.Context, k int) ([]time.Duration, error) {
			begun := time.Now()
			_, err := clients[k].do(ctx, createESX(k))
			return []time.Duration{time.Since(begun)}, err
		})
	})
	if err != nil {
		return err
	}
	w.bench.report.add(figure(fmt.Sprintf("burst of %d creates from a full pool", burst), c.figure).besides(c, "ungrouped loop, 8 callers", perSecond, "/s"))
	return nil
}

// named measures creates of named CSRs, which are new objects in every list.
func (w warmed) named(ctx context.Context) error {
	clients := w.clients(1, basic())
	defer closeAll(clients)
	if err := each(ctx, clients, greeting()); err != nil {
		return err
	}
	var made atomic.Int64
	_, err := w.besideFloor(ctx, "NSX create, 1 client", func(ctx context.Context) (samples, error) {
		return closedLoop(ctx, clients, limit{count: w.portion()}, func(int) call {
			return createNSX(fmt.Sprintf("csr-%d", made.Add(1)), rsa2048)
		})
	})
	return err
}

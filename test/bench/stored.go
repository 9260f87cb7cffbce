package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const pageSize = 100

// startSeeded runs the service with n named CSRs stored, of EC keys since those are
// quick to make. They are made once: what measures them leaves as many.
func (b *bench) startSeeded(ctx context.Context, n, pool int) (*server, error) {
	if b.seeds[n] == "" {
		b.progress("making %d objects", n)
		dataDir := b.dataDir()
		s, err := b.start(ctx, b.binary, dataDir, 1)
		if err != nil {
			return nil, err
		}
		// Many clients, since they share commits.
		_, err = closedLoop(s.clients(64, basic()), limit{count: n}, func(i int) call { return createNSX(i, ecP256) })(ctx)
		if err := errors.Join(err, s.stop()); err != nil {
			return nil, fmt.Errorf("make %d objects: %w", n, err)
		}
		b.seeds[n] = dataDir
	}
	s, err := b.start(ctx, b.binary, b.seeds[n], pool)
	if err == nil {
		s.objects = n
	}
	return s, err
}

// stored measures creates and list pages beside few and many objects.
func stored(ctx context.Context, b *bench) error {
	few, err := b.startSeeded(ctx, b.scale.few, b.scale.pool)
	if err != nil {
		return err
	}
	many, err := b.startSeeded(ctx, b.scale.many, b.scale.pool)
	if err != nil {
		return err
	}
	floor := fmt.Sprintf("with %d, ms", b.scale.few)
	c, err := b.beside(ctx, few, many, 1, b.recreate)
	if err != nil {
		return err
	}
	b.report.atMost(1.25, c.figure(fmt.Sprintf("NSX create with %d stored: p50", b.scale.many), floor, quantile(0.5), quantile(0.5)))
	c, err = b.beside(ctx, few, many, 1, func(_ *server, clients []*client) measure {
		return closedLoop(clients, limit{count: b.scale.samples}, func(int) call { return listNSX(pageSize) })
	})
	if err != nil {
		return err
	}
	b.report.atMost(1.3, c.figure(fmt.Sprintf("NSX list, page of %d out of %d: p50", pageSize, b.scale.many), floor, quantile(0.5), quantile(0.5)))
	return nil
}

// recreate deletes objects here and there and measures how long it takes to make each of
// them again: their number stays the same.
func (b *bench) recreate(s *server, clients []*client) measure {
	c := clients[0]
	return func(ctx context.Context) (samples, error) {
		var all samples
		for range b.portion() {
			i := rand.IntN(s.objects) //nolint:gosec // any object will do
			if _, err := c.do(ctx, deleteNSX(i)); err != nil {
				return all, err
			}
			begun := time.Now()
			if _, err := c.do(ctx, createNSX(i, rsa2048)); err != nil {
				return all, err
			}
			took := time.Since(begun)
			all.latencies = append(all.latencies, took)
			all.elapsed += took
		}
		return all, nil
	}
}

// memory measures an idle service whose pool, of the default size, is full.
func memory(ctx context.Context, b *bench) error {
	for _, n := range []int{0, b.scale.idle} {
		s, err := b.startSeeded(ctx, n, 0)
		if err != nil {
			return err
		}
		if err := filled(ctx, s); err != nil {
			return err
		}
		time.Sleep(b.scale.settle)
		used, err := s.anonymousMemory()
		if err != nil {
			return err
		}
		b.report.atMost(30, row{What: fmt.Sprintf("RssAnon, idle, pool full, %d CSRs stored", n), Value: used, Unit: "MB"})
	}
	return nil
}

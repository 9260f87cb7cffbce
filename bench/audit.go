package main

import (
	"context"
	"errors"
	"fmt"
)

// auditTurns is in how many turns each server uses up what its pool may give.
const auditTurns = 2

// audited measures what the audit trail costs a create: the same binary with it
// and without, in turn.
func audited(ctx context.Context, b *bench) (err error) {
	without, err := b.start(ctx, b.profiled, b.dataDir(), settings{pool: b.scale.pool, withoutAudit: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, without.stop()) }()
	with, err := b.start(ctx, b.profiled, b.dataDir(), settings{pool: b.scale.pool})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, with.stop()) }()
	for _, clients := range []int{1, 8} {
		if err := b.auditCost(ctx, warmed{server: without, bench: b}, warmed{server: with, bench: b}, clients); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) auditCost(ctx context.Context, without, with warmed, n int) error {
	floorClients, clients := without.clients(n, basic()), with.clients(n, basic())
	defer closeAll(floorClients)
	defer closeAll(clients)
	for _, callers := range [][]*client{floorClients, clients} {
		if err := each(ctx, callers, greeting()); err != nil {
			return err
		}
	}
	// In short turns: over the time that a pool takes to fill, the machine changes
	// by more than what is looked for. A server is frozen while it is the other's
	// turn, so that each pays for the trail in its own.
	count := with.portion() / auditTurns
	turn := func(measured, other warmed, callers []*client) measure {
		return func(ctx context.Context) (s samples, err error) {
			if err := errors.Join(measured.thaw(), other.thaw(), refilled(ctx, count, measured, other), other.freeze()); err != nil {
				return samples{}, err
			}
			return closedLoop(ctx, callers, limit{count: count}, createESX)
		}
	}
	c, err := compare(ctx, b.scale.rounds*auditTurns, turn(without, with, floorClients), turn(with, without, clients))
	err = errors.Join(err, without.thaw(), with.thaw())
	if err != nil {
		return err
	}
	what := fmt.Sprintf("create with audit, %s", plural(n, "client"))
	b.report.add(figure(what, c.figure).besides(c, "without, p50", quantile(0.5), "ms"))
	b.report.atMost(what+": p50 / without", c.ratio(quantile(0.5), quantile(0.5)), 1.1, "×")
	return nil
}

// refilled waits until both pools are full, unless there are keys for a turn.
func refilled(ctx context.Context, count int, measured, other warmed) error {
	keys, _, err := measured.poolState(ctx)
	if err != nil || keys["2048"] >= count {
		return err
	}
	full := measured.bench.scale.pool
	return errors.Join(measured.waitWarm(ctx, full), other.waitWarm(ctx, full))
}

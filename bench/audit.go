package main

import (
	"context"
	"errors"
	"fmt"
)

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
	// Each server is at rest while the other is measured.
	round := func(measured, other warmed, callers []*client) measure {
		return other.quiet(measured.quiet(func(ctx context.Context) (samples, error) {
			return closedLoop(ctx, callers, limit{count: measured.portion()}, createESX)
		}))
	}
	c, err := compare(ctx, b.scale.rounds, round(without, with, floorClients), round(with, without, clients))
	if err != nil {
		return err
	}
	what := fmt.Sprintf("create with audit, %s", plural(n, "client"))
	b.report.add(figure(what, c.figure).besides(c, "without, p50", quantile(0.5), "ms"))
	b.report.atMost(what+": p50 / without", c.ratio(quantile(0.5), quantile(0.5)), 1.1, "×")
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
)

// audited measures what the audit trail costs a create: the same binary with it
// and without, in turn.
func audited(ctx context.Context, b *bench) (err error) {
	var sides [2]warmed // without, with
	for i := range sides {
		s, err := b.start(ctx, b.profiled, b.dataDir(), settings{pool: b.scale.pool, withoutAudit: i == 0})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		sides[i] = warmed{server: s, bench: b}
	}
	for _, clients := range []int{1, 8} {
		var rounds [2]measure
		for i, side := range sides {
			callers := side.clients(clients, basic())
			defer closeAll(callers)
			if err := each(ctx, callers, greeting()); err != nil {
				return err
			}
			// Each server is at rest while the other is measured.
			other := sides[1-i]
			rounds[i] = other.quiet(side.quiet(func(ctx context.Context) (samples, error) {
				return closedLoop(ctx, callers, limit{count: side.portion()}, createESX)
			}))
		}
		c, err := compare(ctx, b.scale.rounds, rounds[0], rounds[1])
		if err != nil {
			return err
		}
		what := fmt.Sprintf("create with audit, %s", plural(clients, "client"))
		b.report.add(figure(what, c.figure).besides(c, "without, p50", quantile(0.5), "ms"))
		b.report.atMost(what+": p50 / without", c.ratio(quantile(0.5), quantile(0.5)), 1.1, "×")
	}
	return nil
}

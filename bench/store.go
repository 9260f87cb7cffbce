package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	pageSize = 100
	// deepPages is how many pages a walk reads behind the first one.
	deepPages = 9
)

// list measures pages of a small and of a large collection.
func list(ctx context.Context, b *bench) (err error) {
	small, err := b.startSeeded(ctx, b.scale.page, settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.stop()) }()
	large, err := b.startSeeded(ctx, b.scale.many, settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, large.stop()) }()

	if err := errors.Join(small.rest(ctx), large.rest(ctx)); err != nil {
		return err
	}
	var deep, deepSmall []samples
	walks := max(10, b.scale.samples/5)
	c, err := compare(ctx, b.scale.rounds,
		walk(small, walks, b.scale.page, &deepSmall),
		walk(large, walks, b.scale.many, &deep))
	if err != nil {
		return err
	}
	beside := fmt.Sprintf("of %d", b.scale.page)
	b.report.add(figure(fmt.Sprintf("NSX list, first page of %d out of %d, with result_count", pageSize, b.scale.many), c.figure).besides(c, beside, quantile(0.5), "ms"))
	b.report.add(figure(fmt.Sprintf("NSX list, first page of %d out of %d, with result_count", pageSize, b.scale.page), c.floor))
	further := comparison{figure: deep, floor: deepSmall}
	b.report.add(figure(fmt.Sprintf("NSX list, further pages out of %d", b.scale.many), deep).besides(further, beside, quantile(0.5), "ms"))
	b.report.atMost(fmt.Sprintf("page out of %d / page out of %d", b.scale.many, b.scale.page), c.ratio(quantile(0.5), quantile(0.5)), 1.3, "×")
	return nil
}

// walk reads the first page, which has the result_count, and follows the cursor.
// It returns the first pages and appends the others to deep.
func walk(s *server, walks, objects int, deep *[]samples) measure {
	return func(ctx context.Context) (samples, error) {
		clients := s.clients(1, basic())
		defer closeAll(clients)
		if err := each(ctx, clients, greeting()); err != nil {
			return samples{}, err
		}
		var first, further samples
		for range walks {
			cursor := ""
			for page := 0; page <= deepPages && (page == 0 || cursor != ""); page++ {
				begun := time.Now()
				answer, err := clients[0].do(ctx, listNSX(pageSize, cursor))
				took := time.Since(begun)
				if err != nil {
					return first, err
				}
				var result struct {
					Results     []json.RawMessage `json:"results"`
					ResultCount int               `json:"result_count"`
					Cursor      string            `json:"cursor"`
				}
				if err := json.Unmarshal(answer, &result); err != nil {
					return first, err
				}
				if len(result.Results) != pageSize || page == 0 && result.ResultCount != objects {
					return first, fmt.Errorf("page %d has %d results and result_count %d, not %d and %d", page, len(result.Results), result.ResultCount, pageSize, objects)
				}
				into := &further
				if page == 0 {
					into = &first
				}
				into.latencies = append(into.latencies, took)
				into.elapsed += took
				cursor = result.Cursor
			}
		}
		*deep = append(*deep, further)
		return first, nil
	}
}

// startSeeded runs the service with n objects stored.
func (b *bench) startSeeded(ctx context.Context, n int, s settings) (*server, error) {
	dataDir, err := b.seeded(ctx, n)
	if err != nil {
		return nil, err
	}
	return b.start(ctx, b.binary, dataDir, s)
}

// grown is a service with objects stored: those of seedID of the multiples of
// stride below beyond.
type grown struct {
	name string
	*server
	client *client

	stride, beyond int
}

// growth measures creates beside few objects, many objects, and few objects
// where there were many.
func growth(ctx context.Context, b *bench) (err error) {
	services, err := b.startGrown(ctx)
	defer func() {
		for _, s := range services {
			closeAll([]*client{s.client})
			err = errors.Join(err, s.stop())
		}
	}()
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name   string
		key    nsxKey
		target bool
	}{
		{"EC P-256", ecP256, false}, // no signature of RSA hides the store
		{"RSA 2048 from the pool", rsa2048, true},
	} {
		few := services[0].recreate(b, kind.key)
		for _, s := range services[1:] {
			c, err := compare(ctx, b.scale.rounds, few, s.recreate(b, kind.key))
			if err != nil {
				return err
			}
			beside := services[0].name
			b.report.add(figure("NSX create, "+kind.name+", "+s.name, c.figure).besides(c, beside, quantile(0.5), "ms"))
			if kind.target {
				b.report.atMost("create "+s.name+" / "+beside, c.ratio(quantile(0.5), quantile(0.5)), 1.1, "×")
			}
		}
	}
	return nil
}

// startGrown starts the services of growth, the one with few objects first. What
// it started it returns with the error, too.
func (b *bench) startGrown(ctx context.Context) (services []grown, err error) {
	stride := b.scale.many / b.scale.few
	for _, g := range []grown{
		{name: fmt.Sprintf("%d stored", b.scale.few), stride: 1, beyond: b.scale.few},
		{name: fmt.Sprintf("%d stored", b.scale.many), stride: 1, beyond: b.scale.many},
		{name: fmt.Sprintf("%d stored, %d deleted", b.scale.few, b.scale.many-b.scale.few), stride: stride, beyond: b.scale.many},
	} {
		dataDir, err := b.seeded(ctx, g.beyond)
		if err != nil {
			return services, err
		}
		if g.stride > 1 {
			b.progress("deleting objects")
			if err := thin(ctx, dataDir, g.beyond, g.stride); err != nil {
				return services, err
			}
		}
		if g.server, err = b.start(ctx, b.binary, dataDir, settings{pool: b.scale.pool}); err != nil {
			return services, err
		}
		g.client = g.clients(1, basic())[0]
		services = append(services, g)
		if err := errors.Join(each(ctx, []*client{g.client}, greeting()), g.rest(ctx)); err != nil {
			return services, err
		}
	}
	return services, nil
}

// recreate deletes objects here and there and measures how long it takes to make
// each of them again: the number of objects stays the same.
func (g grown) recreate(b *bench, key nsxKey) measure {
	count := min(b.scale.samples, b.scale.pool*3/4)
	return func(ctx context.Context) (samples, error) {
		if key == rsa2048 {
			if err := g.waitWarm(ctx, b.scale.pool); err != nil {
				return samples{}, err
			}
		}
		var s samples
		for range count {
			id := seedID(rand.IntN(g.beyond/g.stride) * g.stride) //nolint:gosec // any object will do
			if _, err := g.client.do(ctx, deleteNSX(id)); err != nil {
				return s, err
			}
			begun := time.Now()
			if _, err := g.client.do(ctx, createNSX(id, key)); err != nil {
				return s, err
			}
			took := time.Since(begun)
			s.latencies = append(s.latencies, took)
			s.elapsed += took
		}
		return s, nil
	}
}

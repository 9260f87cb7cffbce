package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

const (
	sustainedClients = 32
	// keygen matches crypto/rsa.GenerateKey and what it calls of FIPS 140.
	keygen = `rsa\.GenerateKey`
)

// sustained measures creates as fast as keys can be made, by more clients than
// there are processors, and where the processors spend their time.
func sustained(ctx context.Context, b *bench) (err error) {
	s, err := b.start(ctx, b.profiled, b.dataDir(), settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	clients := s.clients(sustainedClients, basic())
	defer closeAll(clients)
	if err := each(ctx, clients, greeting()); err != nil {
		return err
	}

	var shares, busy []float64
	c, err := compare(ctx, 2, b.allCores(), func(ctx context.Context) (samples, error) {
		// The pool is emptied first.
		if _, err := closedLoop(ctx, clients, limit{time: b.scale.sustained / 4}, createESX); err != nil {
			return samples{}, err
		}
		round, used, share, err := b.profiledLoad(ctx, s, clients)
		shares = append(shares, share)
		busy = append(busy, used.Seconds()/round.elapsed.Seconds()/float64(runtime.NumCPU()))
		return round, err
	})
	if err != nil {
		return err
	}
	b.report.add(figure(fmt.Sprintf("create RSA 2048, pool empty, %d clients", sustainedClients), c.figure).besides(c, "raw keys", perSecond, "/s"))
	b.report.add(value("processors busy with the server", median(busy), "of 1", "the load generator uses the same ones"))
	waits := make([]float64, len(c.figure))
	for i, round := range c.figure {
		fair := sustainedClients / perSecond(round) // seconds
		waits[i] = slices.Max(round.latencies).Seconds() / fair
	}
	b.report.atLeast("share of the server's CPU inside key generation", median(shares), 0.95, "of 1")
	b.report.atMost("longest wait / fair share", median(waits), 1.5, "×")
	return nil
}

// profiledLoad loads the server and meanwhile takes a profile of it.
func (b *bench) profiledLoad(ctx context.Context, s *server, clients []*client) (round samples, used time.Duration, share float64, err error) {
	file := filepath.Join(b.dir, "sustained.pprof")
	profiled := make(chan error, 1)
	before, err := s.processorTime()
	if err != nil {
		return round, 0, 0, err
	}
	// A little shorter than the load, so that it sees nothing else.
	go func() { profiled <- s.saveProfile(ctx, b.scale.sustained-2*time.Second, file) }()
	round, err = closedLoop(ctx, clients, limit{time: b.scale.sustained}, createESX)
	if err := errors.Join(err, <-profiled); err != nil {
		return round, 0, 0, err
	}
	after, err := s.processorTime()
	if err != nil {
		return round, 0, 0, err
	}
	share, err = profileShare(ctx, file, keygen)
	return round, after - before, share, err
}

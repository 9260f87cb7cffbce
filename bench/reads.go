package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const readClients = 8

// reads measures GET of the pending CSR beside a handler that does nothing.
func reads(ctx context.Context, b *bench) (err error) {
	s, err := b.start(ctx, b.binary, b.dataDir(), settings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	echo, err := b.startEcho(ctx, s.dataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, echo.stop()) }()
	if _, err := s.once(ctx, createESX(0)); err != nil {
		return err
	}
	session, err := s.session(ctx)
	if err != nil {
		return err
	}
	if err := s.rest(ctx); err != nil {
		return err
	}
	floorClients := echo.clients(readClients, http.Header{})
	defer closeAll(floorClients)
	floor := func(ctx context.Context) (samples, error) {
		return closedLoop(ctx, floorClients, limit{time: b.scale.time}, func(int) call { return call{"GET", "/", "", http.StatusOK} })
	}
	if _, err := floor(ctx); err != nil { // to warm up
		return err
	}
	for _, kind := range []struct {
		name   string
		header http.Header
		target float64
	}{
		{"session", http.Header{sessionHeader: {session}}, 0.5},
		{"Basic", basic(), 0.4},
	} {
		clients := s.clients(readClients, kind.header)
		if err := each(ctx, clients, getESX(0)); err != nil {
			return err
		}
		before, err := s.processorTime()
		if err != nil {
			return err
		}
		c, err := compare(ctx, b.scale.rounds, floor, func(ctx context.Context) (samples, error) {
			return closedLoop(ctx, clients, limit{time: b.scale.time}, getESX)
		})
		closeAll(clients)
		if err != nil {
			return err
		}
		after, err := s.processorTime()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("GET csr, %s, %s", kind.name, plural(readClients, "client"))
		r := figure(what, c.figure).besides(c, "echo that does nothing", perSecond, "/s")
		r.Note = fmt.Sprintf("server: %s ms of CPU each", number(milliseconds(after-before)/float64(r.Samples)))
		b.report.add(r)
		b.report.atLeast(what+" / echo", c.ratio(perSecond, perSecond), kind.target, "×")
	}
	return nil
}

// session logs in and returns the session's id.
func (s *server) session(ctx context.Context) (id string, err error) {
	answer, err := s.once(ctx, call{"POST", "/api/session", "", http.StatusCreated})
	if err != nil {
		return "", err
	}
	err = json.Unmarshal(answer, &id)
	return id, err
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	guessers    = 1000 // networks, each with a guess a second
	logins      = 10   // from the known network, and from new ones
	loginCost   = 10   // of bcrypt, as the service's own hashes
	knownPeople = "192.0.2.1"
)

// guessed measures logins while a thousand networks guess passwords. Each login is of
// another user, since a password that was right once is remembered.
func guessed(ctx context.Context, b *bench) error {
	users := filepath.Join(b.dir, "users")
	hash, err := bcrypt.GenerateFromPassword([]byte(password), loginCost)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for i := range 3 * logins {
		fmt.Fprintf(&lines, "user%d:%s\n", i, hash)
	}
	if err := os.WriteFile(users, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	s, err := b.start(ctx, b.binary, b.dataDir(), 1, "ATTESTCSR_AUTH_USERS_FILE="+users, "ATTESTCSR_TRUSTED_PROXIES=127.0.0.1")
	if err != nil {
		return err
	}
	var alone, known, unknown samples
	for i := range logins {
		took, err := s.logIn(ctx, i, knownPeople)
		if err != nil {
			return err
		}
		alone.latencies = append(alone.latencies, took)
	}
	life, end := context.WithCancel(ctx)
	var guessing sync.WaitGroup
	s.guess(life, &guessing)
	defer guessing.Wait()
	defer end()
	time.Sleep(b.scale.settle)
	for i := range logins {
		took, err := s.logIn(ctx, logins+i, knownPeople)
		if err != nil {
			return err
		}
		known.latencies = append(known.latencies, took)
	}
	for i := range logins {
		took, err := s.logIn(ctx, 2*logins+i, fmt.Sprintf("198.51.100.%d", i))
		if err != nil {
			return err
		}
		unknown.latencies = append(unknown.latencies, took)
	}
	what := fmt.Sprintf("login beside %d guessers, ", guessers)
	floor := "alone, ms " + number(quantile(0.5)(alone))
	b.report.atMost(1000, row{What: what + "known network: longest", Samples: logins, P50: quantile(0.5)(known), P99: quantile(0.99)(known), Value: quantile(1)(known), Unit: "ms", Floor: floor})
	b.report.atMost(60_000, row{What: what + "new network, with retries: longest", Samples: logins, P50: quantile(0.5)(unknown), P99: quantile(0.99)(unknown), Value: quantile(1)(unknown), Unit: "ms", Floor: floor})
	return nil
}

// logIn logs a user in from an address, and tries again each second while the answer is
// 503. It returns how long that took.
func (s *server) logIn(ctx context.Context, user int, from string) (time.Duration, error) {
	c := newClient("https://"+s.address, passwordFrom(from, fmt.Sprint("user", user), password))
	defer c.http.CloseIdleConnections()
	begun := time.Now()
	for {
		_, err := c.do(ctx, call{"POST", "/api/session", "", http.StatusCreated})
		if err == nil || !strings.Contains(err.Error(), "status 503") {
			return time.Since(begun), err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// guess has each of the networks send a wrong password a second, until ctx ends.
func (s *server) guess(ctx context.Context, tasks *sync.WaitGroup) {
	for g := range guessers {
		tasks.Go(func() {
			c := newClient("https://"+s.address, passwordFrom(fmt.Sprintf("10.0.%d.%d", g/250, g%250), "user0", fmt.Sprint("guess ", g)))
			defer c.http.CloseIdleConnections()
			next := time.Now().Add(time.Duration(g) * time.Second / guessers)
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Until(next)):
				}
				next = next.Add(time.Second)
				_, _ = c.do(ctx, call{"POST", "/api/session", "", http.StatusCreated}) // 401 or 503
			}
		})
	}
}

// passwordFrom are the headers of a client behind a proxy.
func passwordFrom(address, user, password string) http.Header {
	r := &http.Request{Header: http.Header{"X-Forwarded-For": {address}}}
	r.SetBasicAuth(user, password)
	return r.Header
}

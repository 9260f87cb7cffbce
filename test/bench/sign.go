package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

const (
	signClients = 32
	// signing matches the signature with an RSA key, however it is padded.
	signing = `crypto/rsa\.\(\*PrivateKey\)\.Sign`

	publishedKeys = "/.well-known/jwks.json"
)

// signDigestWith signs the digest of a token.
func signDigestWith(int) call {
	return call{
		"POST", "/v1/transit/sign/attestation",
		`{"input":"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=","prehashed":true}`, http.StatusOK,
	}
}

// transitHeader is that of a client with a session.
func (s *server) transitHeader(ctx context.Context) (http.Header, error) {
	body, err := s.once(ctx, call{"POST", "/v1/auth/userpass/login/admin", `{"password":"` + password + `"}`, http.StatusOK})
	if err != nil {
		return nil, err
	}
	var login struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	err = json.Unmarshal(body, &login)
	return http.Header{"X-Vault-Token": {login.Auth.Token}, "Content-Type": {"application/json"}}, err
}

// signs measures signatures with the installed key, and the GET of the published keys.
func signs(ctx context.Context, b *bench) (err error) {
	s, err := b.start(ctx, b.profiled, b.dataDir(), b.scale.pool)
	if err != nil {
		return err
	}
	floor, err := newCommitFloor(b.dataDir()+".floor", signDigest)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.db.Close()) }()
	header, err := s.transitHeader(ctx)
	if err != nil {
		return err
	}
	clients := s.clients(signClients, header)
	c, err := compare(ctx, b.scale.rounds, quiet(floor.loop(1, b.scale.samples), s), closedLoop(clients[:1], limit{count: b.scale.samples}, signDigestWith))
	if err != nil {
		return err
	}
	b.report.atMost(1.6, c.figure("sign, 1 client: p50", "signature + commit, 1 caller, ms", quantile(0.5), quantile(0.5)))
	if err := b.signsBesideCreates(ctx, s, clients); err != nil {
		return err
	}
	return errors.Join(b.signsOverSocket(ctx, s), b.published(ctx, s))
}

// signsBesideCreates compares many clients that sign with as many that create, and says
// what part of the server's processor time is signatures.
func (b *bench) signsBesideCreates(ctx context.Context, s *server, clients []*client) error {
	creators, err := s.greeted(ctx, signClients)
	if err != nil {
		return err
	}
	c, err := compare(ctx, b.scale.rounds, quiet(closedLoop(creators, limit{count: b.portion()}, createESX), s),
		quiet(closedLoop(clients, limit{count: b.portion()}, signDigestWith), s))
	if err != nil {
		return err
	}
	what := fmt.Sprintf("sign, %d clients: ", signClients)
	b.report.atLeast(1, c.figure(what+"throughput", "creates with a waiting key, /s", perSecond, perSecond))

	if err := filled(ctx, s); err != nil { // or the profile shows keys in the making
		return err
	}
	file := filepath.Join(b.dir, "sign.pprof")
	profiled := make(chan error, 1)
	// A little shorter than the load, so that it sees nothing else.
	go func() { profiled <- s.saveProfile(ctx, b.scale.time, file) }()
	_, err = closedLoop(clients, limit{time: b.scale.time + 2*time.Second}, signDigestWith)(ctx)
	if err := errors.Join(err, <-profiled); err != nil {
		return err
	}
	share, err := profileShare(ctx, file, signing)
	if err != nil {
		return err
	}
	b.report.atLeast(0.6, row{What: what + "signatures in the server's CPU", Value: share, Unit: "of 1"})
	return nil
}

// published measures GET of the published keys beside an empty handler.
func (b *bench) published(ctx context.Context, s *server) error {
	empty, err := b.startEmpty(ctx, s.dataDir)
	if err != nil {
		return err
	}
	get := func(path string) func(int) call {
		return func(int) call { return call{"GET", path, "", http.StatusOK} }
	}
	until := limit{time: b.scale.time}
	c, err := compare(ctx, b.scale.rounds, quiet(closedLoop(empty.clients(8, http.Header{}), until, get("/")), s), closedLoop(s.clients(8, http.Header{}), until, get(publishedKeys)))
	if err != nil {
		return err
	}
	b.report.atLeast(0.5, c.figure("GET of the published keys, 8 clients: throughput", "empty handler, /s", perSecond, perSecond))
	return nil
}

package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	product "attestcsr/server"
)

// core is the service without processes, sockets and dialects: what a signature costs in
// this process.
type core struct {
	keys  *keystore.Keystore
	trail *audit.Log
	grant *csr.Grant
}

func newCore(ctx context.Context, dir string) (*core, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	store, err := bolt.Open(filepath.Join(dir, "attestcsr.db"), bolt.Options{})
	if err != nil {
		return nil, err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		return nil, err
	}
	records, err := custodian.MAC(product.RecordsPurpose)
	lines, anchors, trailErr := product.TrailMACs(custodian)
	if err := errors.Join(err, trailErr); err != nil {
		return nil, err
	}
	c, log := &core{}, slog.New(slog.DiscardHandler)
	if c.keys, err = keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian, MAC: records, Logger: log}); err != nil {
		return nil, err
	}
	if c.trail, err = audit.Open(ctx, audit.Options{
		Outbox: store, MAC: lines, Anchors: anchors, Dir: filepath.Join(dir, "audit"), Logger: log, State: product.TrailState(c.keys), Commit: c.keys.Note,
		MaxFileSize: 1 << 30, MaxRefusalsSize: 1 << 30, MaxSignaturesSize: 1 << 30, OutboxBound: 10_000, Now: time.Now,
	}); err != nil {
		return nil, err
	}
	service, err := csr.New(csr.Config{
		Keys: c.keys, KeySizes: []int{2048}, Hostname: host, MaxRequests: 1, MaxCertificates: 1, Audit: c.trail, Logger: log, Now: time.Now,
	})
	if err == nil {
		err = service.Prepare(ctx)
	}
	if err != nil {
		return nil, err
	}
	caller := csr.Caller{Request: audit.Request{User: "bench"}, Privileges: csr.Privileges()}
	c.grant, err = service.AuthoriseKey(caller, csr.SignKey, csr.KeyName{})
	return c, err
}

// close is for a core whose newCore has succeeded.
func (c *core) close(ctx context.Context) error {
	return errors.Join(c.trail.Close(ctx), c.keys.Close())
}

func (c *core) sign(ctx context.Context) error {
	digest := sha256.Sum256([]byte(token))
	made, err := c.grant.Sign(ctx, []csr.SignInput{{Digest: digest[:], Hash: crypto.SHA256, Scheme: csr.PKCS1v15}})
	if err != nil {
		return err
	}
	return made[0].Err
}

// token is what is signed.
const token = "token"

// signsOverSocket compares signatures over the socket for programs on the same host with
// signatures in this process.
func (b *bench) signsOverSocket(ctx context.Context, s *server) (err error) {
	c, err := newCore(ctx, b.dataDir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close(ctx)) }()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	client := agent.NewClient(conn)
	listed, err := client.List()
	if err != nil {
		return err
	}
	if len(listed) != 1 {
		return errors.New("the signer does not list the key")
	}
	overSocket := func(context.Context) error {
		_, err := client.SignWithFlags(listed[0], []byte(token), agent.SignatureFlagRsaSha256)
		return err
	}
	measured, err := compare(ctx, b.scale.rounds, quiet(alone(b.scale.samples, c.sign), s), alone(b.scale.samples, overSocket))
	if err != nil {
		return err
	}
	b.report.atMost(1.2, measured.figure("sign over the socket, 1 client: p50", "in process, ms", quantile(0.5), quantile(0.5)))
	return nil
}

// alone has one caller do something again and again.
func alone(count int, do func(context.Context) error) measure {
	return func(ctx context.Context) (samples, error) {
		return together(ctx, 1, func(ctx context.Context, _ int) (latencies []time.Duration, err error) {
			for range count {
				begun := time.Now()
				if err := do(ctx); err != nil {
					return nil, err
				}
				latencies = append(latencies, time.Since(begun))
			}
			return latencies, nil
		})
	}
}

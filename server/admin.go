package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/server/control"
)

// admin implements control.Operations with what a service has open, or a command that
// holds the store's lock, in the name of who asks.
type admin struct {
	*Server
	who audit.Request
}

var _ control.Operations = admin{}

// startControl serves the control socket. A service without one works, and commands
// say that it has to be stopped for them.
func (s *Server) startControl() (stop func()) {
	c, err := control.Start(s.cfg.DataDir, s.log, func(who audit.Request) control.Operations { return admin{s, who} })
	if err != nil {
		s.log.Warn("there is no control socket: stop the service to use commands such as reset-password and audit verify", "err", err)
		return func() {}
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := c.Stop(ctx); err != nil {
			s.log.Warn("control socket", "err", err)
		}
	}
}

// startTimeout is how long a command waits for the socket of a service that starts.
const startTimeout = 5 * time.Second

// Administer returns the operations of the service that runs on data_dir, or the same
// ones over the store, which is locked until end.
func Administer(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ control.Operations, end func() error, err error) {
	return administer(ctx, cfg, log, true)
}

// administer opens the audit trail only on request, since that writes lines.
func administer(ctx context.Context, cfg *config.Config, log *slog.Logger, writes bool) (_ control.Operations, end func() error, err error) {
	for deadline := time.Now().Add(startTimeout); ; {
		client, err := control.Dial(ctx, cfg.DataDir)
		if err == nil {
			return client, func() error { return nil }, nil
		}
		if !errors.Is(err, control.ErrNoService) {
			return nil, nil, err
		}
		s, err := openAlone(ctx, cfg, log, writes)
		switch {
		case err == nil:
			return admin{s, control.Self()}, s.Close, nil
		case !errors.Is(err, bolt.ErrLocked):
			return nil, nil, err
		case time.Now().After(deadline):
			return nil, nil, fmt.Errorf("a service uses %s and has no control socket: its log says why; stop the service and run this command again", cfg.DataDir)
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// openAlone opens what a command needs where no service runs. It makes no store: there
// is nothing to administer where no service has ever started.
func openAlone(ctx context.Context, cfg *config.Config, log *slog.Logger, writes bool) (_ *Server, err error) {
	store := filepath.Join(cfg.DataDir, StoreFile)
	if _, err := os.Stat(store); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s: is data_dir right? The first start of the service makes it", store)
	}
	alone := *cfg
	alone.KeyPool.Targets = nil // no key is made that nobody asks for
	s := &Server{cfg: &alone, log: log}
	if err := s.openKeystore(ctx, runtime.GOMAXPROCS(0), false); err != nil {
		return nil, err
	}
	if writes {
		if err := s.openAudit(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// record commits a note of an administration event. It comes before the event, so that
// a crash in between leaves a line too many, and not one too few.
func (s *Server) record(ctx context.Context, who audit.Request, e audit.Event) error {
	e.Request = who
	note, err := s.audit.NoteAdministration(e)
	if err != nil || note == nil {
		return err
	}
	if err := s.keys.Note(ctx, note); err != nil {
		return fmt.Errorf("nothing was done, since the audit trail cannot have a line of it: %w", err)
	}
	return nil
}

func (a admin) KeysetStatus(ctx context.Context) (control.KeysetStatus, error) {
	return a.keysetStatus(ctx)
}

func (a admin) RotateKeyset(ctx context.Context) (control.KeysetStatus, error) {
	return a.rotateKeyset(ctx, a.who)
}

func (a admin) RetireKeys(ctx context.Context) (control.KeysetStatus, error) {
	return a.retireKeys(ctx, a.who)
}

// Snapshot reads the store at one moment.
func (a admin) Snapshot(ctx context.Context) (audit.Snapshot, error) { return a.snapshot(ctx) }

// ResetPassword gives the built-in admin a new random password. A running service does
// it, and takes it over by itself.
func ResetPassword(ctx context.Context, cfg *config.Config, log *slog.Logger, terminal bool) (_ Password, err error) {
	if err := ownPassword(cfg); err != nil {
		return Password{}, err
	}
	o, end, err := Administer(ctx, cfg, log)
	if err != nil {
		return Password{}, err
	}
	defer func() { err = errors.Join(err, end()) }()
	return o.ResetPassword(ctx, terminal)
}

func (a admin) ResetPassword(ctx context.Context, terminal bool) (Password, error) {
	if err := ownPassword(a.cfg); err != nil {
		return Password{}, err
	}
	a.resetting.Lock()
	defer a.resetting.Unlock()
	if err := a.record(ctx, a.who, audit.Event{Operation: "password.reset"}); err != nil {
		return Password{}, err
	}
	return resetAdmin(a.cfg.DataDir, terminal)
}

// checkpointSlot holds the key that signs checkpoints. Its payload is the public key
// (PKIX, DER).
var checkpointSlot = keystore.Slot{Collection: "audit", ID: "checkpoint"}

func (a admin) Checkpoint(ctx context.Context) (string, error) {
	if _, err := a.CheckpointKey(ctx); err != nil { // makes the key
		return "", err
	}
	var made audit.Checkpoint
	err := a.keys.Use(ctx, checkpointSlot, func(key crypto.Signer, _ keystore.Record) (err error) {
		made, err = a.audit.Checkpoint(ctx, func(digest []byte) ([]byte, error) { return key.Sign(rand.Reader, digest, crypto.SHA256) })
		return err
	})
	return made.String(), err
}

// CheckpointKey makes the key at its first use.
func (a admin) CheckpointKey(ctx context.Context) (string, error) {
	r, err := a.keys.Get(ctx, checkpointSlot)
	if errors.Is(err, keystore.ErrNotFound) {
		_, err = a.keys.Replace(ctx, keystore.Target{Slot: checkpointSlot, Expect: keystore.Absent}, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256},
			func(key crypto.Signer) (keystore.Change, error) {
				public, err := x509.MarshalPKIXPublicKey(key.Public())
				if err != nil {
					return keystore.Change{}, err
				}
				sum := sha256.Sum256(public)
				note, err := a.audit.NoteAdministration(audit.Event{
					Request: a.who, Operation: "audit.checkpoint-key", Slot: checkpointSlot.String(), Payload: hex.EncodeToString(sum[:]),
				})
				return keystore.Change{Payload: public, Note: note}, err
			})
		if err == nil || errors.Is(err, keystore.ErrConflict) { // another command was faster
			r, err = a.keys.Get(ctx, checkpointSlot)
		}
	}
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: r.Payload})), nil
}

func (a admin) Accept(ctx context.Context, reason string) (audit.Accepted, error) {
	return a.audit.Accept(ctx, a.who, reason)
}

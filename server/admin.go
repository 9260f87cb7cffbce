package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	"attestcsr/server/control"
	"attestcsr/server/serving"
	"attestcsr/server/tlscert"
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
	if err := checkRestored(cfg.DataDir); err != nil {
		return nil, err
	}
	return openFiles(ctx, cfg, log, writes)
}

// openFiles is openAlone for a data_dir that may not be complete.
func openFiles(ctx context.Context, cfg *config.Config, log *slog.Logger, writes bool) (_ *Server, err error) {
	alone := *cfg
	alone.KeyPool.Targets = nil // no key is made that nobody asks for
	s := &Server{cfg: &alone, log: log}
	opened, err := s.openStore()
	if err == nil {
		err = s.openKeystore(ctx, runtime.GOMAXPROCS(0), opened)
	}
	if err != nil {
		return nil, err
	}
	if writes {
		err := s.openAudit(ctx)
		if err == nil {
			s.service, err = s.newService()
		}
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

func (a admin) KeysetStatus(ctx context.Context) (control.KeysetStatus, error) {
	return a.keysetStatus(ctx)
}

func (a admin) RotateKeyset(ctx context.Context) (control.KeysetStatus, error) {
	return a.rotateKeyset(ctx, a.who)
}

func (a admin) Backup(ctx context.Context, ask control.BackupRequest, to io.Writer) (control.BackupReport, error) {
	return a.backup(ctx, a.who, ask, to)
}

func (a admin) RetireKeys(ctx context.Context) (control.KeysetStatus, error) {
	return a.retireKeys(ctx, a.who)
}

// Unstage implements control.Operations.
func (a admin) Unstage(ctx context.Context) error {
	err := a.service.Unstage(ctx, a.who)
	if csr.Is(err, csr.NotFound) {
		return errors.New("no certificate is staged")
	}
	return err
}

// Snapshot reads the store at one moment.
func (a admin) Snapshot(ctx context.Context) (audit.Snapshot, error) { return a.snapshot(ctx) }

// ResetPassword gives the built-in admin a new random password. A running service does
// it, and takes it over by itself.
func ResetPassword(ctx context.Context, cfg *config.Config, log *slog.Logger, terminal bool) (_ Password, err error) {
	if err := userFiles(cfg, log).OwnPassword(); err != nil {
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
	a.accounts.Lock()
	defer a.accounts.Unlock()
	files := a.userFiles()
	if err := files.OwnPassword(); err != nil {
		return Password{}, err
	}
	if err := a.record(ctx, a.who, audit.Event{Operation: "password.reset"}); err != nil {
		return Password{}, err
	}
	known, err := files.ResetAdmin(terminal)
	if err == nil && a.auth != nil {
		err = a.takeUsers()
	}
	return known, err
}

// checkpointSlot holds the key that signs checkpoints. Its payload is the public key
// (PKIX, DER).
var checkpointSlot = keystore.Slot{Collection: "audit", ID: "checkpoint"}

func (a admin) Checkpoint(ctx context.Context) (string, error) {
	if _, err := a.CheckpointKey(ctx); err != nil { // makes the key
		return "", err
	}
	var made audit.Checkpoint
	err := a.keys.Use(ctx, checkpointSlot, func(key crypto.Signer, _ keystore.Record) (_ []byte, err error) {
		made, err = a.audit.Checkpoint(ctx, func(digest []byte) ([]byte, error) { return key.Sign(rand.Reader, digest, crypto.SHA256) })
		return nil, err
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

// CheckStore implements control.Operations. It opens every key, which takes minutes
// for hundreds of thousands of records, and changes no record.
func (a admin) CheckStore(ctx context.Context) (r control.StoreReport, err error) {
	r.Problems = []control.StoreProblem{}
	if err := a.keys.Ready(ctx); err != nil {
		r.Add("the store", err)
	}
	if err := a.store.CheckIndexes(ctx, r.Add); err != nil {
		return r, err
	}
	switch n, err := a.keys.Orphans(ctx); {
	case err != nil:
		return r, err
	case n > 0:
		r.Add("the custodian of keys", fmt.Errorf("it holds %d keys that no record refers to: the next start destroys them", n))
	}
	var slots []keystore.Slot
	_, err = a.keys.Inspect(ctx, func(slot keystore.Slot, _ uint64, _ [32]byte, err error) error {
		r.Records++
		if err != nil {
			r.Add(slot.String(), err)
			return nil
		}
		slots = append(slots, slot)
		return nil
	})
	if err != nil {
		return r, err
	}
	for _, slot := range slots {
		err := a.keys.Use(ctx, slot, func(key crypto.Signer, record keystore.Record) ([]byte, error) {
			return nil, checkRecord(record, key.Public())
		})
		if errors.Is(err, keystore.ErrNoKey) {
			var record keystore.Record
			if record, err = a.keys.Get(ctx, slot); err == nil {
				err = csr.CheckRetired(record)
			}
		}
		switch {
		case ctx.Err() != nil:
			return r, ctx.Err()
		case err != nil && !errors.Is(err, keystore.ErrNotFound): // a client was faster
			r.Add(slot.String(), err)
		}
	}
	return r, nil
}

// sessionLifetime bounds the sessions of commands on the service's own host.
const sessionLifetime = 10 * time.Minute

// OpenSession implements control.Operations.
func (a admin) OpenSession(_ context.Context, dialect string) (control.Session, error) {
	if a.address == "" {
		return control.Session{}, errors.New("no service runs: start it first")
	}
	made, err := a.handler.OpenSession(a.who, dialect, sessionLifetime)
	return control.Session{
		Server:      "https://" + serving.Near(a.address)[0],
		Fingerprint: tlscert.FingerprintsOf(a.cert.Leaf()).PublicKey,
		User:        made.User, Session: made.Session, XSRF: made.XSRF, Expires: made.Expires,
	}, err
}

func checkRecord(r keystore.Record, public crypto.PublicKey) error {
	if r.Slot != checkpointSlot {
		return csr.CheckRecord(r, public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err == nil && !bytes.Equal(der, r.Payload) {
		err = errors.New("the key is not that of the public key beside it")
	}
	return err
}

// StoreCheck is what was found in a store and its audit trail.
type StoreCheck struct {
	OK bool `json:"ok"`
	control.StoreReport
	Trail []audit.Summary `json:"trail"`
}

// CheckStore checks the store, and the audit trail against it.
func CheckStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (found StoreCheck, err error) {
	o, end, err := administer(ctx, cfg, log, false)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, end()) }()
	if found.StoreReport, err = o.CheckStore(ctx); err != nil {
		return found, err
	}
	found.Trail, err = verify(ctx, cfg, nil, o)
	found.OK = found.whole()
	return found, err
}

func (c StoreCheck) whole() bool {
	damaged := func(s audit.Summary) bool { return len(s.Problems) > 0 }
	return len(c.Problems) == 0 && !slices.ContainsFunc(c.Trail, damaged)
}

// VerifyTrail checks the audit trail in data_dir, and in the directories that are
// given, against the keyset and the store.
func VerifyTrail(ctx context.Context, cfg *config.Config, log *slog.Logger, dirs []string) (_ []audit.Summary, err error) {
	o, end, err := administer(ctx, cfg, log, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	return verify(ctx, cfg, dirs, o)
}

func verify(ctx context.Context, cfg *config.Config, dirs []string, o control.Operations) ([]audit.Summary, error) {
	custodian, err := sealed.Open(sealed.Options{KeysetFile: keysetPath(cfg)})
	if err != nil {
		return nil, err
	}
	return verifyWith(ctx, custodian, audit.VerifyOptions{Dirs: trailDirs(cfg, dirs), Snapshot: o.Snapshot})
}

func verifyWith(ctx context.Context, custodian *sealed.Custodian, o audit.VerifyOptions) (_ []audit.Summary, err error) {
	if o.MAC, o.Anchors, err = TrailMACs(custodian); err != nil {
		return nil, err
	}
	return audit.Verify(ctx, o)
}

// VerifyCheckpoint checks that the lines of a trail go on from a checkpoint, and says
// so. It needs neither store nor keyset.
func VerifyCheckpoint(cfg *config.Config, dirs []string, checkpointFile, publicKeyFile string) (string, error) {
	text, err := readSmall(checkpointFile)
	if err != nil {
		return "", err
	}
	checkpoint, err := audit.ParseCheckpoint(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", checkpointFile, err)
	}
	if text, err = readSmall(publicKeyFile); err != nil {
		return "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return "", fmt.Errorf("%s holds no public key in PEM", publicKeyFile)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", publicKeyFile, err)
	}
	if err := audit.VerifyCheckpoint(trailDirs(cfg, dirs), checkpoint, public); err != nil {
		return "", err
	}
	return fmt.Sprintf("the trail goes on from line %d, where it was at %s", checkpoint.Seq, checkpoint.Time.Format(time.RFC3339)), nil
}

// trailDirs are the directories that hold files of the trail.
func trailDirs(cfg *config.Config, archives []string) []string {
	return append(archives, filepath.Join(cfg.DataDir, AuditDir))
}

// readSmall reads the beginning of a file that a person names: all of it, if it is what
// it should be.
func readSmall(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err = io.ReadAll(io.LimitReader(f, 64<<10))
	return text, errors.Join(err, f.Close())
}

package server

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/sealed"
	"attestcsr/server/control"
)

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
		err := a.keys.Use(ctx, slot, func(key crypto.Signer, record keystore.Record) error { return checkRecord(record, key.Public()) })
		switch {
		case ctx.Err() != nil:
			return r, ctx.Err()
		case err != nil && !errors.Is(err, keystore.ErrNotFound): // a client was faster
			r.Add(slot.String(), err)
		}
	}
	return r, nil
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
	damaged := func(s audit.Summary) bool { return len(s.Problems) > 0 }
	found.OK = len(found.Problems) == 0 && !slices.ContainsFunc(found.Trail, damaged)
	return found, err
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
	lines, anchors, err := TrailMACs(custodian)
	if err != nil {
		return nil, err
	}
	return audit.Verify(ctx, audit.VerifyOptions{Dirs: trailDirs(cfg, dirs), MAC: lines, Anchors: anchors, Snapshot: o.Snapshot})
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

package server

import (
	"context"
	"path/filepath"
	"time"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
)

const (
	// AuditPurpose is what the keys of the audit trail are derived for. Another text
	// gives other keys, and lines that were written before do not verify.
	AuditPurpose = "audit trail 1"
	// auditTimeout is how long a stop waits for the trail to be written.
	auditTimeout = 5 * time.Second
)

// openAudit opens the audit trail over the store that was just opened.
func (s *Server) openAudit(ctx context.Context, custodian *sealed.Custodian) error {
	if startBenchmark(s.cfg.DataDir) {
		return nil
	}
	mac, err := custodian.MAC(AuditPurpose)
	if err != nil {
		return err
	}
	s.audit, err = audit.Open(ctx, audit.Options{
		Outbox: s.outbox, MAC: mac, Dir: filepath.Join(s.cfg.DataDir, AuditDir), Logger: s.log,
		MaxFileSize: s.cfg.Audit.MaxFileSize, MaxRefusalsSize: s.cfg.Audit.MaxRefusalsSize, OutboxBound: s.cfg.Audit.OutboxBound,
		CopyToLog: s.cfg.Audit.CopyToLog, Now: time.Now,
	})
	return err
}

// closeAudit writes what waits. It comes after the last request and before the
// store is closed.
func (s *Server) closeAudit() error {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	return s.audit.Close(ctx)
}

// VerifyTrail checks the audit trail in data_dir, and in the directories that are
// given, against the keyset and the store.
func VerifyTrail(ctx context.Context, cfg *config.Config, dirs []string) ([]audit.Summary, error) {
	custodian, err := sealed.Open(sealed.Options{KeysetFile: keysetPath(cfg)})
	if err != nil {
		return nil, err
	}
	mac, err := custodian.MAC(AuditPurpose)
	if err != nil {
		return nil, err
	}
	return audit.Verify(ctx, audit.VerifyOptions{
		Dirs: append(dirs, filepath.Join(cfg.DataDir, AuditDir)), MAC: mac,
		Snapshot: func(ctx context.Context) (audit.Snapshot, error) { return AuditSnapshot(ctx, cfg.DataDir) },
	})
}

// AuditSnapshot is what the store in a data directory says of the trail.
func AuditSnapshot(ctx context.Context, dataDir string) (audit.Snapshot, error) {
	found, err := bolt.Peek(ctx, filepath.Join(dataDir, StoreFile))
	return audit.Snapshot{Anchors: found.Anchors, Pending: found.Pending}, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
)

const (
	// auditPurpose is what the keys of the audit trail are derived for. Another text
	// gives other keys, and lines that were written before do not verify.
	auditPurpose = "audit trail 1"
	// auditTimeout is how long a stop waits for the trail to be written.
	auditTimeout = 5 * time.Second
)

// openAudit opens the audit trail over the store that was just opened.
func (s *server) openAudit(ctx context.Context, custodian *sealed.Custodian) error {
	if startBenchmark(s.cfg.DataDir) {
		return nil
	}
	mac, err := custodian.MAC(auditPurpose)
	if err != nil {
		return err
	}
	s.audit, err = audit.Open(ctx, audit.Options{
		Outbox: s.outbox, MAC: mac, Dir: filepath.Join(s.cfg.DataDir, auditDir), Logger: s.log,
		MaxFileSize: s.cfg.Audit.MaxFileSize, MaxRefusalsSize: s.cfg.Audit.MaxRefusalsSize, OutboxBound: s.cfg.Audit.OutboxBound,
		CopyToLog: s.cfg.Audit.CopyToLog,
	})
	return err
}

// closeAudit writes what waits. It comes after the last request and before the
// store is closed.
func (s *server) closeAudit() error {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	return s.audit.Close(ctx)
}

func (p process) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Check the audit trail", Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}
	verify := &cobra.Command{
		Use:   "verify [DIRECTORY...]",
		Short: "Say whether the audit trail is whole, and where it is not: exit status 0 or 1",
		Long: "Reads the audit trail in data_dir, and files that were moved to the given directories.\n" +
			"Checks it against the sealing keyset and the store, and finds lines that were edited,\n" +
			"removed, added, put in another order or cut off. The service may run meanwhile.\n" +
			"Whoever has the keyset can forge the trail: keep copies of the trail elsewhere.",
	}
	load := p.settings(verify)
	verify.RunE = func(cmd *cobra.Command, dirs []string) error {
		cfg, warnings, err := load()
		if err != nil {
			return err
		}
		warn(p.stderr, warnings)
		streams, err := verifyTrail(cmd.Context(), cfg, dirs)
		if err != nil {
			return err
		}
		problems := 0
		for _, s := range streams {
			if err := writeSummary(p.stdout, s); err != nil {
				return err
			}
			problems += len(s.Problems)
		}
		if problems > 0 {
			return errors.New("the audit trail is not what the service wrote: keep the files as they are and find out who changed them")
		}
		return nil
	}
	cmd.AddCommand(verify)
	return cmd
}

// verifyTrail checks the audit trail in data_dir, and in the directories that are
// given, against the keyset and the store.
func verifyTrail(ctx context.Context, cfg *config.Config, dirs []string) ([]audit.Summary, error) {
	custodian, err := sealed.Open(sealed.Options{KeysetFile: keysetPath(cfg)})
	if err != nil {
		return nil, err
	}
	mac, err := custodian.MAC(auditPurpose)
	if err != nil {
		return nil, err
	}
	return audit.Verify(ctx, audit.VerifyOptions{
		Dirs: append(dirs, filepath.Join(cfg.DataDir, auditDir)), MAC: mac,
		Snapshot: func(ctx context.Context) (audit.Snapshot, error) { return auditSnapshot(ctx, cfg.DataDir) },
	})
}

// auditSnapshot is what the store in a data directory says of the trail.
func auditSnapshot(ctx context.Context, dataDir string) (audit.Snapshot, error) {
	found, err := bolt.Peek(ctx, filepath.Join(dataDir, storeFile))
	return audit.Snapshot{Anchors: found.Anchors, Pending: found.Pending}, err
}

func writeSummary(w io.Writer, s audit.Summary) error {
	for _, problem := range s.Problems {
		if _, err := fmt.Fprintln(w, problem); err != nil {
			return err
		}
	}
	verdict := "whole"
	if len(s.Problems) > 0 {
		verdict = "damaged; this is what could be verified"
	}
	text := fmt.Sprintf("%s: %d lines in %d files", s.Stream, s.Lines, s.Files)
	if s.Lines > 0 {
		text += fmt.Sprintf(", sequence %d to %d, %s to %s", s.First, s.Last, s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", text, verdict)
	return err
}

package server

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/sealed"
)

const (
	// AuditPurpose is what the keys of the audit trail are derived for. Its keys outlive
	// the retirement of a sealing key, since its lines do.
	AuditPurpose = sealed.RetainedPurpose
	// anchorPurpose is the same for anchors, of which nobody needs old ones.
	anchorPurpose = "audit anchor 1"
	// auditTimeout is how long a stop waits for the trail to be written.
	auditTimeout = 5 * time.Second
)

// openAudit opens the audit trail over the store that was just opened.
func (s *Server) openAudit(ctx context.Context) error {
	if startBenchmark(s.cfg.DataDir) {
		return nil
	}
	lines, anchors, err := TrailMACs(s.custodian)
	if err != nil {
		return err
	}
	s.audit, err = audit.Open(ctx, audit.Options{
		Outbox: s.store, MAC: lines, Anchors: anchors, Dir: filepath.Join(s.cfg.DataDir, AuditDir), Logger: s.log,
		State: TrailState(s.keys), CheckNote: checkNote(s.keys), Commit: s.keys.Note,
		MaxFileSize: s.cfg.Audit.MaxFileSize, MaxRefusalsSize: s.cfg.Audit.MaxRefusalsSize, MaxSignaturesSize: s.cfg.Audit.MaxSignaturesSize,
		OutboxBound: s.cfg.Audit.OutboxBound,
		CopyToLog:   s.cfg.Audit.CopyToLog, Now: time.Now,
	})
	if err != nil {
		return err
	}
	if err := s.recordKeyset(ctx, audit.ByService()); err != nil {
		s.log.Error("the audit trail cannot say which sealing keyset is in use: it is tried again", "error", err)
	}
	return nil
}

// TrailMACs returns the codes of lines and of anchors.
func TrailMACs(custodian *sealed.Custodian) (lines, anchors audit.MAC, err error) {
	if lines, err = custodian.MAC(AuditPurpose); err != nil {
		return nil, nil, err
	}
	anchors, err = custodian.MAC(anchorPurpose)
	return lines, anchors, err
}

// TrailState is the store's side of the audit trail.
func TrailState(keys *keystore.Keystore) audit.State {
	return func(ctx context.Context, fn func(slot string, revision uint64, digest [sha256.Size]byte, err error) error) (audit.Snapshot, error) {
		var each func(keystore.Slot, uint64, [sha256.Size]byte, error) error
		if fn != nil {
			each = func(slot keystore.Slot, revision uint64, digest [sha256.Size]byte, err error) error {
				return fn(slot.String(), revision, digest, err)
			}
		}
		found, err := keys.Inspect(ctx, each)
		state := audit.Snapshot{Revision: found.Revision, Head: found.Head, Anchors: found.Anchors}
		for _, n := range found.Notes {
			one := audit.Note{Revision: n.Revision, Previous: n.Previous, Code: n.Code, Text: n.Text}
			if err := keys.CheckNote(n); err != nil {
				one.Problem = err.Error()
			}
			state.Notes = append(state.Notes, one)
		}
		return state, err
	}
}

func checkNote(keys *keystore.Keystore) func(revision uint64, previous, code, note []byte) error {
	return func(revision uint64, previous, code, note []byte) error {
		return keys.CheckNote(keystore.Note{Revision: revision, Previous: previous, Code: code, Text: note})
	}
}

// snapshot is what the store says of the audit trail now.
func (s *Server) snapshot(ctx context.Context) (audit.Snapshot, error) {
	return audit.Take(ctx, TrailState(s.keys))
}

// closeAudit writes what waits. It comes after the last request and before the
// store is closed.
func (s *Server) closeAudit() error {
	ctx, cancel := context.WithTimeout(context.Background(), auditTimeout)
	defer cancel()
	return s.audit.Close(ctx)
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

// noteEvent records what the service does by itself. It happens whether or not the
// trail can have a line of it, and the log has it then.
func (s *Server) noteEvent(ctx context.Context, e audit.Event) {
	if err := s.record(ctx, audit.ByService(), e); err != nil {
		s.log.Error("an event is missing in the audit trail", "operation", e.Operation, "err", err)
	}
}

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore/ownfile"
	"attestcsr/keystore/sealed"
	"attestcsr/server/control"
)

// sealing is what a service does about changes of its keyset.
type sealing struct {
	change sync.Mutex             // held while the keyset changes, records are sealed again, or a backup is made
	doing  atomic.Pointer[string] // what it is held for
	// wake holds a token when there may be something to do. Nil where no service runs:
	// a command does all before it ends.
	wake   chan struct{}
	failed atomic.Pointer[string] // why the last try failed
}

const (
	resealRetry = time.Minute
	// sealingPatience is how long a command waits for what the service does by itself.
	sealingPatience = 3 * time.Second
)

// take gives the keyset to one who changes it or copies it, until release is called. Who
// comes second waits a little, and is told what the first does.
func (s *sealing) take(ctx context.Context, doing string) (release func(), err error) {
	for begun := time.Now(); !s.change.TryLock(); {
		if time.Since(begun) > sealingPatience {
			first := "something else is being done with the keyset"
			if text := s.doing.Load(); text != nil {
				first = *text
			}
			return nil, fmt.Errorf("%s: run this command again when that has ended", first)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.doing.Store(&doing)
	return s.change.Unlock, nil
}

const keysetChanges = "the sealing keyset is being changed, or records are being sealed again"

// keepKeyset takes up what the keyset file holds whenever it changes, and seals records
// again, until ctx ends. At the start it goes on with what a crash left.
func (s *Server) keepKeyset(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(ctx, s.wakeKeyset, keysetPath(s.cfg)) })
	defer tasks.Wait()
	retry := time.NewTicker(resealRetry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sealing.wake:
		case <-retry.C:
			if s.sealing.failed.Load() == nil {
				continue
			}
		}
		err := s.followKeyset(ctx)
		switch {
		case err == nil:
			s.sealing.failed.Store(nil)
		case ctx.Err() == nil:
			text := err.Error()
			s.sealing.failed.Store(&text)
			s.log.Error("what the sealing keyset asks for is not done yet: it is tried again every minute", "error", err)
		}
	}
}

func (s *Server) wakeKeyset() {
	select {
	case s.sealing.wake <- struct{}{}:
	default:
	}
}

func (s *Server) followKeyset(ctx context.Context) error {
	s.sealing.change.Lock()
	defer s.sealing.change.Unlock()
	s.sealing.doing.Store(new(keysetChanges))
	err := errors.Join(s.takeUpKeyset(ctx, audit.ByService()), s.renew(ctx))
	if err != nil {
		return err
	}
	// A retirement that a crash ended. One of before another rotation was of other keys.
	primary, err := os.ReadFile(s.retiringPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && string(primary) == s.keysetState().Primary:
		err = s.retire(ctx, audit.ByService())
	}
	return errors.Join(err, os.Remove(s.retiringPath()))
}

// takeUpKeyset reads the keyset file again, and has what changed recorded.
func (s *Server) takeUpKeyset(ctx context.Context, who audit.Request) error {
	if err := stillTrusted(s.cfg, keysetPath(s.cfg)); err != nil {
		return fmt.Errorf("the keyset before stays in use: %w", err)
	}
	changed, err := s.custodian.Reload(func() error { return s.renew(ctx) })
	if err != nil {
		return fmt.Errorf("the keyset before stays in use: %w", err)
	}
	if changed {
		s.log.Info("another sealing keyset is in use", "primary", s.keysetState().Primary)
	}
	return s.recordKeyset(ctx, who)
}

// keysetAnchor is the name of the anchor that says which state of the keyset has its
// lines in the trail.
const keysetAnchor = "keyset"

type keysetState struct {
	Primary string   `json:"primary"`
	Retired []string `json:"retired,omitempty"`
}

func (s *Server) keysetState() (now keysetState) {
	for _, k := range s.custodian.Keys() {
		if k.Primary {
			now.Primary = k.ID
		}
		if k.Retired {
			now.Retired = append(now.Retired, k.ID)
		}
	}
	return now
}

// recordKeyset commits notes of what happened to the keyset since the last note of it,
// whoever did it. A crash before the anchor leaves a note that the next start repeats.
func (s *Server) recordKeyset(ctx context.Context, who audit.Request) error {
	text, err := s.store.Anchor(ctx, keysetAnchor)
	if err != nil {
		return err
	}
	now := s.keysetState()
	before := now // at the first start
	if text != nil {
		before = keysetState{}
		if err := json.Unmarshal(text, &before); err != nil {
			s.log.Error("the store does not say which keyset was in use: find out who wrote to it", "error", err)
		}
	}
	retired := slices.DeleteFunc(slices.Clone(now.Retired), func(id string) bool { return slices.Contains(before.Retired, id) })
	if text != nil && now.Primary == before.Primary && len(retired) == 0 {
		return nil
	}
	if now.Primary != before.Primary {
		err = s.record(ctx, who, audit.Event{Operation: "keyset.rotate", FromKey: before.Primary, ToKey: now.Primary})
	}
	if err == nil && len(retired) > 0 {
		err = s.record(ctx, who, audit.Event{Operation: "keyset.retire", FromKey: strings.Join(retired, " "), ToKey: now.Primary})
		if err == nil {
			err = s.store.RequestCompaction(ctx) // what was sealed with them is in free pages still
		}
	}
	if err != nil {
		return err
	}
	if text, err = json.Marshal(now); err != nil {
		return err
	}
	return s.store.Trim(ctx, 0, map[string][]byte{keysetAnchor: text})
}

func (s *Server) hasOlderKeys() bool {
	return slices.ContainsFunc(s.custodian.Keys(), func(k sealed.KeyInfo) bool { return !k.Primary && !k.Retired })
}

// reseal brings all records under the primary key.
func (s *Server) reseal(ctx context.Context) error {
	return s.keys.Reseal(ctx, func(done, total int) {
		if done%10_000 == 0 || done == total {
			s.log.Info("records are sealed again under the primary key of the keyset", "done", done, "of", total)
		}
	})
}

// renew makes everything in the store independent of older keys: records, notes, and
// anchors. It is what has to be true before they go.
func (s *Server) renew(ctx context.Context) error {
	if !s.hasOlderKeys() {
		return nil
	}
	err := s.reseal(ctx)
	if err == nil {
		err = s.audit.Settle(ctx)
	}
	if err == nil {
		err = s.keys.Renewed(ctx)
	}
	return err
}

// rotateKeyset adds a primary key. After a crash the keyset file is the one before or
// the new one; the start takes it up, records the rotation and seals records again.
func (s *Server) rotateKeyset(ctx context.Context, who audit.Request) (control.KeysetStatus, error) {
	release, err := s.sealing.take(ctx, keysetChanges)
	if err != nil {
		return control.KeysetStatus{}, err
	}
	defer release()
	if err := s.takeUpKeyset(ctx, who); err != nil { // so that it is known what follows what
		return control.KeysetStatus{}, err
	}
	path := keysetPath(s.cfg)
	if err := sealed.Rotate(path, path, s.log); err != nil {
		return control.KeysetStatus{}, unwritable(err, "rotate")
	}
	if err := s.takeUpKeyset(ctx, who); err != nil {
		return control.KeysetStatus{}, fmt.Errorf("the keyset file has a new primary key, but: %w", err)
	}
	if s.sealing.wake != nil {
		s.wakeKeyset()
	} else if err := s.renew(ctx); err != nil {
		return control.KeysetStatus{}, err
	}
	return s.keysetStatus(ctx)
}

// retiringPath is a file that is there while keys are being retired, with the id of the
// key that stays.
func (s *Server) retiringPath() string { return filepath.Join(s.cfg.DataDir, RetiringFile) }

// retireKeys removes every key but the primary one, once nothing needs them. After a
// crash the keyset file holds them or does not; in the first case the next start goes on.
func (s *Server) retireKeys(ctx context.Context, who audit.Request) (control.KeysetStatus, error) {
	release, err := s.sealing.take(ctx, keysetChanges)
	if err != nil {
		return control.KeysetStatus{}, err
	}
	defer release()
	if err := s.takeUpKeyset(ctx, who); err != nil {
		return control.KeysetStatus{}, err
	}
	if err := ownfile.Replace(s.retiringPath(), []byte(s.keysetState().Primary)); err != nil {
		return control.KeysetStatus{}, err
	}
	if err := errors.Join(s.retire(ctx, who), os.Remove(s.retiringPath())); err != nil {
		return control.KeysetStatus{}, err
	}
	return s.keysetStatus(ctx)
}

func (s *Server) retire(ctx context.Context, who audit.Request) error {
	if !s.hasOlderKeys() {
		return nil
	}
	if err := s.renew(ctx); err != nil {
		return err
	}
	path := keysetPath(s.cfg)
	if err := sealed.Retire(path, path, s.keysetState().Primary, s.log); err != nil {
		return unwritable(err, "retire")
	}
	if err := s.takeUpKeyset(ctx, who); err != nil {
		return fmt.Errorf("the keyset file has no older key any more, but: %w", err)
	}
	return nil
}

// unwritable says what to do where the keyset file is not the service's to write.
func unwritable(err error, verb string) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w; \"attestcsr keyset %s --out FILE\" writes the new keyset to a file, for you to put in its place", err, verb)
	}
	return err
}

// keysetStatus says which keys there are, and what is left to do.
func (s *Server) keysetStatus(ctx context.Context) (control.KeysetStatus, error) {
	status := control.KeysetStatus{File: keysetPath(s.cfg), Compaction: s.store.CompactionDue()}
	older := false
	for _, k := range s.custodian.Keys() {
		switch {
		case k.Primary:
			status.Keys = slices.Insert(status.Keys, 0, control.SealingKey{ID: k.ID, Use: "primary"})
		case k.Opens:
			older = true
			status.Keys = append(status.Keys, control.SealingKey{ID: k.ID, Use: "opens older records"})
		default:
			status.Keys = append(status.Keys, control.SealingKey{ID: k.ID, Use: "verifies older lines"})
		}
	}
	slots, _, err := s.keys.Older(ctx)
	if err != nil {
		return control.KeysetStatus{}, err
	}
	status.Pending = len(slots)
	failed := s.sealing.failed.Load()
	switch {
	case failed != nil:
		status.Note = *failed
	case status.Pending > 0:
		status.Note = "a running service seals these records again under the primary key"
	case older:
		status.Note = "no record needs the older keys: attestcsr keyset retire removes them"
	}
	return status, nil
}

// CreateKeyset makes a keyset in a new file, by default that of the settings, and
// returns its name.
func CreateKeyset(cfg *config.Config, out string) (file string, err error) {
	if out == "" {
		store := filepath.Join(cfg.DataDir, StoreFile)
		if _, err := os.Stat(store); err == nil {
			return "", fmt.Errorf("%s is there, and only its own keyset opens its keys: restore %s from a backup", store, keysetPath(cfg))
		}
	}
	file = cmp.Or(out, keysetPath(cfg))
	return file, sealed.Create(file)
}

// RotateKeysetTo writes the keyset with a new primary key to a new file, for the
// operator to put in place.
func RotateKeysetTo(cfg *config.Config, out string) error {
	return sealed.Rotate(keysetPath(cfg), out, slog.New(slog.DiscardHandler))
}

// RetireKeysTo writes the keyset without older keys to a new file, for the operator to
// put in place. status is that of the service or of the store.
func RetireKeysTo(cfg *config.Config, status control.KeysetStatus, out string) error {
	if status.Pending > 0 {
		return fmt.Errorf("%d records still need the older keys: wait until attestcsr keyset status shows none", status.Pending)
	}
	return sealed.Retire(keysetPath(cfg), out, status.Keys[0].ID, slog.New(slog.DiscardHandler))
}

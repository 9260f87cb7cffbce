package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
	"attestcsr/keystore/pool"
	"attestcsr/keystore/sealed"
	"attestcsr/server/control"
)

// RecordsPurpose is what the keys that authenticate the store's records and notes are
// derived for. Another text gives other keys, and nothing that was stored before is
// authentic.
const RecordsPurpose = "stored records 1"

// openKeystore opens custodian and pool over a store.
func (s *Server) openKeystore(ctx context.Context, processors int, store *bolt.Store) error {
	custodian, err := openCustodian(ctx, s.cfg, store, s.log)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	if err := s.useCustodian(ctx, processors, store, custodian); err != nil {
		return fmt.Errorf("%w; if the sealing keyset that belongs to %s is lost for good, \"attestcsr store discard-keys\" begins anew", err, s.cfg.DataDir)
	}
	return nil
}

func (s *Server) useCustodian(ctx context.Context, processors int, store *bolt.Store, custodian *sealed.Custodian) error {
	cfg := s.cfg
	s.pool = pool.New(pool.Options{
		Custodian: custodian, Logger: s.log,
		Targets:    cfg.KeyPool.Targets,
		QueueBound: cfg.KeyQueue.Bound, QueueDeadline: cfg.KeyQueue.Deadline,
	})
	mac, err := custodian.MAC(RecordsPurpose)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	s.store, s.custodian = store, custodian
	s.keys, err = keystore.Open(ctx, keystore.Options{Store: store, Custodian: s.pool, MAC: mac, Logger: s.log, Processors: processors})
	return err
}

// openStore opens the store for a command.
func (s *Server) openStore() (*bolt.Store, error) {
	return bolt.Open(filepath.Join(s.cfg.DataDir, StoreFile), bolt.Options{Logger: s.log})
}

// lockPoll is how often a start tries to get the lock on the store.
const lockPoll = 200 * time.Millisecond

// waitForStore opens the store for the service, once no other process has it open or
// lock_wait is over. Compaction, where it is due, is for a start, since it takes long.
func (s *Server) waitForStore(ctx context.Context) (*bolt.Store, error) {
	path := filepath.Join(s.cfg.DataDir, StoreFile)
	for begin, said := time.Now(), false; ; {
		store, err := bolt.Open(path, bolt.Options{Logger: s.log, Compact: true})
		switch {
		case !errors.Is(err, bolt.ErrLocked):
			return store, err
		case s.cfg.LockWait == 0:
			return nil, fmt.Errorf("%w; in a rolling update the old process has to end first: in Kubernetes use the strategy Recreate, or wait for it with lock_wait: 30s", err)
		case time.Since(begin) >= s.cfg.LockWait:
			return nil, fmt.Errorf("%w; this one has waited for %s (lock_wait)", err, s.cfg.LockWait)
		case !said:
			said = true
			s.log.Info("another process uses data_dir: this one waits for its end", "data_dir", s.cfg.DataDir, "lock_wait", s.cfg.LockWait.String())
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped while another process used %s: %w", s.cfg.DataDir, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// openCustodian makes a sealing keyset only for a store that holds nothing yet:
// with records there must have been one, and another cannot open them.
func openCustodian(ctx context.Context, cfg *config.Config, store keystore.Store, log *slog.Logger) (*sealed.Custodian, error) {
	errNotEmpty := errors.New("not empty")
	_, err := store.Inspect(ctx, func(keystore.Record, error) error { return errNotEmpty })
	if err != nil && !errors.Is(err, errNotEmpty) {
		return nil, err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: keysetPath(cfg), Create: err == nil, Logger: log})
	if errors.Is(err, sealed.ErrKeysetLost) {
		return nil, fmt.Errorf("%w: restore %s from the backup that belongs to %s; if it is lost for good, no key in the store can be opened and \"attestcsr store discard-keys\" begins anew",
			err, keysetPath(cfg), cfg.DataDir)
	}
	return custodian, err
}

// CompactStore writes the store anew without its free pages, while no service uses it.
func CompactStore(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	return bolt.Compact(ctx, filepath.Join(cfg.DataDir, StoreFile), log)
}

// DiscardKeys removes the store and the keyset in data_dir, for the next start to
// begin anew. It asks first, once it knows that no service uses the store, and
// reports whether it went on. The audit trail gets its last line of this store before
// that, where the store can be opened. The store goes first: after a crash in between,
// the next start makes a new store under the old keyset.
func DiscardKeys(ctx context.Context, cfg *config.Config, log *slog.Logger, ask func() (bool, error)) (discarded bool, err error) {
	s, unusable := openAlone(ctx, cfg, log, true)
	if errors.Is(unusable, bolt.ErrLocked) {
		return false, unusable
	}
	sure, err := ask()
	if unusable != nil {
		log.Warn("the audit trail has no line of this, since it or the store cannot be opened", "err", unusable)
	} else {
		if err == nil && sure {
			err = s.record(ctx, control.Self(), audit.Event{Operation: "keys.discard"})
		}
		err = errors.Join(err, s.Close())
	}
	if err != nil || !sure {
		return false, err
	}
	for _, file := range []string{filepath.Join(cfg.DataDir, StoreFile), filepath.Join(cfg.DataDir, KeysetFile)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return true, ownfile.SyncDir(cfg.DataDir)
}

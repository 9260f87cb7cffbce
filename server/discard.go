package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
)

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

package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"attestcsr/config"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
)

// DiscardKeys removes the store and the keyset in data_dir, for the next start to
// begin anew. It asks first, once it knows that no service uses the store, and
// reports whether it went on. It removes the store first: after a crash in between,
// the next start makes a new store under the old keyset.
func DiscardKeys(cfg *config.Config, ask func() (bool, error)) (discarded bool, err error) {
	path := filepath.Join(cfg.DataDir, StoreFile)
	// A store that cannot be opened may be discarded, one in use may not.
	store, err := bolt.Open(path, bolt.Options{})
	if err == nil {
		err = store.Close()
	}
	if errors.Is(err, bolt.ErrLocked) {
		return false, err
	}
	if sure, err := ask(); err != nil || !sure {
		return false, err
	}
	for _, file := range []string{path, filepath.Join(cfg.DataDir, KeysetFile)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return true, ownfile.SyncDir(cfg.DataDir)
}

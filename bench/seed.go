package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"attestcsr/csr"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
)

// seeders is how many named CSRs are made at once: they share commits.
const seeders = 128

func seedID(i int) string { return fmt.Sprintf("seed-%06d", i) }

// seeded returns a data_dir of its own with n named CSRs, of EC keys since those
// are quick to make. Their ids are those of seedID from 0 to n-1.
func (b *bench) seeded(ctx context.Context, n int) (dataDir string, err error) {
	original := filepath.Join(b.dir, "seed-"+strconv.Itoa(n))
	if _, err := os.Stat(original); errors.Is(err, os.ErrNotExist) {
		b.progress("making %d objects", n)
		if err := seed(ctx, original, n); err != nil {
			return "", fmt.Errorf("make %d objects: %w", n, err)
		}
	}
	dataDir = b.dataDir()
	return dataDir, copyFiles(dataDir, original)
}

// copyFiles copies the files of a folder that has no others in it. The copies
// are the owner's alone, as the service wants them.
func copyFiles(to, from string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(from, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// Flushed, or the first commits that are measured would pay for it.
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync())
}

// seed has the core itself make the objects, below HTTP, so that what is stored
// is what the service stores.
func seed(ctx context.Context, dataDir string, n int) error {
	return withCore(ctx, dataDir, n, func(core *csr.Service) error {
		grant, err := core.Authorise(operator(), csr.CreateNamedCSR)
		if err != nil {
			return err
		}
		return forEach(ctx, n, func(ctx context.Context, i int) error {
			_, err := grant.CreateNamedCSR(ctx, csr.NewRequest{ID: seedID(i), Spec: csr.Spec{
				Algorithm: csr.ECDSA,
				Subject: []csr.Attribute{
					{Type: csr.CommonName, Value: seedID(i) + ".example.com"},
					{Type: csr.Organization, Value: "Example Ltd"},
					{Type: csr.Country, Value: "US"},
				},
			}})
			return err
		})
	})
}

// thin deletes all of n objects but every stride-th.
func thin(ctx context.Context, dataDir string, n, stride int) error {
	return withCore(ctx, dataDir, n, func(core *csr.Service) error {
		grant, err := core.Authorise(operator(), csr.DeleteNamedCSR)
		if err != nil {
			return err
		}
		return forEach(ctx, n, func(ctx context.Context, i int) error {
			if i%stride == 0 {
				return nil
			}
			return grant.DeleteNamedCSR(ctx, seedID(i))
		})
	})
}

func operator() csr.Caller { return csr.Caller{User: user, Privileges: csr.Privileges()} }

// forEach calls work with 0 to n-1, from several goroutines.
func forEach(ctx context.Context, n int, work func(ctx context.Context, i int) error) error {
	_, err := together(ctx, seeders, func(ctx context.Context, k int) ([]time.Duration, error) {
		for i := k; i < n && ctx.Err() == nil; i += seeders {
			if err := work(ctx, i); err != nil {
				return nil, err
			}
		}
		return nil, ctx.Err()
	})
	return err
}

// withCore opens the core on a data_dir, with room for n objects, as the service
// does.
func withCore(ctx context.Context, dataDir string, n int, use func(*csr.Service) error) (err error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	store, err := bolt.Open(filepath.Join(dataDir, storeFile), bolt.Options{})
	if err != nil {
		return err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dataDir, keysetFile), Create: true})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	keys, err := keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	core, err := csr.New(csr.Config{Keys: keys, KeySizes: []int{2048}, Hostname: hostname, MaxRequests: n + seeders})
	if err != nil {
		return err
	}
	return use(core)
}

package keystore_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
)

// closeToStore closes the Keystore and opens its store alone.
func (f *fixture) closeToStore(t *testing.T) keystore.Store {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	store, err := bolt.Open(f.file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestSweepAtOpen(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	key, err := f.vault.Generate(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Bind(t.Context(), keystore.Bind(b, nil)); err != nil { // and then the crash
		t.Fatal(err)
	}
	f.wantKeys(t, 1, a)
	f = f.reopen(t)
	f.wantKeys(t, 0, a)
}

// A key that no record refers to is counted and stays.
func TestOrphans(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	for want := range 3 {
		if n, err := f.Orphans(t.Context()); err != nil || n != want {
			t.Errorf("%d orphans, %v, want %d", n, err, want)
		}
		key, err := f.vault.Generate(t.Context(), spec)
		if err == nil {
			_, err = key.Bind(t.Context(), keystore.Bind(a, nil))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.wantKeys(t, 3, a)
	f.vault.Refuse("Sweep", errors.New("refused"))
	if _, err := f.Orphans(t.Context()); err == nil {
		t.Error("no error where the custodian cannot say")
	}
	f.vault.Refuse("Sweep", nil)
}

// A custodian that does not belong to the store is told at Open, before any of
// its keys is swept.
func TestForeignCustodian(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	store := f.closeToStore(t)
	foreign := keystoretest.NewVault()
	for range 9 { // names beyond those that the store refers to
		key, err := foreign.Generate(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if foreign.Account().Made < 5 {
			err = key.Discard()
		} else {
			_, err = key.Bind(t.Context(), keystore.Bind(a, nil))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := keystore.Open(t.Context(), keystore.Options{Store: store, Custodian: foreign, MAC: testMAC})
	if err == nil || !strings.Contains(err.Error(), "cannot be opened") {
		t.Errorf("Open: %v", err)
	}
	if account := foreign.Account(); len(account.Destroyed) != 0 || len(account.Bound) != 5 {
		t.Errorf("keys of another store were destroyed: %+v", account)
	}
	// Open closed what it was given.
	wantError(t, "the store", store.Check(t.Context()), keystore.ErrUnavailable)
	openAt(t, f.file, f.vault.Reopen(), nil).wantKeys(t, 0, a)
}

func TestForeignKeyset(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openReal := func(keyset string) (*keystore.Keystore, error) {
		store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, keyset), Create: true})
		if err != nil {
			t.Fatal(err)
		}
		return keystore.Open(t.Context(), keystore.Options{Store: store, Custodian: custodian, MAC: testMAC})
	}
	for range 2 {
		k, err := openReal("keyset.json")
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		if err := errors.Join(k.Ready(t.Context()), k.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openReal("another.json"); err == nil || !strings.Contains(err.Error(), "sealing keyset") {
		t.Errorf("Open with another keyset: %v", err)
	}
}

// The sweep destroys nothing when it cannot find out what is live.
func TestSweepNeedsRecords(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	store := f.closeToStore(t)
	unreadable := errors.New("unreadable")
	_, err := keystore.Open(t.Context(), keystore.Options{Store: uninspected{store, unreadable}, Custodian: f.vault.Reopen(), MAC: testMAC})
	wantError(t, "Open", err, unreadable)
	openAt(t, f.file, f.vault.Reopen(), nil).wantKeys(t, 0, a)
}

type uninspected struct {
	keystore.Store
	err error
}

func (s uninspected) Inspect(context.Context, func(keystore.Record, error) error) (keystore.Evidence, error) {
	return keystore.Evidence{}, s.err
}

package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	spec = keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256}
	a    = keystore.Slot{Collection: "c", ID: "a"}
	b    = keystore.Slot{Collection: "c", ID: "b"}
)

// fixture is a Keystore on a real store and a vault, both within reach.
type fixture struct {
	*keystore.Keystore
	store *keystoretest.Faulty
	vault *keystoretest.Vault
	file  string
	log   *bytes.Buffer
}

// testMAC authenticates what the tests store.
const testMAC = keystoretest.MAC("records")

func openFixture(t testing.TB, change func(*keystore.Options)) *fixture {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "store.db"), keystoretest.NewVault(), change)
}

func openAt(t testing.TB, file string, vault *keystoretest.Vault, change func(*keystore.Options)) *fixture {
	t.Helper()
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatalf("opening the store: %v", err)
	}
	f := &fixture{store: keystoretest.NewFaulty(store), vault: vault, file: file, log: &bytes.Buffer{}}
	o := keystore.Options{Store: f.store, Custodian: vault, MAC: testMAC, Logger: slog.New(slog.NewTextHandler(f.log, nil))}
	if change != nil {
		change(&o)
	}
	f.Keystore, err = keystore.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return f
}

// reopen is a restart: the Keystore is closed and opened again with what is left.
func (f *fixture) reopen(t testing.TB) *fixture {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return openAt(t, f.file, f.vault.Reopen(), nil)
}

// publicKey is the payload in these tests: the key's public half, so that a test
// can tell whether a slot's key and payload belong together.
func publicKey(signer crypto.Signer) (keystore.Change, error) {
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	return keystore.Change{Payload: der}, err
}

func keep(_ crypto.Signer, old keystore.Record) (keystore.Change, error) {
	return keystore.Change{Payload: old.Payload}, nil
}

func (f *fixture) mustReplace(t testing.TB, slot keystore.Slot) keystore.Record {
	t.Helper()
	r, err := f.Replace(t.Context(), keystore.Target{Slot: slot}, spec, publicKey)
	if err != nil {
		t.Fatalf("Replace: %v", err)
	}
	return r
}

// wantPair checks that the slot's key is the one in its payload and is live.
func (f *fixture) wantPair(t testing.TB, slot keystore.Slot) keystore.Record {
	t.Helper()
	stored, err := f.store.Store.Get(t.Context(), slot)
	if err != nil {
		t.Fatalf("%s: %v", slot, err)
	}
	if err := matches(f.vault, stored); err != nil {
		t.Fatalf("%s: %v", slot, err)
	}
	return stored
}

func matches(c keystore.Custodian, r keystore.Record) error {
	signer, err := c.Open(context.Background(), keystore.Bind(r.Slot, r.Payload), r.Ref)
	if err != nil {
		return err
	}
	public, err := x509.ParsePKIXPublicKey(r.Payload)
	if err != nil {
		return err
	}
	if !public.(*ecdsa.PublicKey).Equal(signer.Public()) {
		return errors.New("the key and the payload do not belong together")
	}
	return nil
}

// wantKeys checks which keys are live: those of the slots, the canary's, and
// extra that no record refers to. None may be left in nobody's hands.
func (f *fixture) wantKeys(t testing.TB, extra int, slots ...keystore.Slot) {
	t.Helper()
	account := f.vault.Account()
	for _, slot := range slots {
		if r := f.wantPair(t, slot); !slices.Contains(account.Bound, string(r.Ref)) {
			t.Errorf("%s: key %s is not live", slot, r.Ref)
		}
	}
	if want := len(slots) + 1 + extra; len(account.Bound) != want {
		t.Errorf("live keys %v, want %d", account.Bound, want)
	}
	if len(account.Fresh) != 0 {
		t.Errorf("keys %v were neither bound nor discarded", account.Fresh)
	}
	if sum := len(account.Bound) + len(account.Destroyed) + len(account.Discarded); sum != account.Made {
		t.Errorf("%d keys were made, %d are accounted for", account.Made, sum)
	}
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	first := f.mustReplace(t, a)
	got, err := f.Get(t.Context(), a)
	if err != nil || got.Revision != first.Revision || !bytes.Equal(got.Payload, first.Payload) || got.Slot != a {
		t.Errorf("Get: %+v, %v, want %+v", got, err, first)
	}
	if got.Ref != nil || first.Ref != nil {
		t.Error("a key reference leaves the keystore")
	}
	f.wantKeys(t, 0, a)

	second := f.mustReplace(t, a)
	if bytes.Equal(first.Payload, second.Payload) {
		t.Error("a key was used twice")
	}
	f.wantKeys(t, 0, a)

	moved, err := f.Move(t.Context(), keystore.Target{Slot: a, Expect: keystore.At(second.Revision)}, keystore.Target{Slot: b, Expect: keystore.Absent},
		func(signer crypto.Signer, old keystore.Record) (keystore.Change, error) {
			if old.Ref != nil || !bytes.Equal(old.Payload, second.Payload) {
				t.Errorf("build was given %+v", old)
			}
			return publicKey(signer)
		})
	if err != nil || moved.Slot != b || !bytes.Equal(moved.Payload, second.Payload) {
		t.Fatalf("Move: %+v, %v", moved, err)
	}
	_, err = f.Get(t.Context(), a)
	wantError(t, "Get", err, keystore.ErrNotFound)
	f.wantKeys(t, 0, b)

	updated, err := f.Update(t.Context(), keystore.Target{Slot: b}, keystore.Change{Payload: moved.Payload, Index: []keystore.IndexEntry{{Name: "n", Value: []byte("v")}}})
	if err != nil || updated.Revision <= moved.Revision {
		t.Fatalf("Update: %+v, %v", updated, err)
	}
	f.wantKeys(t, 0, b)
	items, err := f.List(t.Context(), keystore.Query{Collection: "c", Index: "n", Limit: 9})
	if err != nil || len(items) != 1 || items[0].Ref != nil || items[0].Revision != updated.Revision {
		t.Errorf("List: %+v, %v", items, err)
	}
	if n, err := f.Count(t.Context(), "c"); err != nil || n != 1 {
		t.Errorf("Count: %d, %v", n, err)
	}

	if err := f.Delete(t.Context(), keystore.Target{Slot: b}, nil); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	f.wantKeys(t, 0)
	if f.log.Len() != 0 {
		t.Errorf("log: %s", f.log)
	}
}

// A slot that is in use is moved onto: its key is destroyed, the moved one stays.
func TestMoveOntoKey(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	f.mustReplace(t, b)
	if _, err := f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: b}, keep); err != nil {
		t.Fatalf("Move: %v", err)
	}
	f.wantKeys(t, 0, b)
}

func TestVerbsOnEmptySlots(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	_, err := f.Get(t.Context(), a)
	wantError(t, "Get", err, keystore.ErrNotFound)
	wantError(t, "Delete", f.Delete(t.Context(), keystore.Target{Slot: b}, nil), keystore.ErrNotFound)
	_, err = f.Update(t.Context(), keystore.Target{Slot: b}, keystore.Change{})
	wantError(t, "Update", err, keystore.ErrNotFound)
	_, err = f.Move(t.Context(), keystore.Target{Slot: b}, keystore.Target{Slot: a}, keep)
	wantError(t, "Move", err, keystore.ErrNotFound)
	if _, err = f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: a}, keep); err == nil {
		t.Error("a slot was moved to itself")
	}
	f.wantKeys(t, 0)
}

// A change that cannot succeed costs no key.
func TestExpectIsCheckedEarly(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	r := f.mustReplace(t, a)
	made := f.vault.Account().Made
	for name, at := range map[string]keystore.Target{
		"absent, is there":     {Slot: a, Expect: keystore.Absent},
		"older revision":       {Slot: a, Expect: keystore.At(r.Revision - 1)},
		"revision, is absent":  {Slot: b, Expect: keystore.At(r.Revision)},
		"delete with revision": {Slot: a, Expect: keystore.At(r.Revision + 1)},
	} {
		_, err := f.Replace(t.Context(), at, spec, publicKey)
		wantError(t, "Replace, "+name, err, keystore.ErrConflict)
		wantError(t, "Delete, "+name, f.Delete(t.Context(), at, nil), keystore.ErrConflict)
	}
	mustNot := func(crypto.Signer, keystore.Record) (keystore.Change, error) {
		t.Error("build was called")
		return keystore.Change{}, nil
	}
	c := keystore.Slot{Collection: "c", ID: "c"}
	f.mustReplace(t, c)
	_, err := f.Move(t.Context(), keystore.Target{Slot: a, Expect: keystore.At(r.Revision + 9)}, keystore.Target{Slot: b}, mustNot)
	wantError(t, "Move from", err, keystore.ErrConflict)
	_, err = f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: c, Expect: keystore.Absent}, mustNot)
	wantError(t, "Move to", err, keystore.ErrConflict)
	_, err = f.Update(t.Context(), keystore.Target{Slot: a, Expect: keystore.At(r.Revision + 9)}, keystore.Change{})
	wantError(t, "Update", err, keystore.ErrConflict)
	if _, err := f.Replace(t.Context(), keystore.Target{Slot: keystore.Slot{Collection: "c"}}, spec, publicKey); err == nil {
		t.Error("a slot without an id was filled")
	}
	if n := f.vault.Account().Made; n != made+1 {
		t.Errorf("%d keys were made for nothing", n-made-1)
	}
	f.wantKeys(t, 0, a, c)
}

// Every key is handed out once, also to many at the same time.
func TestConcurrentReplace(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	var lock sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			slot := keystore.Slot{Collection: "c", ID: fmt.Sprint(i % 3)}
			r, err := f.Replace(t.Context(), keystore.Target{Slot: slot}, spec, publicKey)
			lock.Lock()
			defer lock.Unlock()
			if err != nil || seen[string(r.Payload)] {
				t.Errorf("Replace: %v, or a key handed out twice", err)
			}
			seen[string(r.Payload)] = true
		})
	}
	wg.Wait()
	slots := []keystore.Slot{{Collection: "c", ID: "0"}, {Collection: "c", ID: "1"}, {Collection: "c", ID: "2"}}
	for _, slot := range slots {
		if r := f.wantPair(t, slot); !seen[string(r.Payload)] {
			t.Errorf("%s holds what nobody was told", slot)
		}
	}
	f.wantKeys(t, 0, slots...)
}

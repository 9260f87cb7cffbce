package keystore_test

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
)

type failedCommit struct {
	name  string
	fault keystoretest.Fault
	want  error
	known bool // the outcome is certain: no key may be left over
}

// Every way in which a commit can fail, for every verb: what is in the slots
// afterwards, and where the keys are.
func TestFailedCommits(t *testing.T) {
	t.Parallel()
	verbs := map[string]func(*fixture, context.Context) error{
		"Replace": func(f *fixture, ctx context.Context) error {
			_, err := f.Replace(ctx, keystore.Target{Slot: a}, spec, publicKey)
			return err
		},
		"Move": func(f *fixture, ctx context.Context) error {
			_, err := f.Move(ctx, keystore.Target{Slot: b}, keystore.Target{Slot: a}, keep)
			return err
		},
		"Update": func(f *fixture, ctx context.Context) error {
			r, err := f.Get(ctx, a)
			if err == nil {
				_, err = f.Update(ctx, keystore.Target{Slot: a}, keystore.Change{Payload: r.Payload})
			}
			return err
		},
		"Delete": func(f *fixture, ctx context.Context) error { return f.Delete(ctx, keystore.Target{Slot: a}, nil) },
	}
	for _, test := range []failedCommit{
		{"not committed", keystoretest.FailBefore, keystore.ErrNotCommitted, true},
		{"unknown, persisted", keystoretest.UnknownPersisted, keystore.ErrOutcomeUnknown, false},
		{"unknown, lost", keystoretest.UnknownLost, keystore.ErrOutcomeUnknown, false},
		{"an error outside the contract", keystoretest.Unclassified, nil, false},
	} {
		for verb, call := range verbs {
			t.Run(test.name+"/"+verb, func(t *testing.T) {
				t.Parallel()
				test.run(t, verb, call)
			})
		}
	}
}

func (c failedCommit) run(t *testing.T, verb string, call func(*fixture, context.Context) error) {
	t.Helper()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	f.mustReplace(t, b)
	before := f.vault.Account()
	f.store.FailNext(c.fault)
	err := call(f, t.Context())
	if err == nil || c.want != nil && !errors.Is(err, c.want) {
		t.Fatalf("error %v, want %v", err, c.want)
	}
	if f.store.Fired() != 1 {
		t.Fatal("the fault did not fire")
	}
	after := f.vault.Account()
	if c.known {
		f.wantKeys(t, 0, a, b)
		return
	}
	// Whatever a restart finds must have its key.
	for _, name := range before.Bound {
		if !slices.Contains(after.Bound, name) {
			t.Errorf("key %s was destroyed although the outcome is unknown", name)
		}
	}
	if verb == "Replace" && len(after.Bound) != len(before.Bound)+1 {
		t.Errorf("the new key was destroyed although the outcome is unknown")
	}
	f = f.reopen(t)
	var left []keystore.Slot
	for _, slot := range []keystore.Slot{a, b} {
		if _, err := f.Get(t.Context(), slot); err == nil {
			left = append(left, slot)
		}
	}
	f.wantKeys(t, 0, left...) // the sweep has destroyed the other keys
}

// A change that is overtaken between its early check and its commit.
func TestConflictAtCommit(t *testing.T) {
	t.Parallel()
	f := openFixture(t, func(o *keystore.Options) { o.Processors = 2 }) // for a change within a build
	r := f.mustReplace(t, a)
	f.store.FailNext(keystoretest.Overtaken)
	_, err := f.Replace(t.Context(), keystore.Target{Slot: a, Expect: keystore.At(r.Revision)}, spec, publicKey)
	wantError(t, "Replace", err, keystore.ErrConflict)
	if account := f.vault.Account(); len(account.Bound) != 2 || len(account.Destroyed) != 1 {
		t.Errorf("the new key was not destroyed, or the old one was: %+v", account)
	}
	f.mustReplace(t, a)
	f.store.FailNext(keystoretest.Overtaken)
	_, err = f.Update(t.Context(), keystore.Target{Slot: a}, keystore.Change{Payload: []byte("mine")})
	wantError(t, "Update", err, keystore.ErrConflict)

	// Move is pinned to what build saw, also with Any.
	f.mustReplace(t, a)
	_, err = f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: b},
		func(signer crypto.Signer, _ keystore.Record) (keystore.Change, error) {
			f.mustReplace(t, a)
			return publicKey(signer)
		})
	wantError(t, "Move", err, keystore.ErrConflict)
	f.wantKeys(t, 0, a)
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	refusal := errors.New("refused")
	_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) { return keystore.Change{}, refusal })
	wantError(t, "Replace", err, refusal)
	_, err = f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: b},
		func(crypto.Signer, keystore.Record) (keystore.Change, error) { return keystore.Change{}, refusal })
	wantError(t, "Move", err, refusal)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) { panic("in build") })
	}()
	// A payload that no store takes.
	_, err = f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) {
		return keystore.Change{Payload: make([]byte, keystore.MaxPayloadLen+1)}, nil
	})
	wantError(t, "Replace", err, keystore.ErrNotCommitted)
	// The request ends after its key was made.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = f.Replace(ctx, keystore.Target{Slot: a}, spec, func(s crypto.Signer) (keystore.Change, error) {
		cancel()
		return publicKey(s)
	})
	wantError(t, "Replace", err, context.Canceled)
	f.wantKeys(t, 0, a)
	if account := f.vault.Account(); len(account.Discarded) != 3 {
		t.Errorf("discarded: %v", account.Discarded)
	}
	// The signer is only a signer: no way to bind or discard the key.
	_, err = f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(s crypto.Signer) (keystore.Change, error) {
		if _, ok := s.(keystore.Key); ok {
			t.Error("build was given the key itself")
		}
		return publicKey(s)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCustodianFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, method := range []string{"Generate", "Bind", "Open", "Rebind"} {
		f := openFixture(t, nil)
		f.mustReplace(t, a)
		f.vault.Refuse(method, broken)
		_, replaced := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, publicKey)
		_, moved := f.Move(t.Context(), keystore.Target{Slot: a}, keystore.Target{Slot: b}, keep)
		err := errors.Join(replaced, moved)
		wantError(t, method, err, broken)
		f.vault.Refuse(method, nil)
		slot := a
		if moved == nil {
			slot = b
		}
		f.wantKeys(t, 0, slot)
	}

	// What could not be destroyed is logged, does not fail the change, and is
	// left to the sweep of the next start.
	f := openFixture(t, nil)
	old := f.mustReplace(t, a)
	f.vault.Refuse("Destroy", broken)
	if r := f.mustReplace(t, a); r.Revision == old.Revision {
		t.Error("nothing changed")
	}
	f.wantKeys(t, 1, a)
	if !strings.Contains(f.log.String(), "could not be destroyed") {
		t.Errorf("log: %q", f.log)
	}
	f.vault.Refuse("Destroy", nil)
	f = f.reopen(t)
	f.wantKeys(t, 0, a)
}

// A client that goes away must not keep the old key alive.
func TestDestructionIsNotCancelled(t *testing.T) {
	t.Parallel()
	after := func() {}
	f := openFixture(t, func(o *keystore.Options) { o.Store = cancelling{o.Store, func() { after() }} })
	f.mustReplace(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	after = cancel
	if _, err := f.Replace(ctx, keystore.Target{Slot: a}, spec, publicKey); err != nil {
		t.Fatalf("Replace: %v", err)
	}
	if ctx.Err() == nil {
		t.Fatal("the context did not end")
	}
	f.wantKeys(t, 0, a)
}

// cancelling ends a context with every commit, once it is durable.
type cancelling struct {
	keystore.Store
	cancel func()
}

func (c cancelling) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	defer c.cancel()
	return c.Store.Commit(ctx, note, ops...)
}

package keystore_test

import (
	"context"
	"crypto"
	"errors"
	"sync"
	"testing"

	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// As many builds run at once as there are processors, and each caller's place is
// given back however its build ends.
func TestBuildsAreBounded(t *testing.T) {
	t.Parallel()
	const processors = 2
	f := openFixture(t, func(o *keystore.Options) { o.Processors = processors })
	f.mustReplace(t, b)
	entered, release := make(chan struct{}), make(chan struct{})
	held := func(signer crypto.Signer) (keystore.Change, error) {
		entered <- struct{}{}
		<-release
		return publicKey(signer)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, held)
		wantError(t, "Replace", err, nil)
	})
	wg.Go(func() {
		_, err := f.Move(t.Context(), keystore.Target{Slot: b}, keystore.Target{Slot: keystore.Slot{Collection: "c", ID: "moved"}},
			func(signer crypto.Signer, _ keystore.Record) (keystore.Change, error) { return held(signer) })
		wantError(t, "Move", err, nil)
	})
	for range processors {
		<-entered
	}
	// One more waits for its turn; when its request ends, its key is discarded.
	ctx, cancel := context.WithCancel(t.Context())
	made := f.vault.Account().Made
	wg.Go(func() {
		_, err := f.Replace(ctx, keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) {
			t.Error("more builds at once than processors")
			return keystore.Change{}, nil
		})
		wantError(t, "who waits for his turn", err, context.Canceled)
	})
	kit.Eventually(t, "its key is made", func() bool { return f.vault.Account().Made > made })
	cancel()
	kit.Eventually(t, "its key is discarded", func() bool { return len(f.vault.Account().Discarded) == 1 })
	close(release)
	wg.Wait()

	refusal := errors.New("refused")
	for range processors + 1 {
		_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) { return keystore.Change{}, refusal })
		wantError(t, "Replace", err, refusal)
		func() {
			defer func() { _ = recover() }()
			_, _ = f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) { panic("in build") })
		}()
	}
	f.mustReplace(t, a)
}

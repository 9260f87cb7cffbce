package keystore_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"attestcsr/keystore"
)

// slow is a custodian that makes a key only when told to.
type slow struct {
	keystore.Custodian
	started chan struct{}
	release chan struct{}
	served  []int // bits, in order; one at a time
}

func (s *slow) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if spec.Bits != 256 { // else it is the canary
		s.started <- struct{}{}
		s.served = append(s.served, spec.Bits)
		<-s.release
	}
	return s.Custodian.Generate(ctx, spec)
}

func TestQueue(t *testing.T) {
	t.Parallel()
	gated := &slow{started: make(chan struct{}), release: make(chan struct{})}
	f := openFixture(t, func(o *keystore.Options) {
		gated.Custodian = o.Custodian
		o.Custodian = gated
		o.Processors, o.QueueBound = 1, 2
	})
	var wg sync.WaitGroup
	replace := func(ctx context.Context, id string, bits int, want error) {
		wg.Go(func() {
			spec := keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: bits} // by which they are told apart
			_, err := f.Replace(ctx, keystore.Target{Slot: keystore.Slot{Collection: "c", ID: id}}, spec, publicKey)
			wantError(t, id, err, want)
		})
	}
	wantWaiting := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); f.Waiting() != n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d wait, want %d", f.Waiting(), n)
			}
		}
	}
	replace(t.Context(), "first", 1, nil)
	<-gated.started // it generates; the others wait
	leaving, leave := context.WithCancel(t.Context())
	replace(leaving, "leaves", 2, context.Canceled)
	wantWaiting(1)
	replace(t.Context(), "waits", 3, nil)
	wantWaiting(2)
	_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, publicKey)
	wantError(t, "one more than the queue takes", err, keystore.ErrBusy)
	leave()
	wantWaiting(1)
	replace(t.Context(), "takes the place", 4, nil)
	wantWaiting(2)
	close(gated.release)
	<-gated.started
	<-gated.started
	wg.Wait()
	if want := []int{1, 3, 4}; !slices.Equal(gated.served, want) {
		t.Errorf("served: %v, want %v: first come, first served", gated.served, want)
	}
}

func TestQueueDeadline(t *testing.T) {
	t.Parallel()
	gated := &slow{started: make(chan struct{}), release: make(chan struct{})}
	f := openFixture(t, func(o *keystore.Options) {
		gated.Custodian = o.Custodian
		o.Custodian = gated
		o.Processors, o.QueueDeadline = 1, 20*time.Millisecond
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 384}, publicKey)
		wantError(t, "who generates", err, nil)
	})
	<-gated.started
	_, err := f.Replace(t.Context(), keystore.Target{Slot: b}, spec, publicKey)
	wantError(t, "Replace", err, keystore.ErrBusy)
	close(gated.release)
	wg.Wait()
}

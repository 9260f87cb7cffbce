package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/pool"
	"attestcsr/test/kit"
)

// ask starts a caller who waits, and returns what ends with his answer.
func (f *fixture) ask(ctx context.Context, t *testing.T, bits int, want error) <-chan struct{} {
	t.Helper()
	before := f.Waiting()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		key, err := f.Generate(ctx, rsaSpec(bits))
		wantError(t, rsaSpec(bits).String(), err, want)
		if err == nil {
			wantError(t, "Discard", key.Discard(), nil)
		}
	}()
	f.wantWaiting(t, before+1)
	return answered
}

func wantAnswer(t testing.TB, answered <-chan struct{}) {
	t.Helper()
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Fatal("no answer")
	}
}

func TestFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Processors: 1})
	sizes := []int{2048, 4096, 2048, 3072, 3072, 8192, 2048}
	var order []int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i, bits := range sizes {
		answered := f.ask(t.Context(), t, bits, nil)
		wg.Go(func() {
			<-answered
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
		})
	}
	for i, bits := range sizes {
		gate.next(t, bits).finish <- nil
		kit.Eventually(t, fmt.Sprintf("caller %d is served", i), func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == i+1 })
	}
	wg.Wait()
	if !slices.IsSorted(order) {
		t.Errorf("served in the order %v", order)
	}
}

func TestAsManyAsProcessors(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Processors: 2})
	var answers []<-chan struct{}
	for range 4 {
		answers = append(answers, f.ask(t.Context(), t, 2048, nil))
	}
	first, second := gate.next(t, 2048), gate.next(t, 2048)
	gate.none(t)
	second.finish <- nil
	wantAnswer(t, answers[0]) // the key that is ready goes to who came first
	third := gate.next(t, 2048)
	gate.none(t)
	first.finish <- nil
	third.finish <- nil
	gate.next(t, 2048).finish <- nil
	for _, answered := range answers {
		wantAnswer(t, answered)
	}
}

func TestQueueBound(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Processors: 1, QueueBound: 3})
	var answers []<-chan struct{}
	for range 1 + 3 {
		answers = append(answers, f.ask(t.Context(), t, 2048, nil))
	}
	refused := func(took, want time.Duration) {
		t.Helper()
		f.Took(2048, took)
		_, err := f.Generate(t.Context(), rsaSpec(3072))
		wantError(t, "one more than the queue takes", err, keystore.ErrBusy)
		if busy, ok := errors.AsType[*keystore.BusyError](err); !ok || busy.RetryAfter != want {
			t.Errorf("error %#v, want %s", err, want)
		}
	}
	refused(0, time.Second) // nothing is known yet
	refused(50*time.Millisecond, time.Second)
	refused(2*time.Second, 8*time.Second) // four wait
	refused(time.Minute, 30*time.Second)  // none waits longer than the deadline
	gate.open()
	for _, answered := range answers {
		wantAnswer(t, answered)
	}
	if n := f.metric(t, "attestcsr_key_requests_shed_total queue_full"); n != 4 {
		t.Errorf("%v were shed", n)
	}
}

func TestQueueDeadline(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{4096: 1}, Workers: 1, Processors: 1, QueueDeadline: 300 * time.Millisecond})
	background := gate.next(t, 4096)
	answered := f.ask(t.Context(), t, 2048, keystore.ErrBusy)
	late := gate.next(t, 2048)
	wantAnswer(t, answered)
	f.wantWaiting(t, 0)
	late.finish <- nil // nobody wants it, and the pool does not hold that size
	kit.Eventually(t, "the key is discarded", func() bool { return len(f.vault.Account().Discarded) == 1 })
	background.finish <- nil
	f.mustWarm(t)
	if n := f.metric(t, "attestcsr_key_requests_shed_total deadline"); n != 1 {
		t.Errorf("%v were shed", n)
	}
}

// The key in the making of a caller who went goes to the next of his size, and
// where there is none into the pool.
func TestWaiterGoes(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 1}, Workers: 1, Processors: 1})
	background := gate.next(t, 2048)
	ctx, leave := context.WithCancel(t.Context())
	gone := f.ask(ctx, t, 2048, context.Canceled)
	foreground := gate.next(t, 2048)
	other := f.ask(t.Context(), t, 3072, nil)
	next := f.ask(t.Context(), t, 2048, nil)
	leave()
	wantAnswer(t, gone)
	f.wantWaiting(t, 2)
	foreground.finish <- nil
	wantAnswer(t, next)
	gate.next(t, 3072).finish <- nil // came before next, but for another size
	wantAnswer(t, other)

	ctx, leave = context.WithCancel(t.Context())
	gone = f.ask(ctx, t, 2048, context.Canceled)
	foreground = gate.next(t, 2048)
	leave()
	wantAnswer(t, gone)
	foreground.finish <- nil
	f.wantLevel(t, 2048, 1, 1)
	f.take(t, 2048) // it is used
	background.finish <- nil
	f.wantLevel(t, 2048, 1, 1)
	if made := f.vault.Account().Made; made != 4 {
		t.Errorf("%d keys were made, want 4", made)
	}
	_, err := f.Generate(ctx, rsaSpec(2048))
	wantError(t, "a request that is over", err, context.Canceled)
	f.wantLevel(t, 2048, 1, 1)
}

// What is made beyond the target is discarded.
func TestSurplus(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 1}, Workers: 1, Processors: 1})
	background := gate.next(t, 2048)
	ctx, leave := context.WithCancel(t.Context())
	gone := f.ask(ctx, t, 2048, context.Canceled)
	foreground := gate.next(t, 2048)
	leave()
	wantAnswer(t, gone)
	foreground.finish <- nil
	f.wantLevel(t, 2048, 1, 1)
	background.finish <- nil
	kit.Eventually(t, "the key is discarded", func() bool { return len(f.vault.Account().Discarded) == 1 })
	f.wantLevel(t, 2048, 1, 1)
	gate.none(t)
}

// A key of the background that is ready earlier serves who came first; the one
// that was being made for him is the next one's. The background begins none while
// the foreground has every processor.
func TestBackgroundServesWaiter(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 2}, Workers: 1, Processors: 1})
	background := gate.next(t, 2048)
	first := f.ask(t.Context(), t, 2048, nil)
	foreground := gate.next(t, 2048)
	second := f.ask(t.Context(), t, 2048, nil)
	background.finish <- nil
	wantAnswer(t, first)
	gate.none(t)
	foreground.finish <- nil
	wantAnswer(t, second)
	gate.next(t, 2048).finish <- nil
	gate.next(t, 2048).finish <- nil
	f.wantLevel(t, 2048, 2, 2)
}

// A miss, however long it takes and however many wait, delays no hit.
func TestHitPassesMisses(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 1}, Workers: 1, Processors: 1, QueueBound: 1})
	gate.next(t, 2048).finish <- nil
	f.mustWarm(t)
	a := f.ask(t.Context(), t, 4096, nil)
	b := f.ask(t.Context(), t, 4096, nil)
	_, err := f.Generate(t.Context(), rsaSpec(4096))
	wantError(t, "the queue is full", err, keystore.ErrBusy)
	f.take(t, 2048)
	gate.open()
	wantAnswer(t, a)
	wantAnswer(t, b)
}

func TestCustodianFails(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 1, 3072: 1}, Workers: 1, Processors: 1})
	broken := errors.New("broken")
	gate.next(t, 2048).finish <- broken
	gate.none(t) // the worker rests for a second
	failed := f.ask(t.Context(), t, 2048, broken)
	waits := f.ask(t.Context(), t, 2048, nil)
	gate.next(t, 2048).finish <- broken // only for who came first
	wantAnswer(t, failed)
	gate.next(t, 2048).finish <- nil
	wantAnswer(t, waits)
	gate.next(t, 3072).finish <- nil
	gate.next(t, 2048).finish <- broken
	gate.next(t, 2048).finish <- nil
	f.mustWarm(t)
	if n := strings.Count(f.log.String(), "cannot be refilled"); n != 1 {
		t.Errorf("it was said %d times that the pool cannot be refilled: %s", n, f.log.String())
	}
}

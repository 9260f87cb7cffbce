package pool_test

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
)

// onMainThread runs functions on the main thread of the process.
var onMainThread = make(chan func())

// Locked before main, the goroutine that runs TestMain stays on the main thread.
func init() { runtime.LockOSThread() } //nolint:gochecknoinits // there is no later moment

func TestMain(m *testing.M) {
	go goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) // which ends the process
	for f := range onMainThread {
		f()
	}
}

func rsaSpec(bits int) keystore.KeySpec {
	return keystore.KeySpec{Algorithm: keystore.RSA, Bits: bits}
}

var ec256 = keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256}

// fixture is a pool over a vault, whose books say where every key went.
type fixture struct {
	*pool.Pool
	vault *keystoretest.Vault
	log   *keystoretest.Buffer
	clock *clock
}

func open(t testing.TB, o pool.Options) *fixture {
	t.Helper()
	f := &fixture{vault: keystoretest.NewVault(), log: &keystoretest.Buffer{}, clock: &clock{now: time.Unix(1e9, 0)}}
	switch c := o.Custodian.(type) {
	case nil:
		o.Custodian = f.vault
	case *gated:
		c.Custodian = f.vault
	case panicking:
		o.Custodian = panicking{f.vault}
	}
	o.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	o.Now = f.clock.Now
	p, err := pool.New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	f.Pool = p
	t.Cleanup(func() {
		if c, ok := o.Custodian.(*gated); ok {
			c.open() // Close waits for keys in the making
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if fresh := f.vault.Account().Fresh; len(fresh) != 0 {
			t.Errorf("keys %v were neither bound nor discarded", fresh)
		}
	})
	return f
}

func (f *fixture) mustWarm(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := f.Warm(ctx); err != nil {
		t.Fatalf("Warm: %v, %v", err, f.Ready())
	}
}

// take gets a key and gives it up.
func (f *fixture) take(t testing.TB, bits int) {
	t.Helper()
	key, err := f.Generate(t.Context(), rsaSpec(bits))
	if err != nil {
		t.Fatalf("Generate: %v", err)
	}
	if err := key.Discard(); err != nil {
		t.Errorf("Discard: %v", err)
	}
}

func (f *fixture) wantLevel(t testing.TB, bits, ready, target int) {
	t.Helper()
	var gotReady, gotTarget int
	if !eventually(func() bool { gotReady, gotTarget = f.Level(bits); return gotReady == ready && gotTarget == target }) {
		t.Fatalf("RSA-%d: %d of %d keys, want %d of %d", bits, gotReady, gotTarget, ready, target)
	}
}

func (f *fixture) wantWaiting(t testing.TB, n int) {
	t.Helper()
	if !eventually(func() bool { return f.Waiting() == n }) {
		t.Fatalf("%d wait, want %d", f.Waiting(), n)
	}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(condition func() bool) bool {
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// gated is a custodian that makes a key only when the test says so.
type gated struct {
	keystore.Custodian
	calls  chan call
	opened chan struct{} // closed once every call may pass
	once   sync.Once
}

type call struct {
	bits   int
	finish chan error // nil makes the key
}

func newGated() *gated { return &gated{calls: make(chan call), opened: make(chan struct{})} }

func (g *gated) open() { g.once.Do(func() { close(g.opened) }) }

func (g *gated) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	c := call{spec.Bits, make(chan error, 1)}
	select {
	case g.calls <- c:
	case <-g.opened:
		return g.Custodian.Generate(ctx, spec)
	}
	select {
	case err := <-c.finish:
		if err != nil {
			return nil, err
		}
	case <-g.opened:
	}
	return g.Custodian.Generate(ctx, spec)
}

// next is the generation that begins next.
func (g *gated) next(t testing.TB, bits int) call {
	t.Helper()
	select {
	case c := <-g.calls:
		if c.bits != bits {
			t.Fatalf("a key of %d bits is being made, want %d", c.bits, bits)
		}
		return c
	case <-time.After(10 * time.Second):
		t.Fatalf("no key of %d bits is being made", bits)
	}
	return call{}
}

func (g *gated) none(t testing.TB) {
	t.Helper()
	select {
	case c := <-g.calls:
		t.Fatalf("a key of %d bits is being made, want none", c.bits)
	case <-time.After(20 * time.Millisecond):
	}
}

// While keys are taken in quick succession, one worker stays away.
func TestRush(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{3, 1} {
		gate := newGated()
		f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 3}, Workers: workers})
		for range 3 {
			gate.next(t, 2048).finish <- nil
		}
		f.wantLevel(t, 2048, 3, 3)
		f.Rush(time.Hour)
		for range 3 {
			f.take(t, 2048)
		}
		for range max(1, workers-1) {
			gate.next(t, 2048) // and the key stays in the making
		}
		gate.none(t)
		f.Rush(0)
		if workers > 1 {
			gate.next(t, 2048)
		}
		gate.none(t)
	}
}

// A rush begins by itself, and its end lets the worker go on.
func TestRushEnds(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 4}, Workers: 2})
	f.mustWarm(t)
	if !eventually(func() bool {
		f.take(t, 2048)
		f.take(t, 2048)
		return f.Rushing()
	}) {
		t.Error("keys are taken in quick succession, and it is no rush")
	}
	f.wantLevel(t, 2048, 4, 4)
	if !eventually(func() bool { return !f.Rushing() }) {
		t.Error("nobody takes a key any more, and the rush goes on")
	}
}

func TestCustodian(t *testing.T) {
	t.Parallel()
	keystoretest.TestCustodian(t, func(t *testing.T, dir string) keystore.Custodian {
		p, err := pool.New(pool.Options{Custodian: openSealed(t, dir), Targets: map[int]int{2048: 1}, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
}

// Every key is handed out once, whatever becomes of requests; what nobody took
// is discarded, and nothing else is.
func TestNeverTwice(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 32, 3072: 4}, Workers: 4, QueueBound: 48, QueueDeadline: time.Second})
	const callers, requests = 64, 200
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range requests {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%7)*100*time.Microsecond+time.Microsecond)
				if i%2 == 0 {
					cancel()
					ctx, cancel = context.WithCancel(t.Context())
				}
				key, err := f.Generate(ctx, rsaSpec([]int{2048, 2048, 3072, 8192}[(c+i)%4]))
				cancel()
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, keystore.ErrBusy) {
						t.Errorf("Generate: %v", err)
					}
					continue
				}
				ref, err := key.Bind(t.Context(), keystore.Binding{})
				if err != nil {
					t.Errorf("Bind: %v", err) // the vault refuses a second time
				}
				mu.Lock()
				if seen[string(ref)] {
					t.Errorf("%s was handed out twice", ref)
				}
				seen[string(ref)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if f.Waiting() != 0 {
		t.Errorf("%d still wait", f.Waiting())
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	account := f.vault.Account()
	if len(account.Fresh) != 0 || len(account.Bound) != len(seen) || len(account.Bound)+len(account.Discarded) != account.Made {
		t.Errorf("%d keys were taken; books: %d made, %d bound, %d discarded, %d nowhere",
			len(seen), account.Made, len(account.Bound), len(account.Discarded), len(account.Fresh))
	}
	if len(seen) < callers*requests/20 {
		t.Errorf("only %d keys were taken", len(seen))
	}
}

func TestNeverTwiceRSA(t *testing.T) {
	t.Parallel()
	// How long real keys take is the machine's business, not this test's.
	p, err := pool.New(pool.Options{Custodian: openSealed(t, t.TempDir()), Targets: map[int]int{2048: 4}, Workers: 1, QueueDeadline: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3 {
				key, err := p.Generate(t.Context(), rsaSpec(2048))
				if err != nil {
					t.Errorf("Generate: %v", err)
					return
				}
				public := key.Public().(*rsa.PublicKey)
				mu.Lock()
				if seen[public.N.String()] || public.N.BitLen() != 2048 {
					t.Errorf("a key of %d bits that was handed out before: %t", public.N.BitLen(), seen[public.N.String()])
				}
				seen[public.N.String()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// A key whose change failed goes nowhere near the pool again.
func TestDroppedOnFailure(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 2}})
	store, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	faulty := keystoretest.NewFaulty(store)
	k, err := keystore.Open(t.Context(), keystore.Options{Store: faulty, Custodian: f.Pool})
	if err != nil {
		t.Fatal(err)
	}
	slot := keystore.Slot{Collection: "c", ID: "a"}
	var seen []string
	build := func(outcome error) func(crypto.Signer) (keystore.Change, error) {
		return func(signer crypto.Signer) (keystore.Change, error) {
			der, err := x509.MarshalPKIXPublicKey(signer.Public())
			if slices.Contains(seen, string(der)) {
				t.Error("a key was handed out twice")
			}
			seen = append(seen, string(der))
			return keystore.Change{Payload: der}, errors.Join(err, outcome)
		}
	}
	refused := errors.New("refused")
	for range 4 {
		_, err = k.Replace(t.Context(), keystore.Target{Slot: slot}, rsaSpec(2048), build(refused))
		wantError(t, "a build that fails", err, refused)
		faulty.FailNext(keystoretest.FailBefore)
		_, err = k.Replace(t.Context(), keystore.Target{Slot: slot}, rsaSpec(2048), build(nil))
		wantError(t, "a commit that fails", err, keystore.ErrNotCommitted)
		_, err = k.Replace(t.Context(), keystore.Target{Slot: slot}, rsaSpec(2048), build(nil))
		wantError(t, "Replace", err, nil)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if account := f.vault.Account(); len(account.Bound) != 2 || len(account.Destroyed) != 4+3 || len(account.Fresh) != 0 {
		t.Errorf("books: %+v", account)
	}
}

func TestHit(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 2}, Workers: 1})
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "0 of 2 keys of RSA-2048") {
		t.Errorf("Ready: %v", err)
	}
	gate.next(t, 2048).finish <- nil
	gate.next(t, 2048).finish <- nil
	f.mustWarm(t)
	if err := f.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
	gate.none(t)
	f.take(t, 2048)
	refill := gate.next(t, 2048) // at once
	f.take(t, 2048)              // does not wait for it
	f.wantLevel(t, 2048, 0, 2)
	if err := f.Ready(); err != nil {
		t.Errorf("drawn from, it is not ready any more: %v", err)
	}
	refill.finish <- nil
	gate.next(t, 2048).finish <- nil
	f.wantLevel(t, 2048, 2, 2)
	if made := f.vault.Account().Made; made != 4 {
		t.Errorf("%d keys were made", made)
	}
}

func TestFillsInTurns(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 4, 3072: 2, 4096: 1}, Workers: 1})
	for _, bits := range []int{2048, 3072, 4096, 2048, 3072, 2048, 2048} {
		gate.next(t, bits).finish <- nil
	}
	f.mustWarm(t)
	gate.none(t)
}

// A pool that is off, and sizes and kinds of key that it does not hold.
func TestNotPooled(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{}, Processors: 1})
	f.mustWarm(t)
	if err := f.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
	gate.none(t)
	var wg sync.WaitGroup
	wg.Go(func() { f.take(t, 2048) })
	blocked := gate.next(t, 2048)
	wg.Go(func() { // beside the queue
		key, err := f.Generate(t.Context(), ec256)
		if err != nil {
			t.Errorf("Generate: %v", err)
			return
		}
		wantError(t, "Discard", key.Discard(), nil)
	})
	gate.next(t, 256).finish <- nil
	blocked.finish <- nil
	wg.Wait()
	gate.none(t)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]pool.Options{
		"no bits":              {Targets: map[int]int{0: 1}},
		"target of none":       {Targets: map[int]int{2048: 0}},
		"target above maximum": {Targets: map[int]int{2048: 3, 3072: 5}, Max: 4},
	} {
		vault := keystoretest.NewVault()
		o.Custodian = vault
		if p, err := pool.New(o); err == nil || p != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, err := vault.Generate(t.Context(), ec256)
		wantError(t, name+": the custodian", err, keystore.ErrUnavailable)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 3}, Workers: 1, Processors: 1})
	gate.next(t, 2048).finish <- nil
	background := gate.next(t, 2048)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			_, err := f.Generate(t.Context(), rsaSpec(4096))
			wantError(t, "a waiter", err, keystore.ErrUnavailable)
		})
	}
	foreground := gate.next(t, 4096)
	f.wantWaiting(t, 5)
	closed := make(chan error)
	go func() { closed <- f.Close() }()
	wg.Wait() // at once
	wantError(t, "Warm", f.Warm(t.Context()), keystore.ErrUnavailable)
	select {
	case <-closed:
		t.Error("Close leaves keys in the making behind")
	case <-time.After(20 * time.Millisecond):
	}
	background.finish <- nil
	foreground.finish <- nil
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
	_, err := f.Generate(t.Context(), rsaSpec(2048))
	wantError(t, "Generate", err, keystore.ErrUnavailable)
	if account := f.vault.Account(); account.Made != 3 || len(account.Discarded) != 3 {
		t.Errorf("books: %+v, want all of 3 keys discarded", account)
	}
}

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
	"attestcsr/test/kit"
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
	log   *kit.Buffer
}

// newPool starts a pool with the default bounds where o has none.
func newPool(o pool.Options) *pool.Pool {
	return pool.New(kit.Complete(o, pool.Options{QueueBound: 256, QueueDeadline: 30 * time.Second, Logger: slog.New(slog.DiscardHandler)}))
}

func open(t testing.TB, o pool.Options) *fixture {
	t.Helper()
	f := &fixture{vault: keystoretest.NewVault(), log: &kit.Buffer{}}
	switch c := o.Custodian.(type) {
	case nil:
		o.Custodian = f.vault
	case *gated:
		c.Custodian = f.vault
	}
	o.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	p := newPool(o)
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
		t.Fatal(err)
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

func (f *fixture) wantLevel(t *testing.T, bits, ready, target int) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("RSA-%d: %d of %d keys", bits, ready, target), func() bool {
		gotReady, gotTarget := f.Level(bits)
		return gotReady == ready && gotTarget == target
	})
}

func (f *fixture) wantWaiting(t *testing.T, n int) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("%d who wait", n), func() bool { return f.Waiting() == n })
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v, want %v", what, err, want)
	}
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

// metric returns the value of a series, written as its name and label values; a
// histogram's is the number of its samples.
func (f *fixture) metric(t testing.TB, series string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.Collectors()...)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all = append(all, name)
			if name != series {
				continue
			}
			if h := m.GetHistogram(); h != nil {
				if h.Schema == nil || len(h.GetBucket()) != 0 {
					t.Errorf("%s is not a native histogram", name)
				}
				return float64(h.GetSampleCount())
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no %q among %s", series, strings.Join(all, ", "))
	return 0
}

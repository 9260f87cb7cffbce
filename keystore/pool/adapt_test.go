package pool_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/keystore/pool"
)

// endWindow lets a window of demand go by.
func (f *fixture) endWindow() {
	f.clock.advance(pool.Window)
	f.Adapt()
}

func TestShrinksAtRest(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 8, 4096: 3}})
	f.mustWarm(t)
	f.take(t, 2048)
	f.clock.advance(pool.Window - time.Second)
	f.Adapt()
	f.wantLevel(t, 2048, 8, 8)
	f.wantLevel(t, 4096, 3, 3)
	f.clock.advance(time.Second)
	f.Adapt()
	f.wantLevel(t, 2048, 8, 8)
	f.wantLevel(t, 4096, 1, 1) // nobody asked
	f.endWindow()
	f.wantLevel(t, 2048, 1, 1)
	account := f.vault.Account()
	if len(account.Discarded) != 1+2+7 || len(account.Fresh) != 2 {
		t.Errorf("books: %+v", account)
	}
	f.endWindow()
	time.Sleep(20 * time.Millisecond)
	if made := f.vault.Account().Made; made != account.Made {
		t.Errorf("%d keys were made at rest", made-account.Made)
	}
	f.take(t, 2048) // and it is back
	f.wantLevel(t, 2048, 8, 8)
	f.wantLevel(t, 4096, 1, 1)
	if err := f.Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}

func TestGrowsWithBursts(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 2}, Max: 7, Workers: 1, Processors: 1})
	// refill makes keys until the pool holds n again, one at a time.
	refill := func(n int) {
		t.Helper()
		for ready, _ := f.Level(2048); ready < n; ready++ {
			gate.next(t, 2048).finish <- nil
			f.wantLevel(t, 2048, ready+1, n)
		}
	}
	// burst takes all keys and one more.
	burst := func(keys int) {
		t.Helper()
		for range keys {
			f.take(t, 2048)
		}
		background := gate.next(t, 2048)
		answered := f.ask(t.Context(), t, 2048, nil)
		foreground := gate.next(t, 2048)
		foreground.finish <- nil
		wantAnswer(t, answered)
		background.finish <- nil
	}
	refill(2)
	burst(2)
	f.wantLevel(t, 2048, 1, 4)
	// Misses while it fills up say nothing about its size.
	f.take(t, 2048)
	background := gate.next(t, 2048)
	answered := f.ask(t.Context(), t, 2048, nil)
	gate.next(t, 2048).finish <- nil
	wantAnswer(t, answered)
	background.finish <- nil
	f.wantLevel(t, 2048, 1, 4)
	refill(4)
	burst(4)
	f.wantLevel(t, 2048, 1, 7) // not 8
	refill(7)
	f.clock.advance(time.Minute)
	burst(7)
	f.wantLevel(t, 2048, 1, 7)
	refill(7)

	// It falls by what stayed unused, window by window.
	f.endWindow() // of the bursts
	f.wantLevel(t, 2048, 7, 7)
	for range 3 {
		f.take(t, 2048)
	}
	refill(7)
	f.endWindow()
	f.wantLevel(t, 2048, 3, 3)
	f.take(t, 2048)
	refill(3)
	f.endWindow()
	f.wantLevel(t, 2048, 2, 2) // what was configured
	f.endWindow()
	f.wantLevel(t, 2048, 1, 1)
	burst(1) // finds it at rest, which says nothing either
	f.wantLevel(t, 2048, 1, 2)

	if dry, full := strings.Count(f.log.String(), "ran dry"), strings.Count(f.log.String(), "is full"); dry != 2 || full != 3 {
		t.Errorf("said %d times that it ran dry and %d times that it is full, want 2 and 3: not twice within a minute\n%s", dry, full, f.log.String())
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

func TestMetrics(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 2, 4096: 1}, Workers: 1, Processors: 1})
	gate.next(t, 2048).finish <- nil
	gate.next(t, 4096).finish <- nil
	gate.next(t, 2048).finish <- nil
	f.mustWarm(t)
	f.take(t, 2048)
	background := gate.next(t, 2048)
	f.take(t, 2048)
	missed := f.ask(t.Context(), t, 2048, nil)
	gate.next(t, 2048).finish <- nil
	wantAnswer(t, missed)
	unpooled := f.ask(t.Context(), t, 8192, nil)
	gate.next(t, 8192).finish <- nil
	wantAnswer(t, unpooled)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Generate(ctx, rsaSpec(4096))
	wantError(t, "Generate", err, context.Canceled)
	background.finish <- nil
	f.wantLevel(t, 2048, 1, 4)
	for series, want := range map[string]float64{
		"attestcsr_key_pool_keys 2048":                         1,
		"attestcsr_key_pool_keys 4096":                         1,
		"attestcsr_key_pool_target 2048":                       4,
		"attestcsr_key_pool_target 4096":                       1,
		"attestcsr_key_pool_hits_total 2048":                   2,
		"attestcsr_key_pool_hits_total 4096":                   0,
		"attestcsr_key_pool_hits_total other":                  0,
		"attestcsr_key_pool_misses_total 2048":                 1,
		"attestcsr_key_pool_misses_total 4096":                 0,
		"attestcsr_key_pool_misses_total other":                1,
		"attestcsr_key_wait_seconds":                           4,
		"attestcsr_key_requests_shed_total queue_full":         0,
		"attestcsr_key_requests_shed_total deadline":           0,
		"attestcsr_key_generation_seconds RSA background 2048": 3,
		"attestcsr_key_generation_seconds RSA foreground 2048": 1,
		"attestcsr_key_generation_seconds RSA foreground 8192": 1,
	} {
		if got := f.metric(t, series); got != want {
			t.Errorf("%s: %v, want %v", series, got, want)
		}
	}
}

package pool_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
)

func TestCustodian(t *testing.T) {
	t.Parallel()
	keystoretest.TestCustodian(t, func(t *testing.T, dir string) keystore.Custodian {
		return newPool(pool.Options{Custodian: openSealed(t, dir), Targets: map[int]int{2048: 1}, Workers: 1})
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

// A key whose change failed goes nowhere near the pool again.
func TestDroppedOnFailure(t *testing.T) {
	t.Parallel()
	f := open(t, pool.Options{Targets: map[int]int{2048: 2}})
	store, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	faulty := keystoretest.NewFaulty(store)
	k, err := keystore.Open(t.Context(), keystore.Options{Store: faulty, Custodian: f.Pool, MAC: keystoretest.MAC("records")})
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

// A burst is logged once a minute.
func TestLog(t *testing.T) {
	t.Parallel()
	gate := newGated()
	f := open(t, pool.Options{Custodian: gate, Targets: map[int]int{2048: 1}, Workers: 1, Processors: 1})
	miss := func() {
		answered := f.ask(t.Context(), t, 2048, nil)
		gate.next(t, 2048).finish <- nil
		wantAnswer(t, answered)
	}
	background := gate.next(t, 2048)
	miss() // before the pool was full
	background.finish <- nil
	f.mustWarm(t)
	for range 2 {
		f.take(t, 2048)
		background := gate.next(t, 2048)
		miss()
		background.finish <- nil
		f.wantLevel(t, 2048, 1, 1)
	}
	if n := strings.Count(f.log.String(), "ran dry"); n != 1 {
		t.Errorf("said %d times that it ran dry, want once\n%s", n, f.log)
	}
}

// signing is a custodian that counts the signatures of its keys.
type signing struct {
	keystore.Custodian
	signatures *atomic.Int64
}

type signingKey struct {
	keystore.Key
	signatures *atomic.Int64
}

func (s signing) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	key, err := s.Custodian.Generate(ctx, spec)
	return signingKey{key, s.signatures}, err
}

func (k signingKey) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.signatures.Add(1)
	return k.Key.Sign(random, digest, opts)
}

// A key that waits has signed nothing, whatever the keys before it were asked to sign.
func TestKeysThatWaitSignNothing(t *testing.T) {
	t.Parallel()
	var signatures atomic.Int64
	f := open(t, pool.Options{Custodian: signing{keystoretest.NewVault(), &signatures}, Targets: map[int]int{2048: 2}})
	for asked := range int64(4) {
		f.mustWarm(t)
		f.wantLevel(t, 2048, 2, 2)
		if got := signatures.Load(); got != asked {
			t.Fatalf("%d signatures, and %d were asked for", got, asked)
		}
		key, err := f.Generate(t.Context(), rsaSpec(2048))
		if err != nil {
			t.Fatal(err)
		}
		_, err = key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
		if err := errors.Join(err, key.Discard()); err != nil {
			t.Fatal(err)
		}
	}
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
	f.wantLevel(t, 2048, 1, 2)
	for series, want := range map[string]float64{
		"attestcsr_key_pool_keys 2048":                         1,
		"attestcsr_key_pool_keys 4096":                         1,
		"attestcsr_key_pool_target 2048":                       2,
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

package keystore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
)

func TestReady(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	for range 20 {
		if err := f.Ready(t.Context(), a, b); err != nil {
			t.Fatalf("Ready: %v", err)
		}
	}
	if n := f.store.Checks(); n != 1 {
		t.Errorf("the store was checked %d times within a second", n)
	}
	broken := errors.New("broken")
	f.vault.Refuse("Open", broken)
	wantError(t, "a custodian that opens nothing", f.Ready(t.Context()), broken)
	f.vault.Refuse("Open", nil)

	f.store.BreakChecks(broken)
	time.Sleep(1100 * time.Millisecond)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	// A prober that gave up does not make the others believe that all is lost,
	// and a result that is too old is not used.
	if err := f.Ready(ended); !errors.Is(err, context.Canceled) && !errors.Is(err, broken) {
		t.Errorf("Ready: %v", err)
	}
	wantError(t, "a store that takes nothing", f.Ready(t.Context()), broken)

	if _, err := f.store.Store.Commit(t.Context(), nil, keystore.Op{Slot: b, Ref: keystore.Ref("no such key"), Code: make([]byte, 36)}); err != nil {
		t.Fatal(err)
	}
	f.store.BreakChecks(nil)
	time.Sleep(1100 * time.Millisecond)
	if err := f.Ready(t.Context(), a); err != nil {
		t.Errorf("Ready: %v", err)
	}
	if err := f.Ready(t.Context(), a, b); err == nil {
		t.Error("ready although the record of a slot is not authentic")
	}
}

// scarce is a store whose commits fail for want of space while it has a reason.
type scarce struct {
	keystore.Store
	reason atomic.Pointer[error]
}

func (s *scarce) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	if reason := s.reason.Load(); reason != nil {
		return keystore.Commit{}, *reason
	}
	return s.Store.Commit(ctx, note, ops...)
}

// A commit that had no space ends readiness at once, until a check succeeds.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	for name, reason := range map[string]error{
		"not committed": fmt.Errorf("%w: %w", keystore.ErrNotCommitted, unix.ENOSPC),
		"unknown":       fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, unix.EDQUOT),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scarce{}
			f := openFixture(t, func(o *keystore.Options) { s.Store, o.Store = o.Store, s })
			if err := f.Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.reason.Store(&reason)
			for range 2 {
				wantError(t, "Note", f.Note(t.Context(), []byte("note")), reason)
				wantError(t, "Ready", f.Ready(t.Context()), reason)
			}
			s.reason.Store(nil)
			if err := f.Note(t.Context(), []byte("note")); err != nil { // a small one may find room
				t.Fatal(err)
			}
			wantError(t, "Ready before a check", f.Ready(t.Context()), reason)
			time.Sleep(1100 * time.Millisecond)
			if err := f.Ready(t.Context()); err != nil {
				t.Errorf("Ready: %v", err)
			}
			if lost, found := strings.Count(f.log.String(), "no space left:"), strings.Count(f.log.String(), "space again"); lost != 1 || found != 1 {
				t.Errorf("log: %s", f.log)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f.Collectors()...)
	f.mustReplace(t, a)
	_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, keystore.KeySpec{Algorithm: "none", Bits: 7}, publicKey)
	if err == nil {
		t.Fatal("a key of no algorithm")
	}
	f.store.FailNext(keystoretest.UnknownLost)
	_, err = f.Replace(t.Context(), keystore.Target{Slot: a}, spec, publicKey)
	wantError(t, "Replace", err, keystore.ErrOutcomeUnknown)
	wantError(t, "Delete", f.Delete(t.Context(), keystore.Target{Slot: b}, nil), keystore.ErrNotFound)

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := family.GetName()
			for _, l := range m.GetLabel() {
				labels += " " + l.GetValue()
			}
			h := m.GetHistogram()
			if h == nil {
				continue // the counter of records that are not authentic
			}
			if h.Schema == nil || len(h.GetBucket()) != 0 {
				t.Errorf("%s is not a native histogram", labels)
			}
			counts[labels] = h.GetSampleCount()
		}
	}
	for name, want := range map[string]uint64{
		"attestcsr_store_commit_seconds committed":       2,
		"attestcsr_store_commit_seconds conflict":        0,
		"attestcsr_store_commit_seconds not_found":       1,
		"attestcsr_store_commit_seconds not_committed":   0,
		"attestcsr_store_commit_seconds unavailable":     0,
		"attestcsr_store_commit_seconds outcome_unknown": 1,
	} {
		if got, present := counts[name]; !present || got != want {
			t.Errorf("%s: %d (present: %t), want %d", name, got, present, want)
		}
		delete(counts, name)
	}
	if len(counts) != 0 {
		t.Errorf("more series than expected: %v", counts)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) != 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

package keystore

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// Options says what a Keystore is made of.
type Options struct {
	Store     Store
	Custodian Custodian
	MAC       MAC          // authenticates records and notes; of a purpose of its own
	Logger    *slog.Logger // nil discards

	// Processors bounds how many payloads are built at once, which is when
	// signatures are made; default GOMAXPROCS. It is to be given where the
	// Custodian raises GOMAXPROCS for its own purposes.
	Processors int
}

// Keystore is a set of slots: what the layers above work with. It is safe for
// concurrent use.
type Keystore struct {
	store     Store
	custodian Custodian
	log       *slog.Logger
	auth      authenticator
	building  *semaphore.Weighted // first come, first served
	metrics   metrics
	check     storeCheck
	calls     calls
}

// canarySlot holds a key that is made at the first Open and opened at every
// later one, which proves that the custodian opens what the store holds.
var canarySlot = Slot{Collection: "keystore", ID: "canary"}

// Open returns the Keystore of a store and a custodian and owns both from here
// on: Close closes them, and so does Open itself when it fails.
//
// It first opens the canary key, so that a custodian that does not belong to the
// store (a wrong or lost sealing keyset, another token) fails here and not at
// the first request, and destroys nothing. Then it sweeps what a crash left
// behind at the custodian.
func Open(ctx context.Context, o Options) (*Keystore, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Processors <= 0 {
		o.Processors = runtime.GOMAXPROCS(0)
	}
	k := &Keystore{
		store:     o.Store,
		custodian: o.Custodian,
		log:       o.Logger,
		auth:      newAuthenticator(o.MAC),
		building:  semaphore.NewWeighted(int64(o.Processors)),
		metrics:   newMetrics(),
	}
	k.store.Protect(guard{k.auth, k.custodian})
	if err := k.start(ctx); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Keystore) start(ctx context.Context) error {
	canary, err := k.store.Get(ctx, canarySlot)
	fresh := errors.Is(err, ErrNotFound)
	if err != nil && !fresh {
		return err
	}
	if !fresh {
		err := k.auth.check(canary)
		if err == nil {
			_, err = k.open(ctx, canary)
		}
		if err != nil {
			return fmt.Errorf("the private keys in this store cannot be opened; they were made with another sealing keyset or token: %w", err)
		}
	}
	if err := k.sweep(ctx); err != nil {
		return err
	}
	if !fresh {
		return nil
	}
	payload := []byte("This key signs nothing. That it opens proves that the other keys can be opened.")
	_, err = k.Replace(ctx, Target{canarySlot, Absent}, KeySpec{ECDSA, 256},
		func(crypto.Signer) (Change, error) { return Change{Payload: payload}, nil })
	if err != nil {
		return fmt.Errorf("making the first key: %w", err)
	}
	return nil
}

// sweep has the custodian destroy every key that no record refers to. The
// records are read only if the custodian asks: one that keeps its keys in the
// records has nothing to sweep, and start-up must not scan the store for it.
func (k *Keystore) sweep(ctx context.Context) error {
	gather := sync.OnceValues(func() (map[string]bool, error) { return k.refs(ctx) })
	var gatherErr error
	err := k.custodian.Sweep(ctx, func(ref Ref) bool {
		refs, err := gather()
		if err != nil {
			gatherErr = err
			return true // what is live is not known: destroy nothing
		}
		return refs[string(ref)]
	})
	if err := errors.Join(gatherErr, err); err != nil {
		return fmt.Errorf("sweeping keys that no record refers to: %w", err)
	}
	return nil
}

// refs returns the references of all records.
func (k *Keystore) refs(ctx context.Context) (map[string]bool, error) {
	refs := map[string]bool{}
	_, err := k.store.Inspect(ctx, func(r Record, unreadable error) error {
		refs[string(r.Ref)] = true
		return unreadable
	})
	return refs, err
}

// Orphans returns how many keys the custodian holds that no record refers to. The key of
// a change that is under way may be among them.
func (k *Keystore) Orphans(ctx context.Context) (n int, err error) {
	var held []Ref
	err = k.custodian.Sweep(ctx, func(ref Ref) bool {
		held = append(held, ref)
		return true // nothing is destroyed
	})
	if err != nil || len(held) == 0 {
		return 0, err
	}
	refs, err := k.refs(ctx)
	for _, ref := range held {
		if !refs[string(ref)] {
			n++
		}
	}
	return n, err
}

// Get returns the record of a slot, without its key reference, or ErrNotFound. It never
// opens a key. With ErrUnauthentic comes a Record of the slot and the revision alone, for
// At.
func (k *Keystore) Get(ctx context.Context, slot Slot) (Record, error) {
	defer k.calls.enter().Done()
	r, err := k.get(ctx, slot)
	r.Ref = nil
	return r, err
}

// get returns an authentic record.
func (k *Keystore) get(ctx context.Context, slot Slot) (Record, error) {
	r, err := k.store.Get(ctx, slot)
	if err != nil {
		return Record{}, err
	}
	if err := k.auth.check(r); err != nil {
		k.metrics.unauthentic.Inc()
		k.log.ErrorContext(ctx, "a record in the key store is not authentic: find out who could write to the file", "slot", slot.String())
		return Record{Slot: slot, Revision: r.Revision}, err
	}
	return r, nil
}

// List returns one page of a collection, without key references. A record that is not
// authentic has an Err, and does not end the list.
func (k *Keystore) List(ctx context.Context, q Query) ([]Item, error) {
	defer k.calls.enter().Done()
	items, err := k.store.List(ctx, q)
	if err != nil {
		return nil, err
	}
	for i, item := range items {
		items[i].Ref = nil
		if err := k.auth.check(item.Record); err != nil {
			k.metrics.unauthentic.Inc()
			items[i] = Item{Record: Record{Slot: item.Slot, Revision: item.Revision}, Position: item.Position, Err: err}
		}
	}
	return items, nil
}

// Inspect calls fn with the state of every slot at one moment: the revision, the SHA-256
// of the payload, and why the record is not authentic. It leaves the canary out. A nil fn
// reads no records.
func (k *Keystore) Inspect(ctx context.Context, fn func(slot Slot, revision uint64, digest [sha256.Size]byte, err error) error) (Evidence, error) {
	if fn == nil {
		return k.store.Inspect(ctx, nil)
	}
	defer k.calls.enter().Done()
	return k.store.Inspect(ctx, func(r Record, unreadable error) error {
		if r.Slot == canarySlot {
			return nil
		}
		if unreadable == nil {
			unreadable = k.auth.check(r)
		}
		return fn(r.Slot, r.Revision, sha256.Sum256(r.Payload), unreadable)
	})
}

// CheckNote returns an error for a note whose code does not fit.
func (k *Keystore) CheckNote(n Note) error {
	if !k.auth.fits(n.Code, noteMessage(n.Previous, n.Revision, n.Text)) {
		return fmt.Errorf("the note of revision %d is %w", n.Revision, ErrUnauthentic)
	}
	return nil
}

// Use opens the key of a slot for fn, with its record, and then commits the note that fn
// returns: the evidence of what the key was used for. The use counts when Use returns
// nil, and its result must not be given away before: a crash before the commit leaves no
// trace of it. Without a note nothing is committed. The signer is fn's alone and must not
// be used after fn returned.
//
// Where the slot changes in the meantime, the key and the record are those that it held
// when Use began. Errors: those of fn, as they are; ErrNotFound for an empty slot,
// ErrNoKey, ErrUnauthentic, ErrConflict where the key was destroyed before it could be
// opened, and those of Records.Commit. Uses share processors with the builds of Replace.
func (k *Keystore) Use(ctx context.Context, slot Slot, fn func(crypto.Signer, Record) (note []byte, err error)) error {
	defer k.calls.enter().Done()
	r, err := k.get(ctx, slot)
	if err != nil {
		return err
	}
	used, err := k.build(ctx, func() (Change, error) {
		signer, err := k.open(ctx, r)
		if err != nil {
			return Change{}, k.conflictOr(ctx, r, err)
		}
		r.Ref = nil
		note, err := fn(signerOnly{signer}, r)
		return Change{Note: note}, err
	})
	if err != nil || used.Note == nil {
		return err
	}
	_, err = k.commit(ctx, used.Note, nil)
	return err
}

// Count returns the number of records in a collection.
func (k *Keystore) Count(ctx context.Context, collection string) (int, error) {
	return k.store.Count(ctx, collection)
}

// Ready reports whether changes can be made: Writes and Opens.
func (k *Keystore) Ready(ctx context.Context, slots ...Slot) error {
	if err := k.Writes(ctx); err != nil {
		return err
	}
	return k.Opens(ctx, slots...)
}

// Writes reports whether the store takes a durable write, which it is asked at most once
// a second.
func (k *Keystore) Writes(ctx context.Context) error { return k.check.run(ctx, k.store, k.log) }

// Opens reports whether the canary key and the keys of the given slots open. A slot that
// is empty is fine.
func (k *Keystore) Opens(ctx context.Context, slots ...Slot) error {
	for _, slot := range slices.Concat([]Slot{canarySlot}, slots) {
		r, err := k.get(ctx, slot)
		if err == nil {
			_, err = k.open(ctx, r)
		}
		if err != nil && (slot == canarySlot || !errors.Is(err, ErrNotFound)) {
			return err
		}
	}
	return nil
}

func (k *Keystore) open(ctx context.Context, r Record) (crypto.Signer, error) {
	if len(r.Ref) == 0 {
		return nil, fmt.Errorf("%s: %w", r.Slot, ErrNoKey)
	}
	return k.custodian.Open(ctx, Bind(r.Slot, r.Payload), r.Ref)
}

// measured is a custodian with metrics of its own. It knows better than this
// package how long the making of a key took: some of its keys were made earlier.
type measured interface {
	Collectors() []prometheus.Collector
}

// Collectors returns the metrics of this Keystore and of its custodian for a
// registry.
func (k *Keystore) Collectors() []prometheus.Collector {
	if m, ok := k.custodian.(measured); ok {
		return append(m.Collectors(), k.metrics.commit, k.metrics.unauthentic)
	}
	return []prometheus.Collector{k.metrics.commit, k.metrics.unauthentic}
}

// Close closes the store and then the custodian. Changes still under way fail
// with ErrUnavailable.
func (k *Keystore) Close() error {
	return errors.Join(k.store.Close(), k.custodian.Close())
}

const (
	checkLifetime = time.Second
	checkTimeout  = 10 * time.Second
)

// storeCheck remembers the result of Store.Check for checkLifetime: a check
// costs a disk flush, and readiness is asked without authentication.
type storeCheck struct {
	mu  sync.Mutex
	at  time.Time // when it began
	err error
	// full is the last commit that had no space, until a check that began after it
	// succeeds.
	full atomic.Pointer[failure]
}

type failure struct {
	at  time.Time
	err error
}

// fail takes the error of a commit. One for want of space ends readiness at once.
func (c *storeCheck) fail(err error, log *slog.Logger) {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return
	}
	if c.full.Swap(&failure{time.Now(), err}) == nil {
		log.Error("the key store has no space left: the service is not ready until a check succeeds", "error", err)
	}
}

func (c *storeCheck) run(ctx context.Context, store Store, log *slog.Logger) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	full := c.full.Load()
	if c.at.IsZero() || time.Since(c.at) >= checkLifetime {
		// Others get this result: that one prober gave up must not be it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		c.at = time.Now()
		c.err = store.Check(ctx)
		c.fail(c.err, log)
		if c.err == nil && full != nil && c.full.CompareAndSwap(full, nil) {
			log.Info("the key store has space again")
		}
	}
	if full = c.full.Load(); full != nil && c.err == nil {
		return full.err
	}
	return c.err
}

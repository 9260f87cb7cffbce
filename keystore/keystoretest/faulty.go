package keystoretest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"attestcsr/keystore"
)

// Fault is how a commit fails.
type Fault int

// The faults. Each kind of failure of a real store comes in two: the change was
// persisted all the same, or it was not.
const (
	NoFault          Fault = iota
	FailBefore             // ErrNotCommitted, nothing was written
	UnknownPersisted       // ErrOutcomeUnknown, it was written
	UnknownLost            // ErrOutcomeUnknown, it was not written
	Unclassified           // an error outside the contract, nothing was written
	Overtaken              // another change of the first slot comes just before
)

// Faulty is a store whose next commits can be made to fail.
type Faulty struct {
	keystore.Store
	lock   sync.Mutex
	next   Fault
	fired  int
	checks int
	broken error
}

// NewFaulty wraps a store; Close closes it.
func NewFaulty(s keystore.Store) *Faulty { return &Faulty{Store: s} }

// FailNext makes the next commit fail.
func (f *Faulty) FailNext(fault Fault) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.next = fault
}

// BreakChecks makes Check fail from now on.
func (f *Faulty) BreakChecks(err error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.broken = err
}

// Fired returns how many faults came to pass.
func (f *Faulty) Fired() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.fired
}

// Checks returns how often Check was called.
func (f *Faulty) Checks() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.checks
}

// Check implements keystore.Store.
func (f *Faulty) Check(ctx context.Context) error {
	f.lock.Lock()
	f.checks++
	err := f.broken
	f.lock.Unlock()
	if err != nil {
		return err
	}
	return f.Store.Check(ctx)
}

// Commit implements keystore.Store.
func (f *Faulty) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	f.lock.Lock()
	fault := f.next
	f.next = NoFault
	if fault != NoFault {
		f.fired++
	}
	f.lock.Unlock()
	injected := errors.New("injected")
	switch fault {
	case FailBefore:
		return keystore.Commit{}, fmt.Errorf("%w: %w", keystore.ErrNotCommitted, injected)
	case UnknownLost:
		return keystore.Commit{}, fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, injected)
	case Unclassified:
		return keystore.Commit{}, injected
	case UnknownPersisted:
		if _, err := f.Store.Commit(ctx, note, ops...); err != nil {
			return keystore.Commit{}, err
		}
		return keystore.Commit{}, fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, injected)
	case Overtaken:
		r, err := f.Store.Get(ctx, ops[0].Slot)
		if err != nil && !errors.Is(err, keystore.ErrNotFound) {
			return keystore.Commit{}, err
		}
		// The same once more: it is authentic, and has another revision.
		if _, err := f.Store.Commit(ctx, nil, keystore.Op{Slot: ops[0].Slot, Ref: r.Ref, Payload: r.Payload, Index: r.Index, Code: r.Code}); err != nil {
			return keystore.Commit{}, err
		}
	}
	return f.Store.Commit(ctx, note, ops...)
}

package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// resealing is how many records are sealed again at once: they share flushes, and leave
// the processors and the commits to requests.
const resealing = 4

// Older returns the slots whose records, or their keys, are under other sealing keys than
// the primary one, that of the canary too, and the number of such notes in the outbox.
// What is not authentic does not count: no key opens it.
func (k *Keystore) Older(ctx context.Context) (slots []Slot, notes int, err error) {
	evidence, err := k.store.Inspect(ctx, func(r Record, unreadable error) error {
		if unreadable == nil && k.older(r) && k.auth.check(r) == nil {
			slots = append(slots, r.Slot)
		}
		return nil
	})
	for _, n := range evidence.Notes {
		if !k.auth.isPrimary(n.Code) && k.CheckNote(n) == nil {
			notes++
		}
	}
	return slots, notes, err
}

func (k *Keystore) older(r Record) bool {
	return !k.auth.isPrimary(r.Code) || len(r.Ref) > 0 && k.custodian.Stale(r.Ref)
}

// Reseal brings every record under the primary sealing key, with its payload and its
// revision as they are, while other changes go on. progress is told after each. A record
// says itself what it is under: after a crash, or an error, another call goes on.
func (k *Keystore) Reseal(ctx context.Context, progress func(done, total int)) error {
	// Commits that were admitted before the rotation end first.
	if err := k.calls.wait(ctx); err != nil {
		return err
	}
	slots, _, err := k.Older(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	done := 0
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(resealing)
	for _, slot := range slots {
		work.Go(func() error {
			if err := k.reseal(ctx, slot); err != nil {
				return fmt.Errorf("sealing %s again: %w", slot, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			progress(done, len(slots))
			return nil
		})
	}
	return work.Wait()
}

// reseal leaves a record that was changed or deleted in the meantime: that was under the
// primary key. A crash leaves the record as it was, or sealed again.
func (k *Keystore) reseal(ctx context.Context, slot Slot) error {
	defer k.calls.enter().Done()
	if err := ctx.Err(); err != nil {
		return err
	}
	old, err := k.get(ctx, slot)
	if err == nil && k.older(old) {
		ref := old.Ref
		if len(ref) > 0 {
			ref, err = k.rebind(ctx, old, slot, old.Payload)
		}
		if err == nil {
			_, err = k.commit(ctx, nil, onlyIfNew(ref, old.Ref), Op{
				Slot: slot, Expect: At(old.Revision), Relink: true, Ref: ref, Payload: old.Payload, Index: old.Index,
			})
		}
	}
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Renewed returns an error while something in the store needs another sealing key than
// the primary one. When it returns nil after a Reseal, no call that is under way does so
// either, and since the Guard refuses what is older it stays so until the next rotation.
func (k *Keystore) Renewed(ctx context.Context) error {
	slots, notes, err := k.Older(ctx)
	if err != nil {
		return err
	}
	if len(slots) > 0 || notes > 0 {
		return fmt.Errorf("older sealing keys are still in use, by %d records and %d notes of changes", len(slots), notes)
	}
	return k.calls.wait(ctx) // which may have read a record before it was sealed again
}

// calls counts the calls that hold what they read or made under sealing keys of now.
type calls struct {
	mu      sync.Mutex
	current *sync.WaitGroup // of those that began since the last wait
}

// enter begins a call, which ends with Done of the result.
func (c *calls) enter() *sync.WaitGroup {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		c.current = &sync.WaitGroup{}
	}
	c.current.Add(1)
	return c.current
}

// wait returns when the calls that began before it have ended. It keeps none waiting.
func (c *calls) wait(ctx context.Context) error {
	c.mu.Lock()
	before, next := c.current, &sync.WaitGroup{}
	next.Add(1) // for those before: this wait may be given up
	c.current = next
	c.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		if before != nil {
			before.Wait()
		}
		next.Done()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for requests that began before: %w", ctx.Err())
	}
}

package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// OutboxState is what Peek finds in a store.
type OutboxState struct {
	Anchors map[string][]byte // by name
	Pending int               // notes in the outbox
}

const peekTimeout = time.Second

// Peek reads the anchors, and how many notes wait, without the lock: also while
// another process has the store open and commits. It changes nothing.
//
// bbolt never writes over a page of the last state that was committed. So what is
// read belongs to one state if that is still the last one afterwards. Otherwise Peek
// reads again, for a second at most.
func Peek(ctx context.Context, path string) (_ OutboxState, err error) {
	f, err := os.Open(path)
	if err != nil {
		return OutboxState{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	deadline := time.Now().Add(peekTimeout)
	for {
		found, same, err := peek(f, func() {})
		switch {
		case same && err != nil:
			return OutboxState{}, fmt.Errorf("%s: %w", path, err)
		case same:
			return found, nil
		case time.Now().After(deadline):
			return OutboxState{}, fmt.Errorf("%s changes faster than it can be read: try again", path)
		}
		select {
		case <-ctx.Done():
			return OutboxState{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// peek reads once. same: the state that was read is still the last one, so that an
// error is damage. between is called after a state was chosen and before it is read.
func peek(f *os.File, between func()) (found OutboxState, same bool, err error) {
	same = true
	err = withMapping(f, func(file []byte) error {
		before := newestMeta(file)
		if before == nil {
			return errForeign
		}
		between()
		c := newContents()
		c.outboxOnly = true
		err := checkStructure(file, before, c)
		// One of the two meta pages is always whole.
		after := newestMeta(file)
		same = after == nil || after.id == before.id
		if err == nil && !c.has(bucketMeta, bucketOutbox) {
			err = errForeign
		}
		found = OutboxState{Anchors: c.anchors, Pending: c.notes}
		return err
	})
	return found, same, err
}

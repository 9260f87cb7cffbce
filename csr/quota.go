package csr

import (
	"context"
	"strconv"
	"sync"

	"attestcsr/keystore"
)

// quota bounds how many records a collection holds, exactly, also while many are
// being made: the store cannot check a count in a commit, so that a place is
// reserved before a key is made and given back when the outcome is stored.
//
// It is exact for one process on a store.
type quota struct {
	collection string // of the key store
	field      Field  // names the collection in the error
	limit      int
	lock       sync.Mutex // guards the fields below
	reserved   int
	released   chan struct{} // closed, and made anew, when a place is given back
}

func newQuota(collection string, field Field, limit int) *quota {
	return &quota{collection: collection, field: field, limit: limit, released: make(chan struct{})}
}

// reserve takes a place, or returns an Invalid error when the collection is full.
// While it depends on others that are being made whether there is a place, it
// waits for them.
func (q *quota) reserve(ctx context.Context, keys *keystore.Keystore) error {
	for {
		ok, released, err := q.try(ctx, keys)
		if ok || err != nil {
			return err
		}
		select {
		case <-released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (q *quota) try(ctx context.Context, keys *keystore.Keystore) (ok bool, released <-chan struct{}, err error) {
	q.lock.Lock()
	defer q.lock.Unlock()
	n, err := keys.Count(ctx, q.collection)
	switch {
	case err != nil:
		return false, nil, err
	case n >= q.limit:
		return false, nil, violations{{Field: q.field, Rule: Full, Limit: strconv.Itoa(q.limit)}}.err()
	case n+q.reserved >= q.limit:
		return false, q.released, nil
	}
	q.reserved++
	return true, nil, nil
}

// release gives a place back; a record that was made for it is counted by now.
func (q *quota) release() {
	q.lock.Lock()
	defer q.lock.Unlock()
	q.reserved--
	close(q.released)
	q.released = make(chan struct{})
}

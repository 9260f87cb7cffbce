package policy

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"

	"attestcsr/csr"
)

const (
	// maxUnsentBytes bounds the memory of lists that are being sent. A list can have
	// ten megabytes, and a client could ask for many and read none of them.
	maxUnsentBytes = 32 << 20
	// maxFreeBytes is the longest list that does not count, so that short lists are
	// answered while the long ones use up the bound.
	maxFreeBytes = 64 << 10
	// listWait is how long a request waits until its list may be made and sent.
	listWait = 5 * time.Second
	// listRetryAfter is for the answer of a request that has waited so long.
	listRetryAfter = 5 * time.Second
)

var errTooManyLists = errors.New("too many lists are being made or sent")

// listLimit bounds what lists cost. At most half of the processors make lists: one
// of a thousand objects takes as long as a hundred other reads. The memory of lists
// that are being sent is bounded too. Who asks first is served first.
type listLimit struct {
	builders *semaphore.Weighted
	unsent   *semaphore.Weighted // bytes
}

func newListLimit() *listLimit {
	return &listLimit{
		builders: semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2))),
		unsent:   semaphore.NewWeighted(maxUnsentBytes),
	}
}

// build waits for a free builder and calls build. The caller must call release once
// it has sent the body.
func (l *listLimit) build(ctx context.Context, build func() ([]byte, error)) (body []byte, release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	if err := l.builders.Acquire(waiting, 1); err != nil {
		return nil, nil, waitError(ctx)
	}
	defer l.builders.Release(1)
	body, err = build()
	if err != nil || len(body) <= maxFreeBytes {
		return body, func() {}, err
	}
	// The builder stays taken during this wait, so that finished bodies that wait for
	// memory are never more than builders.
	held := min(int64(len(body)), maxUnsentBytes)
	if err := l.unsent.Acquire(waiting, held); err != nil {
		return nil, nil, waitError(ctx)
	}
	return body, func() { l.unsent.Release(held) }, nil
}

// waitError is the error of a request that has waited for listWait, or whose
// context has ended before.
func waitError(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return &csr.Error{Kind: csr.Busy, RetryAfter: listRetryAfter, Err: errTooManyLists}
}

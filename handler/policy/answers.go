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
	// maxUntaken bounds the lists that clients have not taken yet, in bytes. A
	// list is up to some ten megabytes, and whoever asks for many and reads none
	// would have all of them kept.
	maxUntaken = 32 << 20
	// maxShort is what a list may have that waits for nobody: those that people
	// look at work also while the long ones are exhausted.
	maxShort = 64 << 10
	// listWait is how long a list waits for its turn and for room.
	listWait = 5 * time.Second
	// listRetryAfter is what is told then.
	listRetryAfter = 5 * time.Second
)

var errLists = errors.New("too many lists are being made or are not taken by their clients")

// lists bounds what lists cost: the processors that make them, since one of a
// thousand objects takes as long as a hundred other reads, and the memory of those
// that wait for their clients. Both are given first come, first served.
type lists struct {
	making  *semaphore.Weighted // places
	untaken *semaphore.Weighted // bytes
}

func newLists() *lists {
	return &lists{
		making:  semaphore.NewWeighted(int64(max(1, runtime.GOMAXPROCS(0)/2))),
		untaken: semaphore.NewWeighted(maxUntaken),
	}
}

// answer makes a body in its turn and sends it. While it is sent no place is taken.
func (l *lists) answer(ctx context.Context, build func() ([]byte, error), send func([]byte) error) error {
	body, held, err := l.build(ctx, build)
	if err != nil {
		return err
	}
	defer l.untaken.Release(held)
	return send(body)
}

// build returns a body and how much of untaken it holds.
func (l *lists) build(ctx context.Context, build func() ([]byte, error)) (body []byte, held int64, err error) {
	waiting, cancel := context.WithTimeout(ctx, listWait)
	defer cancel()
	if err := l.making.Acquire(waiting, 1); err != nil {
		return nil, 0, waited(ctx)
	}
	defer l.making.Release(1)
	if body, err = build(); err != nil || len(body) <= maxShort {
		return body, 0, err
	}
	// The place is held while there is no room, so that no more bodies than places
	// wait for it.
	held = min(int64(len(body)), maxUntaken)
	if err := l.untaken.Acquire(waiting, held); err != nil {
		return nil, 0, waited(ctx)
	}
	return body, held, nil
}

// waited is the error of one that waited in vain.
func waited(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return &csr.Error{Kind: csr.Busy, RetryAfter: listRetryAfter, Err: errLists}
}

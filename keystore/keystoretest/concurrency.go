package keystoretest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"attestcsr/keystore"
)

func testRace(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	at := slot("c", "a")
	revision := mustCommit(t, s, put(at, keystore.Any, "first")).Revision
	var wg sync.WaitGroup
	results := make([]error, 16)
	for i := range results {
		wg.Go(func() {
			_, results[i] = s.Commit(t.Context(), nil, put(at, keystore.At(revision), fmt.Sprint(i)))
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range results {
		switch {
		case err != nil:
			wantError(t, "a loser", err, keystore.ErrConflict)
		case winner >= 0:
			t.Errorf("%d and %d both won", winner, i)
		default:
			winner = i
		}
	}
	wantPayload(t, s, at, fmt.Sprint(winner))
}

func testConcurrentCommits(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	const writers, each = 16, 12
	var lock sync.Mutex
	seen := map[uint64]bool{}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				at := slot("c", fmt.Sprintf("%02d-%02d", w, i))
				c, err := s.Commit(t.Context(), []byte("note"), put(at, keystore.Absent, at.ID, by("n", at.ID)))
				if err != nil {
					t.Errorf("Commit: %v", err)
					return
				}
				// What was acknowledged is there to read.
				if r, err := s.Get(t.Context(), at); err != nil || r.Revision != c.Revision {
					t.Errorf("Get after Commit: %+v, %v", r, err)
				}
				lock.Lock()
				if seen[c.Revision] {
					t.Errorf("revision %d given out twice", c.Revision)
				}
				seen[c.Revision] = true
				lock.Unlock()
				// A job that fails its conditions beside others that do not.
				_, err = s.Commit(t.Context(), nil, put(at, keystore.Absent, "late"))
				wantError(t, "late", err, keystore.ErrConflict)
			}
		})
	}
	wg.Wait()
	wantCount(t, s, "c", writers*each)
	if got := ids(t, s, keystore.Query{Collection: "c", Index: "n", Limit: 1000}); len(got) != writers*each || !slices.IsSorted(got) {
		t.Errorf("index: %q", got)
	}
}

// testWholeCommits moves a token between two slots while readers look: the
// listing, one read, must always show it exactly once.
func testWholeCommits(t *testing.T, open OpenStore) {
	s := openNew(t, open)
	mustCommit(t, s, put(slot("c", "0"), keystore.Any, "token"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if items, err := s.List(t.Context(), keystore.Query{Collection: "c", Limit: 3}); err != nil || len(items) != 1 {
					t.Errorf("List: %d items, %v", len(items), err)
					return
				}
			}
		})
	}
	for i := range 60 {
		mustCommit(t, s, remove(slot("c", fmt.Sprint(i%2)), keystore.Any), put(slot("c", fmt.Sprint((i+1)%2)), keystore.Absent, "token"))
	}
	close(stop)
	wg.Wait()
}

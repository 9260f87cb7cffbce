package auth

import (
	"errors"
	"slices"
	"sync"
	"time"

	"attestcsr/csr"
)

// standing says how soon a password check has its turn.
type standing struct {
	known bool // a right password came from its network within a day
	// last is when the network had its last check, zero where that is ten minutes ago.
	last time.Time
}

const (
	turnWait   = 10 * time.Second // how long a check waits for its turn
	maxKnown   = 256              // checks of known networks that wait
	maxOthers  = 64               // checks of others that wait: about four seconds of bcrypt
	knownTurns = 3                // known networks have as many turns in a row while others wait
)

var errTooManyChecks = errors.New("too many passwords to check")

// turns bounds how many password checks run at once, and orders those that wait.
//
// bcrypt takes a processor for 50 ms and more. A thousand guessers ask for more than
// there is. Checks of known networks go first, so that their users wait for one
// comparison and not for a thousand; each fourth turn goes to the others, who would
// otherwise wait for good. Of the others, the network whose last check is longest ago
// goes first. So each gets as many as the next one, however often it asks.
type turns struct {
	mu            sync.Mutex
	free          int       // checks that may start now; then nobody waits
	known, others []*waiter // in the order of their turns
	inARow        int       // turns of known networks since one of the others
}

// waiter waits for its turn, which is nil, or for the error that ends its wait.
type waiter struct {
	standing
	decided chan error
}

func tooManyChecks() error {
	return &csr.Error{Kind: csr.Busy, RetryAfter: turnWait, Err: errTooManyChecks}
}

// wait returns when a check may run; the caller calls done after it. Where too many
// wait or it takes too long the error is csr.Busy.
func (t *turns) wait(s standing) error {
	w := &waiter{s, make(chan error, 1)}
	t.join(w)
	timeout := time.NewTimer(turnWait)
	defer timeout.Stop()
	select {
	case err := <-w.decided:
		return err
	case <-timeout.C:
		t.leave(w)
		return <-w.decided
	}
}

func (t *turns) join(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 {
		t.free--
		w.decided <- nil
		return
	}
	if w.known {
		if len(t.known) == maxKnown {
			w.decided <- tooManyChecks()
			return
		}
		t.known = append(t.known, w)
		return
	}
	at := len(t.others)
	for at > 0 && t.others[at-1].last.After(w.last) {
		at--
	}
	t.others = slices.Insert(t.others, at, w)
	if len(t.others) > maxOthers {
		t.others[maxOthers].decided <- tooManyChecks()
		t.others = t.others[:maxOthers]
	}
}

// leave ends a wait, unless it has ended.
func (t *turns) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := &t.others
	if w.known {
		line = &t.known
	}
	if i := slices.Index(*line, w); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
		w.decided <- tooManyChecks()
	}
}

// done gives the turn to the next check.
func (t *turns) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := &t.known
	if len(t.known) == 0 || t.inARow >= knownTurns && len(t.others) > 0 {
		line = &t.others
	}
	t.inARow++
	if line == &t.others {
		t.inARow = 0
	}
	if len(*line) == 0 {
		t.free++
		return
	}
	(*line)[0].decided <- nil
	*line = slices.Delete(*line, 0, 1)
}

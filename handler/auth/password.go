package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"attestcsr/csr"
)

const (
	comparisonWait = 10 * time.Second // how long a comparison waits for a processor
	maxComparisons = 256              // comparisons that wait for one
)

// errWrongPassword is also the error of a user there is not.
var errWrongPassword = errors.New("user name or password is wrong")

func wrongPassword() error { return &csr.Error{Kind: csr.Unauthenticated, Err: errWrongPassword} }

// credential stands for a user, a password and the stored hash it is compared
// with: an HMAC under a key of this process, so that what is remembered neither
// reveals passwords nor lets them be guessed at more cheaply than bcrypt does.
type credential [sha256.Size]byte

// passwords verifies passwords. bcrypt is slow on purpose, and clients send Basic
// credentials with every request, so four things stand before it: what was found
// right is remembered for a while, requests from one address with the same
// credentials at the same time are one check, wrong ones are throttled, and few
// comparisons run at once.
type passwords struct {
	users      *atomic.Pointer[Users]
	onPassword func(user string)
	now        func() time.Time
	key        [sha256.Size]byte
	compare    func(hash, password []byte) error // bcrypt's, but for tests that count

	throttle    *throttle
	checks      singleflight.Group // by credential and address: admitted and counted once
	comparisons singleflight.Group // by credential: compared once
	slots       *semaphore.Weighted
	waiting     atomic.Int64 // for a slot

	rememberFor time.Duration
	mu          sync.Mutex
	remembered  *lru[credential, time.Time] // until when
}

func newPasswords(cfg Config, users *atomic.Pointer[Users]) *passwords {
	p := &passwords{
		users:       users,
		onPassword:  cfg.OnPassword,
		now:         cfg.Now,
		compare:     bcrypt.CompareHashAndPassword,
		throttle:    newThrottle(cfg),
		slots:       semaphore.NewWeighted(int64(cfg.Comparisons)),
		rememberFor: cfg.RememberFor,
		remembered:  newLRU[credential](cfg.Remembered, func(time.Time) bool { return false }),
	}
	_, _ = rand.Read(p.key[:]) // never fails, by its documentation
	return p
}

func offersBasic(at attempt) bool {
	headers := at.request.Header["Authorization"]
	return len(headers) == 1 && isBasic(headers[0])
}

// authenticate is the verification of the Basic method.
func (p *passwords) authenticate(ctx context.Context, at attempt) (identity, error) {
	user, password, ok := parseBasic(at.request.Header["Authorization"][0])
	if !ok {
		return identity{}, unauthenticated("the Authorization header cannot be read")
	}
	return p.verify(ctx, user, password, NetworkOf(at.address))
}

// verify returns the identity of the user whose password it is. Errors are those
// of Authenticate.
func (p *passwords) verify(ctx context.Context, user, password string, from netip.Prefix) (identity, error) {
	hash, known := p.users.Load().hashOf(user)
	who := identity{user: user, hash: hash}
	c := p.credential(who, password)
	if known && p.remembers(c) {
		return who, nil
	}
	// The check goes on when its client goes away: others may wait for it, and a
	// guess must be counted even if nobody stays for the answer. What it waits for
	// is bounded, and so is its time.
	led := false
	done := p.checks.DoChan(string(c[:])+from.String(), func() (any, error) {
		led = true
		return nil, p.check(c, who, password, from)
	})
	var err error
	select {
	case <-ctx.Done():
		return identity{}, &csr.Error{Kind: csr.Unavailable, RetryAfter: time.Second, Err: ctx.Err()}
	case result := <-done:
		err = result.Err
	}
	switch {
	case errors.Is(err, errWrongPassword) && !led:
		if throttled := p.throttle.charge(user, from); throttled != nil {
			return identity{}, throttled
		}
		return identity{}, err
	case err != nil:
		return identity{}, err
	case !p.users.Load().holds(user, hash): // no such user, or removed or changed meanwhile
		return identity{}, wrongPassword()
	}
	p.onPassword(user)
	return who, nil
}

// check returns nil for the right password. It waits until there is room in the
// count of failures, and counts a wrong one.
func (p *passwords) check(c credential, who identity, password string, from netip.Prefix) error {
	admitted, err := p.throttle.admit(who.user, from)
	if err != nil {
		return err
	}
	_, err, _ = p.comparisons.Do(string(c[:]), func() (any, error) {
		return nil, p.compareInTurn(c, who, password)
	})
	p.throttle.settle(admitted, errors.Is(err, errWrongPassword))
	return err
}

// compareInTurn compares the password with the hash when a processor is free for
// it, and remembers it where it is right.
func (p *passwords) compareInTurn(c credential, who identity, password string) error {
	if p.remembers(c) {
		return nil // found right while this one waited to be admitted
	}
	if err := p.takeSlot(); err != nil {
		return err
	}
	defer p.slots.Release(1)
	err := p.compare([]byte(who.hash), []byte(password))
	switch {
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword):
		return wrongPassword()
	case err != nil:
		return &csr.Error{Kind: csr.Internal, Err: err}
	}
	p.remember(c)
	return nil
}

// takeSlot waits, first come first served, for the right to compare. Where too
// many wait or it takes too long the error is csr.Busy.
func (p *passwords) takeSlot() error {
	if p.slots.TryAcquire(1) {
		return nil
	}
	defer p.waiting.Add(-1)
	tooMany := &csr.Error{Kind: csr.Busy, RetryAfter: comparisonWait, Err: errors.New("too many passwords to check")}
	if p.waiting.Add(1) > maxComparisons {
		return tooMany
	}
	ctx, cancel := context.WithTimeout(context.Background(), comparisonWait)
	defer cancel()
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return tooMany
	}
	return nil
}

// credential computes what stands for a password in memory. Each part is preceded
// by its length, so that none can run over into the next.
func (p *passwords) credential(who identity, password string) (c credential) {
	text := make([]byte, 0, 512)
	for _, part := range [...]string{who.user, password, who.hash} {
		text = strconv.AppendInt(text, int64(len(part)), 10)
		text = append(text, ':')
		text = append(text, part...)
	}
	mac := hmac.New(sha256.New, p.key[:])
	mac.Write(text)
	mac.Sum(c[:0])
	return c
}

func (p *passwords) remembers(c credential) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.remembered.get(c)
	if ok && !p.now().Before(until) {
		p.remembered.remove(c)
		return false
	}
	return ok
}

func (p *passwords) remember(c credential) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remembered.put(c, p.now().Add(p.rememberFor))
}

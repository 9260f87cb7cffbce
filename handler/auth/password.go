package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"

	"attestcsr/csr"
)

const maxRemembered = 10_000 // right passwords, as many as a users file has users

// errWrongPassword is also the error for an unknown user.
var errWrongPassword = errors.New("user name or password is wrong")

func wrongPassword() error { return &csr.Error{Kind: csr.Unauthenticated, Err: errWrongPassword} }

// credential stands for a user, a password and the stored hash that the password is
// compared with. It is an HMAC under a key of this process: what is remembered holds
// no passwords, and without the key nobody can try guesses on it.
type credential [sha256.Size]byte

// passwords verifies passwords. bcrypt is slow on purpose, and clients send Basic
// credentials with every request. Therefore right passwords are remembered for a
// while; the same credentials from one network at the same time are one check, and from
// several networks one comparison; wrong passwords are throttled; and few comparisons
// run at once.
type passwords struct {
	cfg     Config
	users   *atomic.Pointer[Users]
	key     [sha256.Size]byte
	compare func(hash, password []byte) error // bcrypt's; tests count its calls

	throttle *throttle
	turns    *turns
	checks   singleflight.Group // by credential and network: waits and is counted once

	mu          sync.Mutex
	remembered  map[credential]time.Time // until when
	comparisons map[credential]*comparison
}

// comparison is made once for all checks of a credential that there are at one time.
type comparison struct {
	result func() error
	checks int
}

func newPasswords(cfg Config, users *atomic.Pointer[Users]) *passwords {
	p := &passwords{
		cfg:         cfg,
		users:       users,
		compare:     bcrypt.CompareHashAndPassword,
		throttle:    newThrottle(cfg),
		turns:       &turns{free: cfg.Comparisons},
		remembered:  make(map[credential]time.Time),
		comparisons: make(map[credential]*comparison),
	}
	_, _ = rand.Read(p.key[:]) // never fails, by its documentation
	return p
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
	// guess counts even if nobody waits for the answer. Its time is bounded.
	ours := false // false: another request had begun the same check
	done := p.checks.DoChan(string(c[:])+from.String(), func() (any, error) {
		ours = true
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
	case errors.Is(err, errWrongPassword) && !ours:
		if throttled := p.throttle.countFailure(from); throttled != nil {
			return identity{}, throttled
		}
		return identity{}, err
	case err != nil:
		return identity{}, err
	case !p.users.Load().holds(who): // no such user, or removed or changed meanwhile
		return identity{}, wrongPassword()
	}
	p.cfg.OnPassword(user, password)
	return who, nil
}

// check returns nil for the right password. It waits for its turn, and counts a wrong
// one.
func (p *passwords) check(c credential, who identity, password string, from netip.Prefix) error {
	as, err := p.throttle.enter(from)
	if err != nil {
		return err
	}
	defer p.throttle.leave(from)
	compare := p.join(c, who, password)
	defer p.leave(c)
	if err := p.turns.wait(as); err != nil {
		return err
	}
	defer p.turns.done()
	if err := p.throttle.start(from); err != nil {
		return err
	}
	err = compare()
	p.throttle.end(from, errors.Is(err, errWrongPassword))
	if err == nil {
		p.cfg.Networks.note(from)
	}
	return err
}

// join returns the comparison for a check, which leaves it at its end.
func (p *passwords) join(c credential, who identity, password string) (compare func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shared := p.comparisons[c]
	if shared == nil {
		shared = &comparison{result: sync.OnceValue(func() error { return p.compareOnce(c, who, password) })}
		p.comparisons[c] = shared
	}
	shared.checks++
	return shared.result
}

func (p *passwords) leave(c credential) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shared := p.comparisons[c]
	if shared.checks--; shared.checks == 0 {
		delete(p.comparisons, c)
	}
}

// compareOnce compares the password with the hash, and remembers it where it is right.
func (p *passwords) compareOnce(c credential, who identity, password string) error {
	if p.remembers(c) {
		return nil // another request was faster
	}
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

// credential computes what stands for a password in memory. Each part is quoted, so
// that no two lists of parts give the same text.
func (p *passwords) credential(who identity, password string) (c credential) {
	mac := hmac.New(sha256.New, p.key[:])
	_, _ = fmt.Fprintf(mac, "%q %q %q", who.user, password, who.hash) // a hash's Write never fails
	mac.Sum(c[:0])
	return c
}

func (p *passwords) remembers(c credential) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cfg.Now().Before(p.remembered[c])
}

// remember keeps a right password. A full table, most of it out of date, is emptied:
// then each user costs one comparison more.
func (p *passwords) remember(c credential) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.remembered) >= maxRemembered {
		clear(p.remembered)
	}
	p.remembered[c] = p.cfg.Now().Add(p.cfg.RememberFor)
}

package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"attestcsr/csr"
)

// Session is what a session tells about itself.
type Session struct {
	User         string
	Created      time.Time
	LastAccessed time.Time
}

// identity is a user as authenticated: with the stored hash that the password was
// checked against, so that a change of password is noticed wherever the identity
// is kept.
type identity struct {
	user string
	hash string
}

// session is a Session with what decides whether it still holds.
type session struct {
	identity
	dialect           string
	xsrf              digest // of the token
	created, accessed time.Time
}

// digest is the SHA-256 of a session id or token: who reads the memory of the
// process cannot use what is found, and a lookup does not compare ids byte by byte.
type digest [sha256.Size]byte

const secretBytes = 32 // 256 random bits

// newSecret makes a session id or token.
func newSecret() string {
	var random [secretBytes]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	return hex.EncodeToString(random[:])
}

// digestOf returns zero, which is no secret's digest, for what cannot be a secret
// of ours; no work is spent on that.
func digestOf(secret string) digest {
	if len(secret) != hex.EncodedLen(secretBytes) {
		return digest{}
	}
	return sha256.Sum256([]byte(secret))
}

// sessions is the store of sessions. They live in memory and end with the process.
type sessions struct {
	users         *atomic.Pointer[Users]
	now           func() time.Time
	idle          time.Duration
	lifetime      time.Duration
	max, maxOfOne int

	mu      sync.Mutex
	byKey   map[digest]*session
	byUser  map[string]int // how many of each user
	expires time.Time      // none in the store expires before; spares sweeping a full store at every login
}

func newSessions(cfg Config, users *atomic.Pointer[Users]) *sessions {
	return &sessions{
		users:    users,
		now:      cfg.Now,
		idle:     cfg.IdleTimeout,
		lifetime: cfg.Lifetime,
		max:      cfg.Sessions,
		maxOfOne: cfg.SessionsPerUser,
		byKey:    make(map[digest]*session),
		byUser:   make(map[string]int),
	}
}

// sessionID returns the session id that a request offers: that of the header, and
// only where there is none that of the cookie. Several are no usable id: which one
// counts would be for whoever added the others to choose.
func sessionID(at attempt) (id string, inCookie, present bool) {
	var ids []string
	if at.realm.SessionHeader != "" {
		ids = at.request.Header.Values(at.realm.SessionHeader)
	}
	if len(ids) == 0 && at.realm.SessionCookie != "" {
		inCookie = true
		for _, cookie := range at.request.CookiesNamed(at.realm.SessionCookie) {
			ids = append(ids, cookie.Value)
		}
	}
	if len(ids) != 1 {
		return "", inCookie, len(ids) > 0
	}
	return ids[0], inCookie, true
}

func offersSession(at attempt) bool {
	_, _, present := sessionID(at)
	return present
}

// claim is what a request says of the session that it belongs to.
type claim struct {
	key     digest // of the id
	dialect string
	guarded bool   // it has to carry the session's token
	token   digest // of the token that it carries
}

func claimOf(at attempt) claim {
	id, inCookie, _ := sessionID(at)
	c := claim{key: digestOf(id), dialect: at.realm.Dialect}
	if !inCookie || at.realm.XSRFHeader == "" || at.request.Method == http.MethodGet || at.request.Method == http.MethodHead {
		return c
	}
	c.guarded = true
	if tokens := at.request.Header.Values(at.realm.XSRFHeader); len(tokens) == 1 {
		c.token = digestOf(tokens[0])
	}
	return c
}

func noSession() error { return unauthenticated("no session, or one that has ended") }

// authenticate is the verification of the session method.
func (s *sessions) authenticate(_ context.Context, at attempt) (identity, error) {
	found, err := s.use(at)
	return identity{user: found.User}, err
}

// create makes a session. A full store is csr.Unavailable with the time until a
// session may expire.
func (s *sessions) create(who identity, realm Realm) (Login, error) {
	// Every session has a token, told or not: the digest of none must match none.
	made := Login{User: who.user, Session: newSecret(), XSRF: newSecret()}
	key, xsrf := digestOf(made.Session), digestOf(made.XSRF)
	if realm.XSRFHeader == "" {
		made.XSRF = ""
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	// Under the lock that SetUsers ends sessions under: a login that overlaps with
	// the removal of its user is ended by it or refused here.
	if !s.users.Load().holds(who.user, who.hash) {
		return Login{}, wrongPassword()
	}
	if s.full(who.user) {
		s.sweep(now)
	}
	if s.full(who.user) {
		return Login{}, &csr.Error{
			Kind:       csr.Unavailable,
			RetryAfter: atLeastOneSecond(s.expires.Sub(now)),
			Err:        errors.New("too many sessions"),
		}
	}
	created := &session{identity: who, dialect: realm.Dialect, xsrf: xsrf, created: now, accessed: now}
	s.byKey[key] = created
	s.byUser[who.user]++
	if at := s.expiry(created); len(s.byKey) == 1 || at.Before(s.expires) {
		s.expires = at
	}
	return made, nil
}

// use returns the session that the request offers and counts as an access to it.
func (s *sessions) use(at attempt) (Session, error) {
	c := claimOf(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(c)
	if err != nil {
		return Session{}, err
	}
	found.accessed = s.now()
	return found.describe(), nil
}

// owner returns whose session the request offers, without the token that it may
// need and without counting as an access; nothing where there is no such session.
func (s *sessions) owner(at attempt) string {
	c := claimOf(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.byKey[c.key]; ok && found.dialect == c.dialect {
		return found.user
	}
	return ""
}

// end removes the session that the request offers.
func (s *sessions) end(at attempt) (Session, error) {
	c := claimOf(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(c)
	if err != nil {
		return Session{}, err
	}
	s.remove(c.key, found)
	return found.describe(), nil
}

// count is the number of sessions that have not ended.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep(s.now())
	return len(s.byKey)
}

// endStale ends the sessions of users who were removed or have another hash.
func (s *sessions) endStale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := s.users.Load()
	for key, one := range s.byKey {
		if !users.holds(one.user, one.hash) {
			s.remove(key, one)
		}
	}
}

// find returns the session that is claimed, if it still holds in that dialect. A
// claim without the token that it needs is csr.Forged and no access to the session.
func (s *sessions) find(c claim) (*session, error) {
	found, ok := s.byKey[c.key]
	switch {
	case !ok || found.dialect != c.dialect:
		return nil, noSession()
	case !s.now().Before(s.expiry(found)) || !s.users.Load().holds(found.user, found.hash):
		s.remove(c.key, found)
		return nil, noSession()
	case c.guarded && subtle.ConstantTimeCompare(c.token[:], found.xsrf[:]) != 1:
		return nil, &csr.Error{Kind: csr.Forged, Err: errors.New("a session cookie without its XSRF token")}
	}
	return found, nil
}

func (one *session) describe() Session {
	return Session{User: one.user, Created: one.created, LastAccessed: one.accessed}
}

// expiry is when a session ends if it is not used before.
func (s *sessions) expiry(one *session) time.Time {
	idle, last := one.accessed.Add(s.idle), one.created.Add(s.lifetime)
	if idle.Before(last) {
		return idle
	}
	return last
}

// sweep removes the sessions that have expired.
func (s *sessions) sweep(now time.Time) {
	if now.Before(s.expires) {
		return
	}
	s.expires = now.Add(s.idle)
	for key, one := range s.byKey {
		at := s.expiry(one)
		switch {
		case !now.Before(at):
			s.remove(key, one)
		case at.Before(s.expires):
			s.expires = at
		}
	}
}

func (s *sessions) full(user string) bool {
	return len(s.byKey) >= s.max || s.byUser[user] >= s.maxOfOne
}

func (s *sessions) remove(key digest, one *session) {
	delete(s.byKey, key)
	if s.byUser[one.user]--; s.byUser[one.user] == 0 {
		delete(s.byUser, one.user)
	}
}

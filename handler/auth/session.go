package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	created, accessed time.Time
}

// sessionKey is the SHA-256 of a session id: who reads the memory of the process
// cannot use what is found, and a lookup does not compare ids byte by byte.
type sessionKey [sha256.Size]byte

const sessionIDBytes = 32 // 256 random bits

// sessions is the store of sessions. They live in memory and end with the process.
type sessions struct {
	users         *atomic.Pointer[Users]
	now           func() time.Time
	idle          time.Duration
	lifetime      time.Duration
	max, maxOfOne int

	mu      sync.Mutex
	byKey   map[sessionKey]*session
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
		byKey:    make(map[sessionKey]*session),
		byUser:   make(map[string]int),
	}
}

// sessionID returns the session id that a request offers: that of the header, and
// only where there is none that of the cookie. Several are no usable id: which one
// counts would be for whoever added the others to choose.
func sessionID(at attempt) (id string, present bool) {
	var ids []string
	if at.realm.SessionHeader != "" {
		ids = at.request.Header.Values(at.realm.SessionHeader)
	}
	if len(ids) == 0 && at.realm.SessionCookie != "" {
		for _, cookie := range at.request.CookiesNamed(at.realm.SessionCookie) {
			ids = append(ids, cookie.Value)
		}
	}
	if len(ids) != 1 {
		return "", len(ids) > 0
	}
	return ids[0], true
}

func offersSession(at attempt) bool {
	_, present := sessionID(at)
	return present
}

// authenticate is the verification of the session method.
func (s *sessions) authenticate(_ context.Context, at attempt) (identity, error) {
	id, _ := sessionID(at)
	found, ok := s.use(id, at.realm.Dialect)
	if !ok {
		return identity{}, unauthenticated("no session, or one that has ended")
	}
	return identity{user: found.User}, nil
}

// create makes a session and returns its id, which is kept nowhere. A full store
// is csr.Unavailable with the time until a session may expire.
func (s *sessions) create(who identity, dialect string) (id string, err error) {
	var random [sessionIDBytes]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	id = hex.EncodeToString(random[:])

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	// Under the lock that SetUsers ends sessions under: a login that overlaps with
	// the removal of its user is ended by it or refused here.
	if !s.users.Load().holds(who.user, who.hash) {
		return "", wrongPassword()
	}
	if s.full(who.user) {
		s.sweep(now)
	}
	if s.full(who.user) {
		return "", &csr.Error{
			Kind:       csr.Unavailable,
			RetryAfter: atLeastOneSecond(s.expires.Sub(now)),
			Err:        errors.New("too many sessions"),
		}
	}
	created := &session{identity: who, dialect: dialect, created: now, accessed: now}
	s.byKey[sessionKey(sha256.Sum256([]byte(id)))] = created
	s.byUser[who.user]++
	if at := s.expiry(created); len(s.byKey) == 1 || at.Before(s.expires) {
		s.expires = at
	}
	return id, nil
}

// use returns the session with that id and counts as an access to it.
func (s *sessions) use(id, dialect string) (Session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found, ok := s.find(id, dialect)
	if !ok {
		return Session{}, false
	}
	found.accessed = s.now()
	return Session{User: found.user, Created: found.created, LastAccessed: found.accessed}, true
}

// end removes the session with that id.
func (s *sessions) end(id, dialect string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, found, ok := s.find(id, dialect)
	if ok {
		s.remove(key, found)
	}
	return ok
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

// find returns the session that an id of a dialect still stands for.
func (s *sessions) find(id, dialect string) (sessionKey, *session, bool) {
	if len(id) != hex.EncodedLen(sessionIDBytes) {
		return sessionKey{}, nil, false
	}
	key := sessionKey(sha256.Sum256([]byte(id)))
	found, ok := s.byKey[key]
	if !ok || found.dialect != dialect {
		return key, nil, false
	}
	if !s.now().Before(s.expiry(found)) || !s.users.Load().holds(found.user, found.hash) {
		s.remove(key, found)
		return key, nil, false
	}
	return key, found, true
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

func (s *sessions) remove(key sessionKey, one *session) {
	delete(s.byKey, key)
	if s.byUser[one.user]--; s.byUser[one.user] == 0 {
		delete(s.byUser, one.user)
	}
}

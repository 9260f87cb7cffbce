package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"attestcsr/csr"
)

// Session is what others may know of a session.
type Session struct {
	User         string
	Created      time.Time
	LastAccessed time.Time
	Expires      time.Time // unless it is used before
	Privileges   []csr.Privilege
}

// identity is a user and the stored hash that the password was compared with: where
// the hash is another one now, the password was changed. Whoever the kernel has named has
// no hash, and is granted privileges in place of it.
type identity struct {
	user, hash string
	granted    []csr.Privilege // nil: those of the user at present
}

// holds reports whether an identity is still one.
func (u *Users) holds(who identity) bool {
	stored, known := u.hashes[who.user]
	return who.granted != nil || known && stored == who.hash
}

// session is a Session with what decides who may use it.
type session struct {
	Session
	who      identity
	dialect  string
	xsrf     digest        // of the token
	lifetime time.Duration // at most
}

// digest is the SHA-256 of a session id or token: a copy of the process's memory holds
// no usable id, and the time of a lookup says nothing of other ids.
type digest [sha256.Size]byte

const secretBytes = 32 // 256 random bits

// newSecret makes a session id or token.
func newSecret() string {
	var random [secretBytes]byte
	_, _ = rand.Read(random[:]) // never fails, by its documentation
	return hex.EncodeToString(random[:])
}

// digestOf returns zero for text that cannot be a secret of ours. No secret has the
// digest zero.
func digestOf(secret string) digest {
	if len(secret) != hex.EncodedLen(secretBytes) {
		return digest{}
	}
	return sha256.Sum256([]byte(secret))
}

// sessions is the store of sessions. They live in memory and end with the process.
type sessions struct {
	cfg   Config
	users *atomic.Pointer[Users]

	mu     sync.Mutex
	byKey  map[digest]*session
	byUser map[string]int // how many of each user
}

func newSessions(cfg Config, users *atomic.Pointer[Users]) *sessions {
	return &sessions{cfg: cfg, users: users, byKey: make(map[digest]*session), byUser: make(map[string]int)}
}

// claim is what a request says of the session that it belongs to.
type claim struct {
	key        digest // of the id
	dialect    string
	needsToken bool   // the request has to carry the session's token
	token      digest // of the token that it carries
}

// SessionID returns the id that a request carries of its session.
func SessionID(r *http.Request, realm Realm) string {
	if ids, _ := sessionIDs(r, realm); len(ids) == 1 {
		return ids[0]
	}
	return ""
}

// sessionIDs returns the ids in the first of these places that has any: the session
// header, the Authorization header of a realm with Bearer, and the cookie.
func sessionIDs(r *http.Request, realm Realm) (ids []string, inCookie bool) {
	if realm.SessionHeader != "" {
		ids = r.Header.Values(realm.SessionHeader)
	}
	if lines := r.Header["Authorization"]; len(ids) == 0 && realm.Bearer && len(lines) == 1 {
		if scheme, id, _ := strings.Cut(lines[0], " "); strings.EqualFold(scheme, "Bearer") {
			ids = []string{id}
		}
	}
	if len(ids) == 0 && realm.SessionCookie != "" {
		inCookie = true
		for _, cookie := range r.CookiesNamed(realm.SessionCookie) {
			ids = append(ids, cookie.Value)
		}
	}
	return ids, inCookie
}

// claimOf returns the session that a request names. It uses none of several ids: otherwise whoever added
// one could choose which counts.
func claimOf(r *http.Request, realm Realm) (c claim, present bool) {
	ids, inCookie := sessionIDs(r, realm)
	c.dialect = realm.Dialect
	if len(ids) == 1 {
		c.key = digestOf(ids[0])
	}
	if inCookie && realm.XSRFHeader != "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		c.needsToken = true
		if tokens := r.Header.Values(realm.XSRFHeader); len(tokens) == 1 {
			c.token = digestOf(tokens[0])
		}
	}
	return c, len(ids) > 0
}

func noSession() error { return unauthenticated("no session, or one that has ended") }

// create makes a session. A full store is csr.Unavailable with the time until a
// session may expire.
func (s *sessions) create(who identity, realm Realm, lifetime time.Duration) (Login, error) {
	// Each session has a token, also where the login does not return it: the zero
	// digest of a missing token must match no session.
	made := Login{User: who.user, Session: newSecret(), XSRF: newSecret()}
	key, xsrf := digestOf(made.Session), digestOf(made.XSRF)
	if realm.XSRFHeader == "" {
		made.XSRF = ""
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	// SetUsers ends sessions under the same lock. A login that overlaps with the
	// removal of its user is ended there or refused here.
	if !s.users.Load().holds(who) {
		return Login{}, wrongPassword()
	}
	if s.full(who.user) {
		if next := s.removeExpired(now); s.full(who.user) {
			return Login{}, &csr.Error{Kind: csr.Unavailable, RetryAfter: max(next.Sub(now), time.Second), Err: errors.New("too many sessions")}
		}
	}
	one := &session{
		Session: Session{User: who.user, Created: now, LastAccessed: now},
		who:     who, dialect: realm.Dialect, xsrf: xsrf, lifetime: lifetime,
	}
	made.Expires = s.expiry(one)
	s.byKey[key] = one
	s.byUser[who.user]++
	return made, nil
}

// use returns the session of a request, and counts as an access to it.
func (s *sessions) use(c claim) (Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(c)
	if err != nil {
		return Session{}, err
	}
	found.LastAccessed = s.cfg.Now()
	found.Expires, found.Privileges = s.expiry(found), s.cfg.privilegesOf(found.who)
	return found.Session, nil
}

// owner returns whose session a request names; nothing where there is none. It asks
// for no token, and is no access to the session.
func (s *sessions) owner(c claim) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.byKey[c.key]; ok && found.dialect == c.dialect {
		return found.User
	}
	return ""
}

// end removes the session of a request.
func (s *sessions) end(c claim) (Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(c)
	if err != nil {
		return Session{}, err
	}
	s.remove(c.key, found)
	return found.Session, nil
}

// count is the number of sessions that have not ended.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeExpired(s.cfg.Now())
	return len(s.byKey)
}

// endStale ends the sessions of users who were removed or have another hash.
func (s *sessions) endStale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := s.users.Load()
	for key, one := range s.byKey {
		if !users.holds(one.who) {
			s.remove(key, one)
		}
	}
}

// find returns the session that a request names, if it has not ended. A request
// without the token that it needs is csr.Forged and no access to the session.
func (s *sessions) find(c claim) (*session, error) {
	found, ok := s.byKey[c.key]
	switch {
	case !ok || found.dialect != c.dialect:
		return nil, noSession()
	case !s.cfg.Now().Before(s.expiry(found)) || !s.users.Load().holds(found.who):
		s.remove(c.key, found)
		return nil, noSession()
	case c.needsToken && subtle.ConstantTimeCompare(c.token[:], found.xsrf[:]) != 1:
		return nil, &csr.Error{Kind: csr.Forged, Err: errors.New("a session cookie without its XSRF token")}
	}
	return found, nil
}

// expiry is when a session ends if it is not used before.
func (s *sessions) expiry(one *session) time.Time {
	idle, last := one.LastAccessed.Add(s.cfg.IdleTimeout), one.Created.Add(one.lifetime)
	if idle.Before(last) {
		return idle
	}
	return last
}

// removeExpired returns when the next session may expire.
func (s *sessions) removeExpired(now time.Time) (next time.Time) {
	next = now.Add(s.cfg.IdleTimeout)
	for key, one := range s.byKey {
		at := s.expiry(one)
		switch {
		case !now.Before(at):
			s.remove(key, one)
		case at.Before(next):
			next = at
		}
	}
	return next
}

func (s *sessions) full(user string) bool {
	return len(s.byKey) >= s.cfg.Sessions || s.byUser[user] >= s.cfg.SessionsPerUser
}

func (s *sessions) remove(key digest, one *session) {
	delete(s.byKey, key)
	if s.byUser[one.User]--; s.byUser[one.User] == 0 {
		delete(s.byUser, one.User)
	}
}

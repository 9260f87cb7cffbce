// Package auth turns the credentials of a request into a csr.Caller.
//
// A request has credentials of one kind. Authenticate looks for the kinds in a fixed
// order. The first that is present decides alone, even if it is wrong and another one
// is right. A Realm has the names of headers and cookies. Failures are *csr.Error. The
// package writes no response.
package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/origin"
)

// Config is what an Authenticator is made of. All of it has to be given. The functions
// are called concurrently.
type Config struct {
	Users      *Users
	Privileges func(user string) []csr.Privilege // asked at each request
	OnPassword func(user, password string)       // called for each request whose password was compared and is right, before its answer
	Refused    func(audit.Refusal)               // called for each request that is refused, before its answer
	LoggedIn   func(audit.Request)               // called for each login that begins a session, before its answer
	LoggedOut  func(audit.Request)               // called for each logout that ends a session, before its answer
	Networks   *Networks                         // whose password checks go first
	Now        func() time.Time

	IdleTimeout     time.Duration // of sessions
	Lifetime        time.Duration // of sessions
	Sessions        int           // in all
	SessionsPerUser int

	RememberFor time.Duration // how long a right password is not compared again
	Failures    int           // wrong passwords from one network at once, and then in a minute
	Comparisons int           // bcrypt comparisons at once
}

// privilegesOf returns what the identity may do at present.
func (c Config) privilegesOf(who identity) []csr.Privilege {
	if who.granted != nil {
		return who.granted
	}
	return c.Privileges(who.user)
}

// Realm says how sessions come in one dialect. A session of one Dialect is unknown in
// the others. An empty name of a header or cookie means that sessions do not come
// that way.
//
// XSRFHeader, where it is named, guards the cookie, which browsers also send with
// requests that another site makes them send: a method other than GET and HEAD needs,
// in this header, the token that the login returned beside the id.
//
// In a realm with Bearer, Authorization carries session ids in place of passwords, and
// SessionHeader takes precedence over it.
type Realm struct {
	Dialect       string
	SessionHeader string
	SessionCookie string
	XSRFHeader    string
	Bearer        bool
}

// ConsoleHeader is what the service's own pages send with each request, with the value 1.
// A page of another site cannot add it.
const ConsoleHeader = "X-Attestcsr-Console"

// ConsoleCookie has the session of such a page. It counts in no other request.
const ConsoleCookie = "__Host-attestcsr-console"

// consoleDialect is that of the sessions in ConsoleCookie.
const consoleDialect = "console"

// Console is the realm in which these sessions begin and end.
func Console() Realm { return Realm{Dialect: consoleDialect} }

// FromConsole reports whether a page of the service sent the request, as it says itself.
func FromConsole(r *http.Request) bool {
	values := r.Header.Values(ConsoleHeader)
	return len(values) == 1 && values[0] == "1"
}

// of is the realm as it is for one request. No cookie of the dialect counts in a request of
// the service's own pages: the browser may have some of earlier logins. ConsoleCookie
// counts there instead, unless the request names credentials in a header.
func (realm Realm) of(r *http.Request) Realm {
	if !FromConsole(r) {
		return realm
	}
	realm.SessionCookie = ""
	for _, name := range []string{"Authorization", "Vmware-Api-Session-Id", "X-Vault-Token"} {
		if len(r.Header[name]) > 0 {
			return realm
		}
	}
	return Realm{Dialect: consoleDialect, SessionCookie: ConsoleCookie}
}

// Authenticator is safe for concurrent use. It runs nothing in the background, apart
// from password checks whose client has gone.
type Authenticator struct {
	cfg       Config
	users     atomic.Pointer[Users]
	passwords *passwords
	sessions  *sessions
	metrics   metrics
}

// Methods of authentication, as Caller.Method and the metrics name them.
const (
	byPassword = "basic"
	byForm     = "form" // a user name and a password, only ever at a login
	bySession  = "session"
	byOther    = "other" // an Authorization header that is not supported
	byNothing  = "none"
)

// attempt is the credentials of one request.
type attempt struct {
	method string
	from   audit.Request
	realm  Realm

	user, password string // of byPassword and byForm
	unusable       error  // why these are empty
	claim          claim  // of bySession
}

// newAttempt finds the credentials of a request. The order is the precedence:
// Authorization decides before sessions do, but in a realm with Bearer.
func newAttempt(r *http.Request, from audit.Request, realm Realm) attempt {
	realm = realm.of(r)
	at := attempt{method: byNothing, from: from, realm: realm}
	authorization := r.Header["Authorization"]
	if claim, present := claimOf(r, realm); present && (realm.Bearer || len(authorization) == 0) {
		at.method, at.claim = bySession, claim
		return at
	}
	switch {
	case len(authorization) == 1 && isBasic(authorization[0]) && !realm.Bearer:
		at.method = byPassword
		at.user, at.password, at.unusable = parseBasic(authorization[0])
	case len(authorization) > 0:
		at.method = byOther
	}
	return at
}

// by is the request with its user, who may be unknown, and the method.
func (at attempt) by(user string) audit.Request {
	at.from.User, at.from.Method = user, at.method
	return at.from
}

// in is by with the session that the request belongs to; the zero digest is none. A
// refusal names no session: strangers can make up any number of them.
func (at attempt) in(session digest, user string) audit.Request {
	by := at.by(user)
	if session != (digest{}) {
		by.Session = hex.EncodeToString(session[:8])
	}
	return by
}

// New makes an Authenticator.
func New(cfg Config) *Authenticator {
	users := cfg.Users
	cfg.Users = nil // SetUsers replaces them: a.users has the present ones
	a := &Authenticator{cfg: cfg}
	a.passwords = newPasswords(cfg, &a.users)
	a.sessions = newSessions(cfg, &a.users)
	a.metrics = newMetrics(a.sessions)
	a.SetUsers(users)
	return a
}

// SetUsers replaces the users. Sessions and remembered passwords of users who were
// removed or have another hash end before it returns. It reports whether the users
// are others than before.
func (a *Authenticator) SetUsers(users *Users) (changed bool) {
	before := a.users.Swap(users)
	// Remembered passwords need not be looked at: their keys are made with the hash.
	a.sessions.endStale()
	return before == nil || !maps.Equal(before.hashes, users.hashes)
}

// Authenticate returns who sends the request. from is what is known of it before:
// wrong passwords are counted for its network.
//
// Errors are *csr.Error: Unauthenticated where credentials are missing or wrong,
// without saying which part of them is; Forged where a session cookie comes without
// the token that it needs; Busy, with RetryAfter, where too many passwords wait to
// be checked or too many from this network were wrong; and Unavailable where ctx
// ends first.
func (a *Authenticator) Authenticate(ctx context.Context, r *http.Request, from audit.Request, realm Realm) (csr.Caller, error) {
	at := newAttempt(r, from, realm)
	who, err := a.verify(ctx, at)
	a.record(at, err)
	if err != nil {
		return csr.Caller{}, err
	}
	return csr.Caller{Request: at.in(at.claim.key, who.user), Privileges: a.cfg.privilegesOf(who)}, nil
}

// verify returns whose credentials they are.
func (a *Authenticator) verify(ctx context.Context, at attempt) (identity, error) {
	switch at.method {
	case byPassword, byForm:
		if at.unusable != nil {
			return identity{}, &csr.Error{Kind: csr.Unauthenticated, Err: at.unusable}
		}
		return a.passwords.verify(ctx, at.user, at.password, origin.NetworkOf(at.from.Address))
	case bySession:
		session, err := a.sessions.use(at.claim)
		return identity{user: session.User, granted: session.Privileges}, err
	case byOther:
		return identity{}, unauthenticated("the Authorization header is not one that is supported")
	}
	return identity{}, unauthenticated("no credentials")
}

// Login is what a login returns. The service keeps neither secret.
type Login struct {
	User    string
	Session string // the id: 64 hexadecimal digits, new at every login
	XSRF    string // the token for Realm.XSRFHeader, likewise; empty in a realm without
	Expires time.Time
}

// Login begins a session of the realm's dialect for the user whose password the
// Authorization header carries. A session does not begin another: its lifetime is a
// bound. Errors are those of Authenticate, and Unavailable, with RetryAfter, where
// there are too many sessions.
func (a *Authenticator) Login(ctx context.Context, r *http.Request, from audit.Request, realm Realm) (Login, error) {
	at := newAttempt(r, from, realm)
	if at.method != byPassword {
		err := unauthenticated("a login needs a password")
		a.record(at, err)
		return Login{}, err
	}
	return a.login(ctx, at)
}

// LoginPassword is Login for a user name and a password from the fields of a form.
// The bounds of Basic credentials hold for them too.
func (a *Authenticator) LoginPassword(ctx context.Context, user, password string, from audit.Request, realm Realm) (Login, error) {
	at := attempt{method: byForm, from: from, realm: realm, unusable: usable(user, password)}
	if at.unusable == nil {
		at.user, at.password = user, password
	}
	return a.login(ctx, at)
}

func (a *Authenticator) login(ctx context.Context, at attempt) (Login, error) {
	who, err := a.verify(ctx, at)
	a.record(at, err)
	if err != nil {
		return Login{}, err
	}
	made, err := a.sessions.create(who, at.realm, a.cfg.Lifetime)
	if err != nil {
		a.reportRefusal(at, err) // where the user was removed meanwhile
		return Login{}, err
	}
	a.cfg.LoggedIn(at.in(digestOf(made.Session), made.User))
	return made, nil
}

// Open begins a session without a password, for a caller whom the kernel has named. It has
// every privilege, and ends after the lifetime. The privileges are those of this session, not
// of the name: a login with a password gets none of them.
func (a *Authenticator) Open(from audit.Request, realm Realm, lifetime time.Duration) (Login, error) {
	made, err := a.sessions.create(identity{user: from.User, granted: csr.Privileges()}, realm, lifetime)
	if err == nil {
		a.cfg.LoggedIn(attempt{method: from.Method, from: from}.in(digestOf(made.Session), made.User))
	}
	return made, err
}

// Session describes the session that authenticates the request, and counts as an
// access to it. Where none does, because there is none or because an Authorization
// header takes precedence, the error is a *csr.Error of kind Unauthenticated; it
// is Forged as Authenticate says.
func (a *Authenticator) Session(r *http.Request, from audit.Request, realm Realm) (Session, error) {
	return a.withSession(newAttempt(r, from, realm), a.sessions.use)
}

// Logout ends the session that authenticates the request, and describes it. Errors
// are those of Session.
func (a *Authenticator) Logout(r *http.Request, from audit.Request, realm Realm) (Session, error) {
	at := newAttempt(r, from, realm)
	ended, err := a.withSession(at, a.sessions.end)
	if err == nil {
		a.cfg.LoggedOut(at.in(at.claim.key, ended.User))
	}
	return ended, err
}

func (a *Authenticator) withSession(at attempt, do func(claim) (Session, error)) (Session, error) {
	session, err := Session{}, noSession()
	if at.method == bySession {
		session, err = do(at.claim)
	}
	a.record(at, err)
	return session, err
}

// Privileges are those of a user at present.
func (a *Authenticator) Privileges(user string) []csr.Privilege { return a.cfg.Privileges(user) }

// Collectors returns the metrics of authentication, for the caller to register.
func (a *Authenticator) Collectors() []prometheus.Collector {
	return []prometheus.Collector{a.metrics.attempts, a.metrics.sessions}
}

// unauthenticated is the error of bad credentials. The reason is for the log and,
// like the answer, does not say which part of the credentials was wrong.
func unauthenticated(reason string) error {
	return &csr.Error{Kind: csr.Unauthenticated, Err: errors.New(reason)}
}

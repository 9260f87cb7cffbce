// Package auth turns the credentials of a request into a csr.Caller.
//
// A request offers credentials in one way only: the methods are asked in a fixed
// order, and the first whose credentials are present decides alone, even where
// they are bad and others are beside them. Names of headers and cookies come in
// as a Realm; failures leave as *csr.Error, and nothing is written to a response.
package auth

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/csr/audit"
)

// Config is what an Authenticator is made of. Zero values stand for the defaults.
type Config struct {
	Users      *Users                            // nil: nobody can authenticate until SetUsers
	Privileges func(user string) []csr.Privilege // asked at each request, concurrently; nil: nobody has any
	OnPassword func(user string)                 // called for each request whose password bcrypt found right, before its answer; concurrently; may be nil
	Refused    func(audit.Refusal)               // told of each request that is refused, before its answer; concurrently; may be nil
	Now        func() time.Time                  // time.Now

	IdleTimeout     time.Duration // of sessions; 30 minutes
	Lifetime        time.Duration // of sessions; 24 hours
	Sessions        int           // in all; 10,000
	SessionsPerUser int           // 1,000

	RememberFor time.Duration // how long a verified password is not checked again; 5 minutes
	Remembered  int           // how many are remembered; 10,000

	UserFailures    int // wrong passwords a minute for one user from one address; 20
	AddressFailures int // wrong passwords a minute from one address; 20
	Comparisons     int // bcrypt comparisons at once; half of GOMAXPROCS, at least 1
}

// withDefaults returns the configuration with nothing left zero but functions
// that may be nil.
func (c Config) withDefaults() Config {
	if c.Users == nil {
		c.Users = nobody()
	}
	if c.Privileges == nil {
		c.Privileges = func(string) []csr.Privilege { return nil }
	}
	if c.OnPassword == nil {
		c.OnPassword = func(string) {}
	}
	if c.Refused == nil {
		c.Refused = func(audit.Refusal) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	orDefault(&c.IdleTimeout, 30*time.Minute)
	orDefault(&c.Lifetime, 24*time.Hour)
	orDefault(&c.Sessions, 10_000)
	orDefault(&c.SessionsPerUser, 1_000)
	orDefault(&c.RememberFor, 5*time.Minute)
	orDefault(&c.Remembered, 10_000)
	orDefault(&c.UserFailures, 20)
	orDefault(&c.AddressFailures, 20)
	orDefault(&c.Comparisons, max(1, runtime.GOMAXPROCS(0)/2))
	return c
}

func orDefault[T int | time.Duration](value *T, otherwise T) {
	if *value == 0 {
		*value = otherwise
	}
}

// Realm says what authenticates in one dialect. Dialect keeps sessions apart:
// those of one are unknown to the others. An empty name of a header or cookie
// means that sessions do not come that way.
//
// XSRFHeader, where it is named, guards the cookie: browsers send that along with
// whatever another site makes them send, so that a method other than GET and HEAD
// also needs, in this header, the token that the login handed out beside the id.
type Realm struct {
	Dialect       string
	SessionHeader string
	SessionCookie string
	XSRFHeader    string
}

// Authenticator is safe for concurrent use. It runs nothing in the background,
// apart from password checks whose client has gone.
type Authenticator struct {
	users      atomic.Pointer[Users]
	privileges func(string) []csr.Privilege
	passwords  *passwords
	sessions   *sessions
	chain      []method
	metrics    metrics
	refused    func(audit.Refusal)
}

// method is one way to authenticate.
type method struct {
	name string // Caller.Method and metric label
	// login tells whether it can begin a session; a session cannot, so that its
	// lifetime is a bound.
	login bool
	// offered reports whether the request carries this kind of credentials.
	offered func(attempt) bool
	// verify returns who it is. Its error is a *csr.Error.
	verify func(context.Context, attempt) (identity, error)
}

// Names of methods.
const (
	byPassword = "basic"
	byForm     = "form" // a user name and a password, only ever at a login
	bySession  = "session"
	byOther    = "other" // an Authorization header that no method knows
	byNothing  = "none"
)

// attempt is one request as the methods see it.
type attempt struct {
	request *http.Request
	address string
	realm   Realm
}

// New makes an Authenticator.
func New(cfg Config) *Authenticator {
	cfg = cfg.withDefaults()
	a := &Authenticator{privileges: cfg.Privileges, refused: cfg.Refused}
	a.users.Store(cfg.Users)
	a.passwords = newPasswords(cfg, &a.users)
	a.sessions = newSessions(cfg, &a.users)
	// The order is the precedence: Authorization decides before sessions do, and
	// in it the scheme decides. A bearer method would stand beside basic, client
	// certificates after session.
	a.chain = []method{
		{name: byPassword, login: true, offered: offersBasic, verify: a.passwords.authenticate},
		{name: byOther, offered: offersAuthorization, verify: refuse("the Authorization header is not one that is supported")},
		{name: bySession, offered: offersSession, verify: a.sessions.authenticate},
	}
	a.metrics = newMetrics(a.sessions)
	return a
}

// SetUsers replaces the users; nil leaves nobody. Sessions and remembered
// passwords of users who are gone or have another hash end before it returns.
func (a *Authenticator) SetUsers(users *Users) {
	if users == nil {
		users = nobody()
	}
	a.users.Store(users)
	// Remembered passwords need no sweep: their keys are made with the hash.
	a.sessions.endStale()
}

// Authenticate returns who sends the request. address is the client's, without
// port; failed passwords are counted under it.
//
// Errors are *csr.Error: Unauthenticated where credentials are missing or wrong,
// without saying which part of them is; Forged where a session cookie comes without
// the token that it needs; Busy, with RetryAfter, where too many passwords wait to
// be checked or too many from this address were wrong; and Unavailable where ctx
// ends first.
func (a *Authenticator) Authenticate(ctx context.Context, r *http.Request, address string, realm Realm) (csr.Caller, error) {
	who, by, err := a.identify(ctx, attempt{r, address, realm})
	if err != nil {
		return csr.Caller{}, err
	}
	return csr.Caller{User: who.user, Method: by.name, Address: address, Privileges: a.privileges(who.user)}, nil
}

// Login is what a login hands out. The service keeps neither secret.
type Login struct {
	User    string
	Session string // the id: 64 hexadecimal digits, new at every login
	XSRF    string // the token for Realm.XSRFHeader, made likewise; empty in a realm without
}

// Login begins a session of the realm's dialect for the user whose password the
// Authorization header carries. A session does not begin another. Errors are those
// of Authenticate, and Unavailable, with RetryAfter, where there are too many
// sessions.
func (a *Authenticator) Login(ctx context.Context, r *http.Request, address string, realm Realm) (Login, error) {
	at := attempt{r, address, realm}
	if by := a.offered(at); !by.login {
		err := unauthenticated("a login needs a password")
		a.count(ctx, by.name, at, "", err)
		return Login{}, err
	}
	who, by, err := a.identify(ctx, at)
	if err != nil {
		return Login{}, err
	}
	return a.begin(ctx, by.name, at, who, realm)
}

// LoginPassword is Login for a user name and a password that came by themselves,
// as the fields of a form. The bounds of Basic credentials hold for them too.
func (a *Authenticator) LoginPassword(ctx context.Context, user, password, address string, realm Realm) (Login, error) {
	who, err := identity{}, unauthenticated("the user name or the password cannot be one")
	if usable(user, password) {
		who, err = a.passwords.verify(ctx, user, password, NetworkOf(address))
	}
	at := attempt{address: address}
	a.count(ctx, byForm, at, user, err)
	if err != nil {
		return Login{}, err
	}
	return a.begin(ctx, byForm, at, who, realm)
}

// Session describes the session that authenticates the request, and counts as an
// access to it. Where none does, because there is none or because an Authorization
// header takes precedence, the error is a *csr.Error of kind Unauthenticated; it
// is Forged as Authenticate says.
func (a *Authenticator) Session(r *http.Request, realm Realm) (Session, error) {
	return a.withSession(r, realm, a.sessions.use)
}

// Logout ends the session that authenticates the request, and describes it. Errors
// are those of Session.
func (a *Authenticator) Logout(r *http.Request, realm Realm) (Session, error) {
	return a.withSession(r, realm, a.sessions.end)
}

// Collectors returns the metrics of authentication, for the caller to register.
func (a *Authenticator) Collectors() []prometheus.Collector {
	return []prometheus.Collector{a.metrics.attempts, a.metrics.sessions}
}

// offered returns the method that decides about the request.
func (a *Authenticator) offered(at attempt) method {
	for _, m := range a.chain {
		if m.offered(at) {
			return m
		}
	}
	return method{name: byNothing, verify: refuse("no credentials")}
}

// identify authenticates by the method that decides, and counts the attempt.
func (a *Authenticator) identify(ctx context.Context, at attempt) (identity, method, error) {
	by := a.offered(at)
	who, err := by.verify(ctx, at)
	a.count(ctx, by.name, at, "", err)
	return who, by, err
}

// withSession does something with a request that a session decides about.
func (a *Authenticator) withSession(r *http.Request, realm Realm, do func(attempt) (Session, error)) (Session, error) {
	at := attempt{request: r, realm: realm}
	by := a.offered(at)
	session, err := Session{}, noSession()
	if by.name == bySession {
		session, err = do(at)
	}
	a.count(r.Context(), by.name, at, "", err)
	return session, err
}

func offersAuthorization(at attempt) bool { return len(at.request.Header["Authorization"]) > 0 }

// refuse is the verification of what cannot be verified.
func refuse(reason string) func(context.Context, attempt) (identity, error) {
	return func(context.Context, attempt) (identity, error) { return identity{}, unauthenticated(reason) }
}

// unauthenticated is the error of bad credentials. The reason is for the log and,
// like the answer, does not say which part of the credentials was wrong.
func unauthenticated(reason string) error {
	return &csr.Error{Kind: csr.Unauthenticated, Err: errors.New(reason)}
}

// atLeastOneSecond makes d fit for Retry-After, which has no fractions.
func atLeastOneSecond(d time.Duration) time.Duration { return max(d, time.Second) }

package handler

import (
	"fmt"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/handler/console"
	"attestcsr/handler/transit"
)

// sessions gives a dialect the sessions of its realm, without letting it see
// how callers authenticate.
type sessions struct {
	auth  *auth.Authenticator
	realm auth.Realm
}

// OpenSession begins a session without a password in the realm of a dialect, for a caller
// whom the kernel has named.
func (h *Handler) OpenSession(from audit.Request, dialect string, lifetime time.Duration) (auth.Login, error) {
	for _, realm := range []auth.Realm{esx().Realm, nsx().Realm, vault().Realm} {
		if realm.Dialect == dialect {
			return h.cfg.Auth.Open(from, realm, lifetime)
		}
	}
	return auth.Login{}, fmt.Errorf("there is no dialect %q", dialect)
}

func (s sessions) Login(c echo.Context) (string, error) {
	r, ev := c.Request(), eventOf(c)
	login, err := s.auth.Login(r.Context(), r, ev.Request, s.realm)
	ev.User = login.User
	return login.Session, err
}

func (s sessions) LoginPassword(c echo.Context, user, password string) (id, token string, err error) {
	ev := eventOf(c)
	login, err := s.auth.LoginPassword(c.Request().Context(), user, password, ev.Request, s.realm)
	ev.User = login.User
	return login.Session, login.XSRF, err
}

func (s sessions) LoginToken(c echo.Context, user, password string) (transit.Token, error) {
	ev := eventOf(c)
	login, err := s.auth.LoginPassword(c.Request().Context(), user, password, ev.Request, s.realm)
	ev.User = login.User
	return transit.Token{ID: login.Session, User: login.User, Privileges: s.auth.Privileges(login.User), Expires: login.Expires}, err
}

func (s sessions) LoginConsole(c echo.Context, user, password string) (id string, who console.User, err error) {
	ev := eventOf(c)
	login, err := s.auth.LoginPassword(c.Request().Context(), user, password, ev.Request, s.realm)
	ev.User = login.User
	return login.Session, console.User{Name: login.User, Privileges: s.auth.Privileges(login.User)}, err
}

func (s sessions) User(c echo.Context) (console.User, error) {
	user, _, _, err := s.Session(c)
	return console.User{Name: user, Privileges: s.auth.Privileges(user)}, err
}

func (s sessions) Token(c echo.Context) (transit.Token, error) {
	r, ev := c.Request(), eventOf(c)
	session, err := s.auth.Session(r, ev.Request, s.realm)
	ev.User = session.User
	return transit.Token{
		ID: auth.SessionID(r, s.realm), User: session.User, Privileges: session.Privileges,
		Created: session.Created, Expires: session.Expires,
	}, err
}

func (s sessions) Caller(c echo.Context) (csr.Caller, error) {
	r, ev := c.Request(), eventOf(c)
	caller, err := s.auth.Authenticate(r.Context(), r, ev.Request, s.realm)
	if err == nil {
		ev.Request = caller.Request
	}
	return caller, err
}

func (s sessions) Session(c echo.Context) (user string, created, lastAccessed time.Time, err error) {
	ev := eventOf(c)
	session, err := s.auth.Session(c.Request(), ev.Request, s.realm)
	ev.User = session.User
	return session.User, session.Created, session.LastAccessed, err
}

func (s sessions) Logout(c echo.Context) error {
	ev := eventOf(c)
	session, err := s.auth.Logout(c.Request(), ev.Request, s.realm)
	ev.User = session.User
	return err
}

package handler

import (
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/auth"
)

// sessions gives a dialect the sessions of its realm, without letting it see
// how callers authenticate.
type sessions struct {
	auth  *auth.Authenticator
	realm auth.Realm
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

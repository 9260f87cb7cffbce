package vapi

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// sessionAPI is /api/session, and its predecessor under /rest which govmomi
// still uses and which wraps its answers in "value". Both ignore query parameters
// that they do not know: their only declared errors are 401 and 503.
type sessionAPI struct{ sessions Sessions }

type sessionInfo struct {
	User             string `json:"user"`
	CreatedTime      string `json:"created_time"`
	LastAccessedTime string `json:"last_accessed_time"`
}

type legacy struct {
	Value any `json:"value"`
}

func (a sessionAPI) create(c echo.Context, _ *csr.Grant) error {
	id, err := a.sessions.Login(c)
	if err != nil {
		return err
	}
	return reply(c, http.StatusCreated, id)
}

func (a sessionAPI) get(c echo.Context, _ *csr.Grant) error {
	session, err := a.current(c)
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, session)
}

func (a sessionAPI) delete(c echo.Context, _ *csr.Grant) error {
	if err := a.sessions.Logout(c); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// legacyPost logs in, or with ?~action=get shows the session: that service has
// no GET.
func (a sessionAPI) legacyPost(c echo.Context, _ *csr.Grant) error {
	switch action := c.QueryParam("~action"); action {
	case "":
		id, err := a.sessions.Login(c)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, legacy{id})
	case "get":
		session, err := a.current(c)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, legacy{session})
	default:
		return echo.ErrNotFound
	}
}

func (a sessionAPI) legacyDelete(c echo.Context, _ *csr.Grant) error {
	if err := a.sessions.Logout(c); err != nil {
		return err
	}
	return c.NoContent(http.StatusOK)
}

func (a sessionAPI) current(c echo.Context) (sessionInfo, error) {
	user, created, lastAccessed, err := a.sessions.Session(c)
	if err != nil {
		return sessionInfo{}, err
	}
	return sessionInfo{user, formatTime(created), formatTime(lastAccessed)}, nil
}

// formatTime writes RFC 3339 in UTC with milliseconds.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

package vapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// The sessions are /api/session and its predecessor under /rest, which govmomi still
// uses. Both ignore unknown query parameters, since the vendor declares no errors but
// 401 and 503 for them.

type sessionInfo struct {
	User             string `json:"user"`
	CreatedTime      string `json:"created_time"`
	LastAccessedTime string `json:"last_accessed_time"`
}

// bare and legacy are how the two answer: the older one wraps it in "value".
func bare(v any) any { return v }

func legacy(v any) any {
	return struct {
		Value any `json:"value"`
	}{v}
}

// The paths of the cookies that logins set.
const (
	cookiePath       = "/api"
	legacyCookiePath = "/rest"
)

// setCookie makes clients with a cookie jar send the session id, as the vendor's logins do.
// A request with the header vmware-use-header-authn says that its client sends the id in
// the session header. An empty id removes the cookie.
func setCookie(c echo.Context, path, id string) {
	if strings.EqualFold(c.Request().Header.Get("vmware-use-header-authn"), "true") {
		return
	}
	cookie := SessionHeader + "=" + id + "; Path=" + path
	if id == "" {
		cookie += "; Max-Age=0"
	}
	c.Response().Header().Set(echo.HeaderSetCookie, cookie+"; Secure; HttpOnly; SameSite=Strict")
}

func login(s Sessions, status int, cookiePath string, wrap func(any) any) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		id, err := s.Login(c)
		if err != nil {
			return err
		}
		setCookie(c, cookiePath, id)
		return Reply(c, status, wrap(id))
	}
}

func showSession(s Sessions, wrap func(any) any) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		user, created, lastAccessed, err := s.Session(c)
		if err != nil {
			return err
		}
		return Reply(c, http.StatusOK, wrap(sessionInfo{user, formatTime(created), formatTime(lastAccessed)}))
	}
}

// logout answers with a status and no body.
func logout(s Sessions, status int, cookiePath string) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		if err := s.Logout(c); err != nil {
			return err
		}
		setCookie(c, cookiePath, "")
		return c.NoContent(status)
	}
}

// legacyPost logs in, or with ?~action=get returns the session, as GET does.
func legacyPost(s Sessions) Handle {
	actions := map[string]Handle{"": login(s, http.StatusOK, legacyCookiePath, legacy), "get": showSession(s, legacy)}
	return func(c echo.Context, grant *csr.Grant) error {
		if handle, known := actions[c.QueryParam("~action")]; known {
			return handle(c, grant)
		}
		return echo.ErrNotFound
	}
}

// formatTime writes RFC 3339 in UTC with milliseconds.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

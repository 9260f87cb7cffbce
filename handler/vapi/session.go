package vapi

import (
	"net/http"
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

func login(s Sessions, status int, wrap func(any) any) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		id, err := s.Login(c)
		if err != nil {
			return err
		}
		return reply(c, status, wrap(id))
	}
}

func showSession(s Sessions, wrap func(any) any) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		user, created, lastAccessed, err := s.Session(c)
		if err != nil {
			return err
		}
		return reply(c, http.StatusOK, wrap(sessionInfo{user, formatTime(created), formatTime(lastAccessed)}))
	}
}

// logout answers with a status and no body.
func logout(s Sessions, status int) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		if err := s.Logout(c); err != nil {
			return err
		}
		return c.NoContent(status)
	}
}

// legacyPost logs in, or with ?~action=get returns the session: this path has no
// GET.
func legacyPost(s Sessions) Handle {
	actions := map[string]Handle{"": login(s, http.StatusOK, legacy), "get": showSession(s, legacy)}
	return func(c echo.Context, grant *csr.Grant) error {
		if handle, known := actions[c.QueryParam("~action")]; known {
			return handle(c, grant)
		}
		return echo.ErrNotFound
	}
}

// formatTime writes RFC 3339 in UTC with milliseconds.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

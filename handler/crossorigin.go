package handler

import (
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/policy"
)

// newCrossOrigin makes the check of where a browser's request comes from.
func newCrossOrigin(allowed []string) (*http.CrossOriginProtection, error) {
	check := http.NewCrossOriginProtection()
	for _, origin := range allowed {
		if err := check.AddTrustedOrigin(origin); err != nil {
			return nil, fmt.Errorf("allowed origins: %w", err)
		}
	}
	return check, nil
}

// sameOrigin refuses requests that a page of another site makes a browser send, since
// the browser adds cookies and remembered Basic credentials by itself. It comes before
// authentication: such a page cannot try passwords either.
func (h *Handler) sameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		checked := r
		if c.Path() == policy.LogoutPath {
			// The check passes GET and HEAD, which change nothing elsewhere. Here they
			// end a session.
			checked = r.Clone(r.Context())
			checked.Method = http.MethodPost
		}
		if err := h.crossOrigin.Check(checked); err != nil {
			return h.cfg.Auth.RefuseForged(r, eventOf(c).Request, dialectOf(r.URL.Path).Realm, err)
		}
		return next(c)
	}
}

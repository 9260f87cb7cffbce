package policy

import (
	"mime"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// Paths of the login and the logout. Errors on them are of this dialect, though the
// other one has paths that begin with the same.
const (
	LoginPath  = "/api/session/create"
	LogoutPath = "/api/session/destroy"
)

// SessionCookie has the session id. This dialect sets no other cookie. XSRFHeader has
// the token that a changing request needs besides the cookie.
const (
	SessionCookie = "JSESSIONID"
	XSRFHeader    = "X-XSRF-TOKEN"
)

// Sessions begins and ends the sessions of this dialect. Errors are of package
// csr's kinds.
type Sessions interface {
	// LoginPassword returns the id and the XSRF token of a new session.
	LoginPassword(c echo.Context, user, password string) (id, token string, err error)
	// Logout ends the session that authenticates the request.
	Logout(c echo.Context) error
}

func login(sessions Sessions) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		form, err := readForm(c.Request(), "j_username", "j_password")
		if err != nil {
			return err
		}
		id, token, err := sessions.LoginPassword(c, form.Get("j_username"), form.Get("j_password"))
		if err != nil {
			return err
		}
		// One line and in this order: a well-known client reads the cookie with a
		// pattern that wants a semicolon. With Lax browsers do not send the cookie with
		// POSTs of other sites, which protects besides the token.
		header := c.Response().Header()
		header.Set(echo.HeaderSetCookie, SessionCookie+"="+id+"; Path=/; Secure; HttpOnly; SameSite=Lax")
		header.Set(XSRFHeader, token)
		return c.NoContent(http.StatusOK)
	}
}

func logout(sessions Sessions) Handle {
	return func(c echo.Context, _ *csr.Grant) error {
		if err := sessions.Logout(c); err != nil {
			return err
		}
		return c.NoContent(http.StatusOK)
	}
}

// readForm reads a form from the body, in which these fields must be given once. It
// reads no query parameters, since proxies log those. Package handler has bounded the
// size of the body.
func readForm(r *http.Request, fields ...string) (url.Values, error) {
	const mediaType = echo.MIMEApplicationForm
	if given, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType)); err != nil || given != mediaType {
		return nil, invalid("the Content-Type must be " + mediaType)
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil { // without err, which may quote a password
		return nil, invalid("the body is not a form")
	}
	for _, field := range fields {
		if len(form[field]) != 1 {
			return nil, invalid(field + " is required, once")
		}
	}
	return form, nil
}

package policy

import (
	"mime"
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// Paths of the login and the logout. They lie beside those of the other dialect,
// but their errors are of this one.
const (
	LoginPath  = "/api/session/create"
	LogoutPath = "/api/session/destroy"
)

// SessionCookie carries the session id; it is the only cookie that the service
// sets. XSRFHeader carries the token that changing calls need beside it.
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
		form, err := readForm(c.Request())
		if err != nil {
			return err
		}
		user, err := only(form, "j_username")
		if err != nil {
			return err
		}
		password, err := only(form, "j_password")
		if err != nil {
			return err
		}
		id, token, err := sessions.LoginPassword(c, user, password)
		if err != nil {
			return err
		}
		// One line and in this order: a well-known client takes the cookie out of it
		// with a pattern that wants a semicolon. Lax keeps the cookie off other sites'
		// POSTs, besides the token.
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

// readForm reads a form from the body alone: what stands in the query would be in
// the logs of every proxy on the way. The body's size is bounded by whoever made
// the request's Body.
func readForm(r *http.Request) (url.Values, error) {
	const mediaType = echo.MIMEApplicationForm
	if given, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType)); err != nil || given != mediaType {
		return nil, invalid("the Content-Type must be " + mediaType)
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil { // its text may quote a password
		return nil, invalid("the body is not a form")
	}
	return form, nil
}

// only returns the one value of a field.
func only(form url.Values, field string) (string, error) {
	values := form[field]
	if len(values) != 1 {
		return "", invalid(field + " is required, once")
	}
	return values[0], nil
}

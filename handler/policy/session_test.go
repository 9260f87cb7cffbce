package policy_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/policy"
)

// login is a Sessions that records its arguments and lets everybody in.
type login struct {
	asked          int
	user, password string
}

func (l *login) LoginPassword(_ echo.Context, user, password string) (id, token string, err error) {
	l.asked++
	l.user, l.password = user, password
	return "id", "token", nil
}

func (l *login) Logout(echo.Context) error { return nil }

// loginRoute is the handler of the login over l.
func loginRoute(t testing.TB, l *login) policy.Handle {
	t.Helper()
	var route policy.Handle
	policy.Register(l, func(_, path string, operation policy.Operation, handle policy.Handle) {
		if path == policy.LoginPath && operation == nil {
			route = handle
		}
	})
	if route == nil {
		t.Fatal("no route for the login")
	}
	return route
}

// A login form has one user and one password, and these are passed on. Other forms
// are refused before Sessions is called.
func FuzzLoginForm(f *testing.F) {
	const form = "application/x-www-form-urlencoded"
	f.Add(form, "j_username=admin&j_password=secret", "")
	f.Add(form+"; charset=UTF-8", "j_password=p%C3%A4ss+w%26rd&x=1&j_username=J%c3%b6rg", "j_username=eve")
	f.Add(form, "j_username=admin", "j_password=secret")
	f.Add(form, "j_username=a&j_username=b&j_password=", "")
	f.Add(form, "j_username=a;j_password=b&%zz", "%zz")
	f.Add("multipart/form-data; boundary=x", "--x--", "")
	f.Add("", "", "")
	asked := &login{}
	route := loginRoute(f, asked)
	e := echo.New()
	f.Fuzz(func(t *testing.T, contentType, body, query string) {
		*asked = login{}
		r := httptest.NewRequest(http.MethodPost, policy.LoginPath, strings.NewReader(body))
		r.URL.RawQuery = query
		r.Header["Content-Type"] = []string{contentType}
		recorder := httptest.NewRecorder()
		c := e.NewContext(r, recorder)
		if err := route(c, nil); err != nil {
			if asked.asked != 0 || len(recorder.Header()) != 0 {
				t.Fatal("a refused form logs in")
			}
			if err := policy.WriteError(c, "rid", err); err != nil || recorder.Code != http.StatusBadRequest || !utf8.Valid(recorder.Body.Bytes()) {
				t.Fatalf("%v: %d %s", err, recorder.Code, recorder.Body)
			}
			return
		}
		if recorder.Code != http.StatusOK || asked.asked != 1 || !strings.HasPrefix(strings.ToLower(contentType), form) {
			t.Fatalf("%d, asked %d times, for %q", recorder.Code, asked.asked, contentType)
		}
		// Another way to read the form finds the same two fields, and each once.
		found := map[string][]string{}
		for pair := range strings.SplitSeq(body, "&") {
			name, value, _ := strings.Cut(pair, "=")
			if name, err := url.QueryUnescape(name); err == nil {
				found[name] = append(found[name], value)
			}
		}
		for field, got := range map[string]string{"j_username": asked.user, "j_password": asked.password} {
			if len(found[field]) != 1 {
				t.Fatalf("%d fields %s", len(found[field]), field)
			}
			if want, err := url.QueryUnescape(found[field][0]); err != nil || got != want {
				t.Fatalf("%s %q, want %q", field, got, want)
			}
		}
	})
}

package handler_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"attestcsr/csr"
)

const (
	loginPath  = "/api/session/create"
	logoutPath = "/api/session/destroy"
	formType   = "application/x-www-form-urlencoded"
)

// formLogin is the login of NSX's clients.
func formLogin(user, password string) call {
	return call{method: "POST", path: loginPath, raw: true, anonymous: true,
		body:   url.Values{"j_username": {user}, "j_password": {password}}.Encode(),
		header: map[string]string{"Content-Type": formType}}
}

// nsxSession is a session of the NSX dialect.
type nsxSession struct{ id, token string }

func (s *stack) nsxLogin(user, password string) nsxSession {
	s.t.Helper()
	a := s.do(formLogin(user, password))
	if a.status != http.StatusOK {
		s.t.Fatalf("login: %d %s", a.status, a.body)
	}
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) != 1 || cookies[0].Name != "JSESSIONID" {
		s.t.Fatalf("cookies %v", cookies)
	}
	return nsxSession{cookies[0].Value, a.header.Get("X-XSRF-TOKEN")}
}

// carry makes a call one of the session, with its token.
func (p nsxSession) carry(c call) call {
	c.anonymous = true
	c.header = map[string]string{"Cookie": "JSESSIONID=" + p.id, "X-XSRF-TOKEN": p.token}
	return c
}

// forge makes a call what another site can make a browser send.
func (p nsxSession) forge(c call) call {
	c = p.carry(c)
	delete(c.header, "X-XSRF-TOKEN")
	return c
}

// What a session may do, and that it ends, is in TestAccess.
func TestNSXLogin(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	a := s.do(formLogin("admin", adminPassword))
	if a.status != http.StatusOK || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
		t.Fatalf("login: %d %q %v", a.status, a.body, a.header)
	}
	set := a.header.Values("Set-Cookie")
	shape := regexp.MustCompile(`^JSESSIONID=([0-9a-f]{64}); Path=/; Secure; HttpOnly; SameSite=Lax$`)
	if len(set) != 1 || !shape.MatchString(set[0]) {
		t.Fatalf("Set-Cookie %q", set)
	}
	if token := a.header.Get("X-XSRF-TOKEN"); !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(token) || strings.Contains(set[0], token) {
		t.Fatalf("token %q", token)
	}

	session := s.nsxLogin("admin", adminPassword)
	if a := s.do(session.carry(call{method: "GET", path: nsxCSRs})); a.status != http.StatusOK {
		t.Errorf("list: %d %s", a.status, a.body)
	}
	a = s.do(session.forge(call{method: "GET", path: logoutPath})) // a GET needs no token
	if a.status != http.StatusOK || len(a.body) != 0 || len(a.header.Values("Set-Cookie")) != 0 {
		t.Errorf("logout: %d %q %v", a.status, a.body, a.header)
	}
	for _, c := range []call{{method: "GET", path: nsxCSRs}, {method: "DELETE", path: nsxCSRs + "/one"}, {method: "GET", path: logoutPath}} {
		s.do(session.carry(c)).wantNSXError(t, http.StatusUnauthorized, 403)
	}
}

type loginForm struct {
	name, method, query, body, contentType string
	basic                                  bool
	status                                 int // 0: the login succeeds
	code                                   int64
	says                                   string
}

// loginForms are forms in all their shapes, and requests that are no form. TestAccess has
// wrong passwords.
func loginForms() []loginForm {
	password := "j_password=" + url.QueryEscape(adminPassword)
	good := "j_username=admin&" + password
	return []loginForm{
		{name: "fields in the other order", body: password + "&j_username=admin"},
		{name: "charset and letter case", body: good, contentType: "Application/X-WWW-Form-URLencoded; charset=UTF-8"},
		{name: "further fields", body: good + "&submit=1"},
		{name: "something in the query", query: "?j_username=eve&j_password=x", body: good},
		{name: "empty fields", body: "j_username=&j_password=", status: 401, code: 403},
		{name: "not UTF-8", body: "j_username=%ff&j_password=x", status: 401, code: 403},
		{name: "Basic does not count", basic: true, body: "j_username=admin&j_password=wrong", status: 401, code: 403},
		{name: "Basic alone", basic: true, status: 400, code: 255, says: "j_username is required"},
		{name: "empty body", status: 400, code: 255, says: "j_username is required"},
		{name: "no password", body: "j_username=admin", status: 400, code: 255, says: "j_password is required"},
		{name: "credentials in the query", query: "?" + good, status: 400, code: 255, says: "j_username is required"},
		{name: "password in the query", query: "?" + password, body: "j_username=admin", status: 400, code: 255, says: "j_password is required"},
		{name: "user twice", body: good + "&j_username=admin", status: 400, code: 255, says: "j_username is required, once"},
		{name: "password twice", body: good + "&j_password=x", status: 400, code: 255, says: "j_password is required, once"},
		{name: "letter case of a field", body: "J_USERNAME=admin&j_password=x", status: 400, code: 255},
		{name: "bad escape", body: good + "&x=%zz", status: 400, code: 255},
		{name: "semicolon", body: good + ";x=1", status: 400, code: 255},
		{name: "no Content-Type", body: good, contentType: "-", status: 400, code: 255, says: "Content-Type"},
		{name: "JSON", body: `{"j_username":"admin","j_password":"x"}`, contentType: asJSON, status: 400, code: 255, says: "Content-Type"},
		{name: "multipart", body: good, contentType: "multipart/form-data; boundary=x", status: 400, code: 255, says: "Content-Type"},
		{name: "too large", body: good + "&x=" + strings.Repeat("x", 64<<10), status: 413, code: 255},
		{name: "GET", method: "GET", query: "?" + good, status: 405, code: 255},
	}
}

func TestNSXLoginBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, test := range loginForms() {
		t.Run(test.name, func(t *testing.T) {
			c := formLogin("", "")
			c.body, c.path, c.anonymous = test.body, loginPath+test.query, !test.basic
			if test.method != "" {
				c.method = test.method
			}
			if test.contentType != "" {
				c.header["Content-Type"] = test.contentType
			}
			a := s.do(c)
			if test.status == 0 {
				if a.status != http.StatusOK {
					t.Fatalf("%d %s", a.status, a.body)
				}
				return
			}
			if message := a.wantNSXError(t, test.status, test.code); !strings.Contains(message, test.says) {
				t.Errorf("%q does not say %q", message, test.says)
			}
			if len(a.header.Values("Set-Cookie")) != 0 || a.header.Get("X-XSRF-TOKEN") != "" {
				t.Error("an error hands out a session")
			}
		})
	}
	if log := s.log.String(); strings.Contains(log, adminPassword) || strings.Contains(log, url.QueryEscape(adminPassword)) || strings.Contains(log, `"level":"ERROR"`) {
		t.Error("the log holds a password, or bad input as a fault of the service")
	}
}

// The order of refusals is 401, XSRF 403 code 98, privilege 403. TestAccess has every
// route and more callers; here are the cases in which two refusals meet.
func TestNSXAccess(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	var (
		admin  = s.nsxLogin("admin", adminPassword)
		viewer = s.nsxLogin("viewer", viewerPassword)
		none   = nsxSession{strings.Repeat("0", 64), strings.Repeat("0", 64)}

		list     = call{method: "GET", path: nsxCSRs}
		create   = call{method: "POST", path: nsxCSRs + "/x?action=create", body: "["} // reaches the parser: 400 code 220
		noAction = call{method: "POST", path: nsxCSRs + "/x", body: "["}
	)
	with := func(c call, name, value string) call { c.header[name] = value; return c }
	for _, test := range []struct {
		name   string
		call   call
		status int
		code   int64
	}{
		{"read with a wrong token", with(admin.carry(list), "X-XSRF-TOKEN", "x"), 200, 0},
		{"read without", admin.forge(list), 200, 0},
		{"create with the token", admin.carry(create), 400, 220},
		{"create with a wrong token", with(admin.carry(create), "X-XSRF-TOKEN", none.token), 403, 98},
		{"no action, no token", admin.forge(noAction), 403, 98},
		{"no session before no token", none.forge(create), 401, 403},
		{"no token before no privilege", viewer.forge(create), 403, 98},
		{"no privilege before no action", viewer.carry(noAction), 403, 289},
		{"Basic beside a cookie needs no token", call{method: "POST", path: create.path, body: "[", header: map[string]string{"Cookie": "JSESSIONID=" + viewer.id}}, 400, 220},
		{"Basic destroys no session", call{method: "GET", path: logoutPath, header: map[string]string{"Cookie": "JSESSIONID=" + admin.id}}, 401, 403},
		{"the other dialect's session ended here", nsxSession{s.esxLogin(), ""}.carry(call{method: "GET", path: logoutPath}), 401, 403},
	} {
		a := s.do(test.call)
		if test.code == 0 && a.status == test.status {
			continue
		}
		if e := a.nsxError(t); a.status != test.status || *e.Code != test.code {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
		}
	}
	// An ESX session in its cookie needs no token.
	if a := s.do(call{method: "POST", path: csrPath, body: "[", anonymous: true, header: map[string]string{"Cookie": "vmware-api-session-id=" + s.esxLogin()}}); a.status != http.StatusBadRequest {
		t.Errorf("a cookie session of ESX: %d %s", a.status, a.body)
	}
	if metrics := s.get("/metrics"); !strings.Contains(metrics, "\nattestcsr_sessions 4\n") {
		t.Error("not four sessions counted")
	}
}

// Every request's line names the dialect, and the user as soon as one is known:
// logins and logouts too.
func TestLogNamesUserAndDialect(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	want := func(c call, parts ...string) answer {
		t.Helper()
		a := s.do(c)
		for _, part := range parts {
			if !strings.Contains(s.logged(a), part) {
				t.Errorf("no %s in %s", part, s.logged(a))
			}
		}
		return a
	}
	const admin, nobody, esx, nsx = `"user":"admin"`, `"user":""`, `"dialect":"esx"`, `"dialect":"nsx"`
	id := decode[string](t, want(call{method: "POST", path: sessionPath}, admin, esx, `"status":201`))
	want(call{method: "GET", path: sessionPath}.inSession(id), admin, esx, `"status":200`)
	want(call{method: "DELETE", path: sessionPath}.inSession(id), admin, esx, `"status":204`)
	want(call{method: "DELETE", path: sessionPath}.inSession(id), nobody, esx, `"status":401`)
	legacy := want(call{method: "POST", path: legacyPath}, admin, esx).member(t, "value")
	want(call{method: "DELETE", path: legacyPath}.inSession(legacy), admin, esx)

	want(formLogin("admin", adminPassword), admin, nsx, `"status":200`, `"route":"`+loginPath+`"`)
	want(formLogin("admin", "wrong"), nobody, nsx, `"status":401`)
	session := s.nsxLogin("admin", adminPassword)
	want(session.carry(call{method: "GET", path: nsxCSRs}), admin, nsx)
	want(session.forge(call{method: "DELETE", path: nsxCSRs + "/x"}), nobody, nsx, `"error_kind":"forged"`)
	want(session.carry(call{method: "GET", path: logoutPath}), admin, nsx, `"status":200`)
	want(call{method: "GET", path: "/policy/unknown"}, nobody, nsx, `"route":"unmatched"`)
	if l := s.logged(want(call{method: "GET", path: "/healthz", anonymous: true})); strings.Contains(l, "dialect") {
		t.Errorf("health has a dialect: %s", l)
	}
	for name, secret := range map[string]string{"session id": session.id, "token": session.token, "password": adminPassword} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log holds a %s", name)
		}
	}
}

// Creates count by dialect and outcome; what names no action is none.
func TestNSXCreatesAreCounted(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	create := call{method: "POST", path: nsxCSRs + "/one?action=create", body: quickSpec}
	for _, c := range []call{
		create, create, // created, exists
		{method: "POST", path: nsxCSRs + "?action=self_sign", body: quickSpec},
		{method: "POST", path: nsxCSRs + "/two?action=create", body: "["},
		{method: "POST", path: nsxCSRs + "/two?action=create", body: "[", user: "viewer", password: viewerPassword},
		{method: "POST", path: nsxCSRs + "/two?action=create", body: "[", anonymous: true},
		s.nsxLogin("admin", adminPassword).forge(create),
		{method: "POST", path: nsxCSRs + "/two", body: "["},
		{method: "POST", path: nsxCSRs + "/one?action=self_sign"},
		{method: "GET", path: nsxCSRs},
	} {
		s.do(c)
	}
	text := s.get("/metrics")
	for outcome, n := range map[string]string{"created": "2", "exists": "1", "invalid": "1", "unauthorized": "1", "unauthenticated": "1", "forged": "1"} {
		if want := `attestcsr_csrs_created_total{dialect="nsx",outcome="` + outcome + `"} ` + n + "\n"; !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	nothing := regexp.MustCompile(`(?m)^attestcsr_csrs_created_total\{dialect="nsx",outcome="[a-z_]+"\} 0$`)
	if n, want := len(nothing.FindAllString(text, -1)), len(csr.Kinds())-5; n != want {
		t.Errorf("%d outcomes of nothing, want %d", n, want)
	}
}

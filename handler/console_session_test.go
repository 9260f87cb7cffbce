package handler_test

import (
	"net/http"
	"strings"
	"testing"

	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// consoleLogin begins a session as our own pages do.
func consoleLogin(user, password string) call {
	return call{
		method: "POST", path: consoleSession, anonymous: true, header: map[string]string{auth.ConsoleHeader: "1"},
		body: kit.JSON(map[string]string{"user": user, "password": password}),
	}
}

// inConsole makes a call in the session of one of our own pages.
func (c call) inConsole(id string) call {
	c.anonymous, c.lines = true, consoleCookie(id)
	return c
}

// One session of our own pages is good for every dialect, also for changes, and for no
// request that does not say that it comes from there.
func TestConsoleSession(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	begun := s.do(consoleLogin("admin", adminPassword))
	const admin = `{"user":"admin","privileges":["SECURITY_MGMT","SECURITY_READ","attestation:sign","policy_certificate:read","policy_certificate:crud","policy_certificate:sign","audit:read"]}`
	id, attributes, _ := strings.Cut(strings.TrimPrefix(begun.header.Get("Set-Cookie"), "__Host-attestcsr-console="), ";")
	if begun.status != http.StatusOK || string(begun.body) != admin || len(id) != 64 || attributes != " Path=/; Secure; HttpOnly; SameSite=Strict" {
		t.Fatalf("%d %v %s", begun.status, begun.header, begun.body)
	}
	for _, test := range []struct {
		call   call
		status int
	}{
		{call{method: "GET", path: consoleSession}, 200},
		{call{method: "POST", path: csrPath, body: validSpec}, 201},
		{call{method: "GET", path: sessionPath}, 200},
		{call{method: "GET", path: legacyPath}, 200},
		{call{method: "POST", path: nsxCSRs + "/page?action=create", body: quickSpec}, 201},
		{call{method: "DELETE", path: nsxCSRs + "/page"}, 200},
		{call{method: "GET", path: lookupPath}, 200},
		{call{method: "LIST", path: transitKeys}, 200},
		{call{method: "POST", path: checkPath, body: `{"kind":"certificate","certificate":"x"}`}, 200},
	} {
		a := s.do(test.call.inConsole(id))
		if a.status != test.status || strings.Contains(string(a.body), id) || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s %s: %d %v %s", test.call.method, test.call.path, a.status, a.header, a.body)
		}
		if !strings.Contains(s.logged(a), `"user":"admin"`) {
			t.Errorf("the log does not name the user: %s", s.logged(a))
		}
		without := test.call.inConsole(id)
		without.header = map[string]string{auth.ConsoleHeader: "-"}
		without.lines = http.Header{"Cookie": without.lines["Cookie"]}
		if a := s.do(without); a.status != http.StatusUnauthorized && !strings.HasPrefix(test.call.path, "/v1/") || a.status < 400 {
			t.Errorf("%s %s without the header: %d", test.call.method, test.call.path, a.status)
		}
	}
	end := call{method: "DELETE", path: consoleSession}.inConsole(id)
	if a := s.do(end); a.status != http.StatusNoContent || a.header.Get("Set-Cookie") != "__Host-attestcsr-console=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Strict" {
		t.Errorf("logout: %d %v", a.status, a.header)
	}
	for _, c := range []call{end, call{method: "GET", path: csrPath}.inConsole(id), consoleLogin("admin", "wrong"), consoleLogin("", "")} {
		if a := s.do(c); a.status != http.StatusUnauthorized || a.header.Values("WWW-Authenticate") != nil || a.vapiError(t).ErrorType != "UNAUTHENTICATED" {
			t.Errorf("%s %s afterwards: %d %v %s", c.method, c.path, a.status, a.header, a.body)
		}
	}
	if strings.Contains(s.log.String(), id) || strings.Contains(s.log.String(), adminPassword) {
		t.Error("the log has the session id or the password")
	}
}

func TestConsoleLoginRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for name, test := range map[string]struct {
		edit func(*call)
		id   string
	}{
		"no user":        {func(c *call) { c.body = `{"password":"x"}` }, missingField},
		"no password":    {func(c *call) { c.body = `{"user":"x"}` }, missingField},
		"unknown member": {func(c *call) { c.body = `{"user":"x","password":"x","otp":"1"}` }, unknownField},
		"types":          {func(c *call) { c.body = `{"user":1,"password":"x"}` }, unexpectedType},
		"a query":        {func(c *call) { c.path += "?user=admin" }, unknownProperty},
		"a form":         {func(c *call) { c.header["Content-Type"] = formType }, wrongMediaType},
	} {
		c := consoleLogin("admin", adminPassword)
		test.edit(&c)
		a := s.do(c)
		if doc := a.vapiError(t); a.status != http.StatusBadRequest || doc.Messages[0].ID != test.id || a.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	another := consoleLogin("admin", adminPassword)
	another.header["Sec-Fetch-Site"] = "cross-site"
	if a := s.do(another); a.status != http.StatusForbidden || a.header.Get("Set-Cookie") != "" {
		t.Errorf("a login by another site: %d %s", a.status, a.body)
	}
}

// Without pages there is no session for them. Commands still have their check.
func TestConsoleOff(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.Console = false })
	for _, path := range []string{"/", "/apiexplorer", "/openapi.json", "/openapi.yaml", "/assets", "/assets/x", "/console", consoleSession} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			if a := s.do(call{method: method, path: path}); a.status != http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, a.status)
			}
		}
	}
	if a := s.do(checkCall("", "x")); a.status != http.StatusOK {
		t.Errorf("check: %d %s", a.status, a.body)
	}
}

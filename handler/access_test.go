package handler_test

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// matrix is every route under every kind of caller.
type matrix struct {
	*stack
	t                *testing.T
	auth             *auth.Authenticator
	clock            *kit.Clock
	idle, lifetime   time.Duration
	users, remaining *auth.Users
	made             http.Header // the sessions made last
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	m := &matrix{t: t, clock: kit.NewClock(), idle: time.Hour, lifetime: 4 * time.Hour}
	var all []string
	for user := range accessPrivileges {
		all = append(all, user, passwordOf(user))
	}
	lines := usersFile(t, all...)
	m.users = parseUsers(t, lines)
	m.remaining = parseUsers(t, regexp.MustCompile(`(?m)^leaver:.*\n`).ReplaceAllString(lines, ""))
	m.auth = newAuth(auth.Config{
		Users: m.remaining, Now: m.clock.Now, IdleTimeout: m.idle, Lifetime: m.lifetime,
		Privileges: func(user string) []csr.Privilege { return accessPrivileges[user] },
		// The throttle has tests of its own, and would slow this one down.
		// Verifying passwords again and again is not the point, though the clock moves.
		RememberFor: 10_000 * time.Hour,
		Failures:    1 << 20, Sessions: 1 << 20, SessionsPerUser: 1 << 20,
	})
	m.stack = newStack(t, func(c *handler.Config) { c.Auth = m.auth })
	return m
}

// TestAccess: every route × every kind of caller has exactly the answer that is
// written down for it. A route without a row is a failure, and so is a row for a
// route that there is not.
func TestAccess(t *testing.T) {
	t.Parallel()
	m := newMatrix(t)
	m.createCSR(validSpec)
	csrID := "matrix"
	m.nsxMake(csrID, quickSpec)
	certificate := decode[nsxCertificate](t, m.do(call{method: "POST", path: nsxCSRs + "?action=self_sign", body: quickSpec}))
	rows := accessRows(csrID, *certificate.ID, regexp.MustCompile(`/assets/base\.\w+\.css`).FindString(m.get("/apiexplorer")))
	api, _ := m.handler.Routes()
	compareRoutes(t, api, rows)
	compareOperations(t, rows)

	tried := 0
	for _, r := range rows {
		t.Run(r.name(), func(t *testing.T) {
			m.t = t
			for _, c := range accessCallers() {
				m.try(t, r, c)
				tried++
			}
		})
	}
	kit.Count(t, "callers × routes", tried)
	kit.Count(t, "exchanges as described", int(m.witness.seen.Load()))
}

// compareRoutes holds the rows against the routes that the handler has.
func compareRoutes(t *testing.T, routes []string, rows []row) {
	t.Helper()
	if len(routes) == 0 {
		t.Fatal("the handler has no routes")
	}
	for _, route := range routes {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.route == route }) {
			t.Errorf("the route %s has no row here: who gets which answer?", route)
		}
	}
	for _, r := range rows {
		if r.route != "" && !slices.Contains(routes, r.route) {
			t.Errorf("the row %s is for a route that the handler does not have", r.route)
		}
	}
}

// With a listener of their own, health and metrics are there and nothing else is,
// and they are not beside the API.
func TestSeparateOpsRoutes(t *testing.T) {
	t.Parallel()
	together, _ := newStack(t).handler.Routes()
	api, ops := newStack(t, func(c *handler.Config) { c.SeparateOps = true }).handler.Routes()
	isOps := regexp.MustCompile(`^(GET|HEAD|OPTIONS) /(healthz|readyz|metrics)$`)
	for _, route := range ops {
		if !isOps.MatchString(route) || slices.Contains(api, route) {
			t.Errorf("%s on the listener of health and metrics", route)
		}
	}
	both := slices.Concat(api, ops)
	slices.Sort(both)
	if len(ops) != 9 || !slices.Equal(both, together) {
		t.Errorf("%v and %v are not together %v", api, ops, together)
	}
}

// compareOperations: there is a row for every operation of the core. They are
// read from its source, so that none can be left out of a list.
func compareOperations(t *testing.T, rows []row) {
	t.Helper()
	operations := regexp.MustCompile(`(?m)^\t\w+ +Operation = "(.*)"`).FindAllSubmatch(kit.Read(t, "../csr", "grant.go"), -1)
	if len(operations) == 0 {
		t.Error("no operations found")
	}
	for _, found := range operations {
		if !slices.ContainsFunc(rows, func(r row) bool { return string(r.op) == string(found[1]) }) {
			t.Errorf("the operation %s has no row here", found[1])
		}
	}
}

func (r row) name() string {
	method := r.method
	if method == "" {
		method, _, _ = strings.Cut(r.route, " ")
	}
	return method + " " + r.path
}

// in is whom the caller is in the dialect.
func (c caller) in(d dialect) identity {
	if d.name == inTransit.name {
		return c.transit
	}
	if d.name == inPage.name {
		return c.page
	}
	if d.name == inNSX.name || d.name == inConsole.name && c.esx.user == "" {
		return c.nsx
	}
	return c.esx
}

// lacks returns the operation and the privilege that a refusal of a user names, or
// nothing where the user may.
func (r row) lacks(user string) (csr.Operation, csr.Privilege) {
	if r.either && !holds(user, csr.SecurityManagement) && !holds(user, csr.PolicyCertificateCRUD) {
		return csr.CheckCertificate, csr.SecurityManagement
	}
	if r.needs == "" || slices.ContainsFunc(append(r.or, r.needs), func(p csr.Privilege) bool { return holds(user, p) }) {
		return "", ""
	}
	return r.op, r.needs
}

func holds(user string, p csr.Privilege) bool {
	return csr.Caller{Privileges: accessPrivileges[user]}.Holds(p)
}

// expected is the answer that the caller gets. Refusals come in this order:
// authentication, token, privilege.
func (r row) expected(c caller) want {
	who := c.in(r.dialect)
	method, _, _ := strings.Cut(r.name(), " ")
	_, missing := r.lacks(who.user)
	reads := method == http.MethodGet || method == http.MethodHead
	refused := want{status: http.StatusOK}
	switch {
	case r.kind == open:
		return r.allowed
	case who.user == "", r.kind == login && who.bySession, r.kind == ofSession && !who.bySession:
		refused = r.dialect.answer(unauthenticated)
	case who.guarded && !reads:
		refused = r.dialect.answer(forged)
	case r.kind == operation && missing != "":
		refused = r.dialect.answer(unauthorised(missing))
	default:
		return r.allowed
	}
	if method == http.MethodHead {
		refused.body = ""
	}
	return refused
}

// try sends one request and compares all of the answer.
func (m *matrix) try(t *testing.T, r row, c caller) {
	t.Helper()
	method, _, _ := strings.Cut(r.name(), " ")
	contentType := asJSON
	if r.form {
		contentType = formType
	}
	sent := c.make(m)
	a := m.do(call{method: method, path: r.path, body: r.body, raw: true, anonymous: true, header: map[string]string{"Content-Type": contentType}, lines: sent})
	expected := r.expected(c)
	expected.quiet = sent.Get("X-Attestcsr-Console") == "1"
	if problem := expected.differs(method, a); problem != "" {
		t.Errorf("%s: %s", c.name, problem)
	}
	for _, values := range sent {
		for _, value := range values {
			value = value[strings.LastIndex(value, "=")+1:] // of a cookie
			if len(value) >= 16 && !r.tells && strings.Contains(string(a.body), value) {
				t.Errorf("%s: the answer tells the credentials: %s", c.name, a.body)
			}
		}
	}
	// The log line tells that the request reached the operation that the row is for.
	op, missing := r.lacks(c.in(r.dialect).user)
	if needs := string(op) + r.key + " needs the privilege " + string(missing); r.kind == operation && a.status == http.StatusForbidden && c.in(r.dialect).user != "" && !c.in(r.dialect).guarded &&
		!strings.Contains(m.logged(a), needs) {
		t.Errorf("%s: the log line does not say %q: %s", c.name, needs, m.logged(a))
	}
}

var (
	requestID    = regexp.MustCompile(`^[0-9a-f]{32}$`)
	sessionToken = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// differs says what of an answer is not as wanted.
func (w want) differs(method string, a answer) string {
	h, body := a.header, string(a.body)
	challenge := ""
	if w.status == http.StatusUnauthorized && !w.quiet {
		challenge = `Basic realm="attestcsr", charset="UTF-8"`
	}
	switch {
	case a.status != w.status:
		return "status " + strconv.Itoa(a.status) + ", want " + strconv.Itoa(w.status) + ": " + body
	case w.pattern != nil && !w.pattern.MatchString(body), w.pattern == nil && body != w.body && method != http.MethodHead:
		return "body " + body + ", want " + w.body
	case h.Get("Content-Type") != w.contentType:
		return "Content-Type " + h.Get("Content-Type") + ", want " + w.contentType
	case h.Get("WWW-Authenticate") != challenge:
		return "challenge " + h.Get("WWW-Authenticate")
	case h.Get("Allow") != w.allow:
		return "Allow " + h.Get("Allow") + ", want " + w.allow
	case h.Get("Cache-Control") != cmp.Or(w.cached, "no-store"):
		return "Cache-Control " + h.Get("Cache-Control")
	case !requestID.MatchString(h.Get("X-Request-Id")):
		return "request id " + h.Get("X-Request-Id")
	case h.Get("Retry-After") != "" || h.Get("Location") != "" || h.Get("Server") != "" || h.Get("Access-Control-Allow-Origin") != "":
		return "a header that has no place here"
	case w.token != sessionToken.MatchString(h.Get("X-XSRF-TOKEN")):
		return "token " + h.Get("X-XSRF-TOKEN")
	}
	set := h.Values("Set-Cookie")
	if w.cookie == nil && len(set) > 0 || w.cookie != nil && (len(set) != 1 || !w.cookie.MatchString(set[0])) {
		return "cookies " + strings.Join(set, ", ")
	}
	return ""
}

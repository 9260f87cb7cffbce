package handler_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
)

// Users of the matrix beside admin, who holds every privilege. Their passwords
// are their names with "'s secret" behind.
var accessPrivileges = map[string][]csr.Privilege{
	"admin":    csr.Privileges(),
	"nobody":   nil,
	"hosts":    {csr.SecurityManagement},
	"onlooker": {csr.SecurityRead},
	"viewer":   {csr.PolicyCertificateRead},
	"editor":   {csr.PolicyCertificateCRUD},
	"signer":   {csr.AttestationSign},
	"auditor":  {csr.AuditRead},
	"leaver":   csr.Privileges(), // who is removed when a test says so
}

// identity is whom a request speaks for in one dialect. The zero value is nobody.
type identity struct {
	user      string
	bySession bool
	guarded   bool // a session that changes nothing, since its token is missing
}

// caller is one kind of sender: what it sends with a request, made anew for each
// since requests end sessions, and whom it is in each dialect.
type caller struct {
	name              string
	esx, nsx, transit identity
	page              identity // on the paths of the session of our own pages
	make              func(m *matrix) http.Header
}

func basicHeader(user, password string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}}
}

func headers(namesAndValues ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(namesAndValues); i += 2 {
		h.Add(namesAndValues[i], namesAndValues[i+1])
	}
	return h
}

// Headers of sessions, as clients send them.
func esxHeader(id string) http.Header { return headers("vmware-api-session-id", id) }
func esxCookie(id string) http.Header { return headers("Cookie", "vmware-api-session-id="+id) }
func nsxCookie(id, token string) http.Header {
	return headers("Cookie", "JSESSIONID="+id, "X-XSRF-TOKEN", token)
}
func bareCookie(id string) http.Header  { return headers("Cookie", "JSESSIONID="+id) }
func tokenHeader(id string) http.Header { return headers("X-Vault-Token", id) }
func bearer(id string) http.Header      { return headers("Authorization", "Bearer "+id) }

func consoleCookie(id string) http.Header {
	return headers("X-Attestcsr-Console", "1", "Cookie", "__Host-attestcsr-console="+id)
}

func together(all ...http.Header) http.Header {
	merged := http.Header{}
	for _, h := range all {
		for name, values := range h {
			merged[name] = append(merged[name], values...)
		}
	}
	return merged
}

// still makes a caller that sends the same every time.
func still(name string, h http.Header) caller {
	return caller{name: name, make: func(*matrix) http.Header { return h }}
}

func accessCallers() []caller {
	var (
		noID     = strings.Repeat("0", 64)
		admin    = identity{user: "admin"}
		inherits = func(user string) identity { return identity{user: user, bySession: true} }
	)
	callers := []caller{
		still("none", nil),
		still("names in headers that proxies set", headers("X-Remote-User", "admin", "X-Forwarded-User", "admin", "X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1")),
		still("another path in headers that proxies set", headers("X-Original-URL", "/healthz", "X-Rewrite-URL", "/healthz")),
		still("Bearer", headers("Authorization", "Bearer "+noID)),
		still("empty Authorization", headers("Authorization", "")),
		still("Basic without a colon", headers("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("admin")))),
		still("Basic that is no base64", headers("Authorization", "Basic admin:"+adminPassword)),
		still("two Authorization lines", together(basicHeader("admin", adminPassword), basicHeader("admin", adminPassword))),
		still("wrong password", basicHeader("admin", "wrong")),
		still("empty password", basicHeader("admin", "")),
		still("unknown user", basicHeader("eve", adminPassword)),
		still("letter case of the user", basicHeader("Admin", adminPassword)),
		still("the hash as password", basicHeader("admin", "$2a$04$")),
		still("unknown sessions", together(esxHeader(noID), nsxCookie(noID, noID), tokenHeader(noID))),
		still("session ids that are none", together(esxHeader("../x"), bareCookie(`"`))),
		still("a token without a cookie", headers("X-XSRF-TOKEN", noID)),
		{name: "password", esx: admin, nsx: admin, make: func(*matrix) http.Header { return basicHeader("admin", adminPassword) }},
	}
	callers = append(callers, sessionCallers()...)
	callers = append(callers, consoleCallers()...)
	for _, user := range []string{"nobody", "hosts", "onlooker", "viewer", "editor", "signer", "auditor"} {
		who := identity{user: user}
		callers = append(callers,
			caller{name: "password of " + user, esx: who, nsx: who, make: func(*matrix) http.Header { return basicHeader(user, passwordOf(user)) }},
			caller{name: "session of " + user, esx: inherits(user), make: func(m *matrix) http.Header { return esxHeader(m.login(user, inESX).Session) }},
			caller{name: "cookie and token of " + user, nsx: inherits(user), make: func(m *matrix) http.Header {
				l := m.login(user, inNSX)
				return nsxCookie(l.Session, l.XSRF)
			}},
			inEach("page of "+user, inherits(user), func(m *matrix) http.Header { return consoleCookie(m.login(user, inPage).Session) }),
			caller{name: "token of " + user, transit: inherits(user), make: func(m *matrix) http.Header { return tokenHeader(m.login(user, inTransit).Session) }},
		)
	}
	return callers
}

func passwordOf(user string) string {
	if user == "admin" {
		return adminPassword
	}
	return user + "'s secret"
}

// sessionCallers are admin's sessions, and what is left of them.
func sessionCallers() []caller {
	esx := func(m *matrix) string { return m.login("admin", inESX).Session }
	nsx := func(m *matrix) auth.Login { return m.login("admin", inNSX) }
	token := func(m *matrix) string { return m.login("admin", inTransit).Session }
	admin := identity{user: "admin", bySession: true}
	unguarded := identity{user: "admin", bySession: true, guarded: true}
	return []caller{
		{name: "session in the header", esx: admin, make: func(m *matrix) http.Header { return esxHeader(esx(m)) }},
		{name: "session in the cookie", esx: admin, make: func(m *matrix) http.Header { return esxCookie(esx(m)) }},
		{name: "cookie and token", nsx: admin, make: func(m *matrix) http.Header { l := nsx(m); return nsxCookie(l.Session, l.XSRF) }},
		{name: "sessions of both dialects", esx: admin, nsx: admin, make: func(m *matrix) http.Header {
			l := nsx(m)
			return together(esxHeader(esx(m)), nsxCookie(l.Session, l.XSRF))
		}},
		{name: "cookie without token", nsx: unguarded, make: func(m *matrix) http.Header { return bareCookie(nsx(m).Session) }},
		{name: "cookie with the token of another session", nsx: unguarded, make: func(m *matrix) http.Header { return nsxCookie(nsx(m).Session, nsx(m).XSRF) }},
		{name: "cookie with its id as token", nsx: unguarded, make: func(m *matrix) http.Header { id := nsx(m).Session; return nsxCookie(id, id) }},
		{name: "cookie with two tokens", nsx: unguarded, make: func(m *matrix) http.Header {
			l := nsx(m)
			return together(nsxCookie(l.Session, l.XSRF), headers("X-XSRF-TOKEN", l.XSRF))
		}},
		{name: "two session headers", make: func(m *matrix) http.Header { return together(esxHeader(esx(m)), esxHeader(esx(m))) }},
		{name: "two cookies of the name", make: func(m *matrix) http.Header {
			l := nsx(m)
			return headers("Cookie", "JSESSIONID="+l.Session+"; JSESSIONID="+l.Session, "X-XSRF-TOKEN", l.XSRF)
		}},
		{name: "session id as Bearer", make: func(m *matrix) http.Header { return headers("Authorization", "Bearer "+esx(m)) }},
		{name: "session id in letter case", make: func(m *matrix) http.Header { return esxHeader(strings.ToUpper(esx(m))) }},
		{name: "wrong password beside good sessions", make: func(m *matrix) http.Header {
			l := nsx(m)
			return together(basicHeader("admin", "wrong"), esxHeader(esx(m)), nsxCookie(l.Session, l.XSRF))
		}},
		{name: "password beside a bad session", esx: identity{user: "admin"}, nsx: identity{user: "admin"}, make: func(*matrix) http.Header {
			return together(basicHeader("admin", adminPassword), esxHeader("x"), bareCookie("x"))
		}},
		{name: "session of the other dialect", make: func(m *matrix) http.Header {
			l := nsx(m)
			return together(esxHeader(l.Session), nsxCookie(esx(m), l.XSRF), tokenHeader(esx(m)))
		}},
		{name: "token", transit: admin, make: func(m *matrix) http.Header { return tokenHeader(token(m)) }},
		{name: "token as Bearer", transit: admin, make: func(m *matrix) http.Header { return bearer(token(m)) }},
		{name: "token beside a wrong password", transit: admin, make: func(m *matrix) http.Header {
			return together(tokenHeader(token(m)), basicHeader("admin", "wrong"))
		}},
		{name: "bad token beside a good one as Bearer", make: func(m *matrix) http.Header { return together(tokenHeader("x"), bearer(token(m))) }},
		{name: "two tokens", make: func(m *matrix) http.Header { return together(tokenHeader(token(m)), tokenHeader(token(m))) }},
		{name: "two tokens as Bearer", make: func(m *matrix) http.Header { return together(bearer(token(m)), bearer(token(m))) }},
		{name: "token in the other headers and cookies", make: func(m *matrix) http.Header {
			return together(esxHeader(token(m)), bareCookie(token(m)), headers("Authorization", "Token "+token(m)))
		}},
		{name: "idle sessions", make: func(m *matrix) http.Header { return m.eachThen(func() { m.clock.Advance(m.idle) }) }},
		{name: "sessions at the end of their life", make: func(m *matrix) http.Header { return m.eachThen(m.liveOn) }},
		{name: "logged-out sessions", make: func(m *matrix) http.Header { return m.eachThen(m.logOut) }},
		{name: "sessions of a user who was removed", make: func(m *matrix) http.Header {
			m.auth.SetUsers(m.users)
			h := m.each("leaver")
			m.auth.SetUsers(m.remaining)
			return h
		}},
		{name: "remembered password of a user who was removed", make: func(m *matrix) http.Header {
			m.auth.SetUsers(m.users)
			m.login("leaver", inESX)
			m.auth.SetUsers(m.remaining)
			return basicHeader("leaver", passwordOf("leaver"))
		}},
	}
}

// inEach is a caller whom every dialect takes for the same.
func inEach(name string, who identity, sent func(*matrix) http.Header) caller {
	return caller{name, who, who, who, who, sent}
}

// consoleCallers are our own pages, with sessions of admin.
func consoleCallers() []caller {
	session := func(m *matrix) http.Header { return consoleCookie(m.login("admin", inPage).Session) }
	others := func(m *matrix, user string) http.Header {
		l := m.login(user, inNSX)
		return together(esxCookie(m.login(user, inESX).Session), nsxCookie(l.Session, l.XSRF))
	}
	page := headers("X-Attestcsr-Console", "1")
	admin, viewer := identity{user: "admin", bySession: true}, identity{user: "viewer"}
	viewing := identity{user: "viewer", bySession: true}
	without := func(m *matrix) http.Header { return http.Header{"Cookie": session(m)["Cookie"]} }
	return []caller{
		inEach("page", admin, session),
		inEach("page beside sessions in other cookies", admin, func(m *matrix) http.Header { return together(others(m, "viewer"), session(m)) }),
		inEach("page without a session", identity{}, func(*matrix) http.Header { return page }),
		inEach("page with sessions in other cookies alone", identity{}, func(m *matrix) http.Header { return together(page, others(m, "admin")) }),
		inEach("session of a page without its header", identity{}, without),
		inEach("session of a page with another header", identity{}, func(m *matrix) http.Header { return together(without(m), headers("X-Attestcsr-Console", "0")) }),
		inEach("page with two cookies of the name", identity{}, func(m *matrix) http.Header { return together(session(m), without(m)) }),
		inEach("page with a wrong password", identity{}, func(m *matrix) http.Header { return together(session(m), basicHeader("admin", "wrong")) }),
		{name: "page with a password of another", esx: viewer, nsx: viewer, page: viewer, make: func(m *matrix) http.Header {
			return together(session(m), basicHeader("viewer", passwordOf("viewer")))
		}},
		{name: "page with a session header of another", esx: viewing, make: func(m *matrix) http.Header {
			return together(session(m), others(m, "admin"), esxHeader(m.login("viewer", inESX).Session))
		}},
		{name: "page with a token of another", transit: viewing, make: func(m *matrix) http.Header {
			return together(session(m), others(m, "admin"), tokenHeader(m.login("viewer", inTransit).Session))
		}},
		inEach("page with another dialect's session in its cookie", identity{}, func(m *matrix) http.Header { return consoleCookie(m.login("admin", inNSX).Session) }),
		inEach("page that was idle", identity{}, func(m *matrix) http.Header {
			h := session(m)
			m.clock.Advance(m.idle)
			return h
		}),
		inEach("page of a user who was removed", identity{}, func(m *matrix) http.Header {
			m.auth.SetUsers(m.users)
			h := consoleCookie(m.login("leaver", inPage).Session)
			m.auth.SetUsers(m.remaining)
			return h
		}),
	}
}

// each makes a session of each dialect.
func (m *matrix) each(user string) http.Header {
	l := m.login(user, inNSX)
	return together(esxHeader(m.login(user, inESX).Session), nsxCookie(l.Session, l.XSRF), tokenHeader(m.login(user, inTransit).Session))
}

// eachThen makes sessions of admin in each dialect to which something happens.
func (m *matrix) eachThen(happens func()) http.Header {
	m.made = m.each("admin")
	happens()
	return m.made
}

// liveOn uses the sessions just made until their life is over, never idle for
// long.
func (m *matrix) liveOn() {
	for range m.lifetime/(m.idle/2) - 1 {
		m.clock.Advance(m.idle / 2)
		m.use(m.made)
	}
	m.clock.Advance(m.idle / 2)
}

// logOut ends the sessions just made.
func (m *matrix) logOut() {
	for path, realm := range realms {
		if _, err := m.auth.Logout(requestWith(m.t, path, m.made), audit.Request{}, realm); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *matrix) use(h http.Header) {
	for path, realm := range realms {
		if _, err := m.auth.Session(requestWith(m.t, path, h), audit.Request{}, realm); err != nil {
			m.t.Fatalf("a session ended early: %v", err)
		}
	}
}

var (
	esxRealm = auth.Realm{Dialect: "esx", SessionHeader: "vmware-api-session-id", SessionCookie: "vmware-api-session-id"}
	nsxRealm = auth.Realm{Dialect: "nsx", SessionCookie: "JSESSIONID", XSRFHeader: "X-XSRF-TOKEN"}
	tokens   = auth.Realm{Dialect: "transit", SessionHeader: "X-Vault-Token", Bearer: true}
	// realms are all of them, by a path of each.
	realms = map[string]auth.Realm{sessionPath: esxRealm, logoutPath: nsxRealm, lookupPath: tokens}
)

// login makes a session as the handler would: the sessions of the matrix are too
// many to make each by a request.
func (m *matrix) login(user string, d dialect) auth.Login {
	m.t.Helper()
	realm := esxRealm
	if d.name == inPage.name {
		realm = auth.Console()
	}
	for _, other := range realms {
		if d.name == other.Dialect {
			realm = other
		}
	}
	made, err := m.auth.LoginPassword(m.t.Context(), user, passwordOf(user), audit.Request{Address: "127.0.0.1"}, realm)
	if err != nil {
		m.t.Fatal(err)
	}
	return made
}

func requestWith(t testing.TB, path string, h http.Header) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = h
	return r
}

package auth_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

func TestXSRF(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	// headerToo is a realm whose sessions come in a header as well, which no other
	// site can make a browser send.
	headerToo := auth.Realm{Dialect: "both", SessionHeader: "session", SessionCookie: "JSESSIONID", XSRFHeader: "X-XSRF-TOKEN"}
	amy, again, bob, both, plain := begin(t, a, "amy", "secret", nsx), begin(t, a, "amy", "secret", nsx), begin(t, a, "bob", "hidden", nsx), begin(t, a, "amy", "secret", headerToo), begin(t, a, "amy", "secret", esx)
	var (
		cookie = "Cookie: JSESSIONID=" + amy.Session
		token  = "X-XSRF-TOKEN: " + amy.XSRF
	)
	authenticateEach(t, a, []authCase{
		{"GET", "GET", []string{cookie}, nsx, "amy by session"},
		{"GET with a wrong token", "GET", []string{cookie, "X-XSRF-TOKEN: x"}, nsx, "amy by session"},
		{"HEAD", "HEAD", []string{cookie}, nsx, "amy by session"},
		{"POST", "POST", []string{cookie}, nsx, "forged"},
		{"DELETE", "DELETE", []string{cookie}, nsx, "forged"},
		{"a method of nobody", "BREW", []string{cookie}, nsx, "forged"},
		{"get in small letters", "get", []string{cookie}, nsx, "forged"},
		{"POST with the token", "POST", []string{cookie, token}, nsx, "amy by session"},
		{"empty token", "POST", []string{cookie, "X-XSRF-TOKEN: "}, nsx, "forged"},
		{"token with something after", "POST", []string{cookie, token + "0"}, nsx, "forged"},
		{"token of nobody", "POST", []string{cookie, "X-XSRF-TOKEN: " + strings.Repeat("0", 64)}, nsx, "forged"},
		{"token of another session of the user", "POST", []string{cookie, "X-XSRF-TOKEN: " + again.XSRF}, nsx, "forged"},
		{"token of another user", "POST", []string{cookie, "X-XSRF-TOKEN: " + bob.XSRF}, nsx, "forged"},
		{"the id as token", "POST", []string{cookie, "X-XSRF-TOKEN: " + amy.Session}, nsx, "forged"},
		{"the token twice", "POST", []string{cookie, token, token}, nsx, "forged"},
		{"token in a cookie", "POST", []string{cookie + "; X-XSRF-TOKEN=" + amy.XSRF}, nsx, "forged"},
		{"token as session", "GET", []string{"Cookie: JSESSIONID=" + amy.XSRF}, nsx, "unauthenticated"},
		{"no session, no token", "POST", nil, nsx, "unauthenticated"},
		{"unknown session, no token", "POST", []string{"Cookie: JSESSIONID=" + strings.Repeat("0", 64)}, nsx, "unauthenticated"},
		{"session of the other dialect", "POST", []string{"Cookie: JSESSIONID=" + plain.Session}, nsx, "unauthenticated"},
		{"in the other dialect", "POST", []string{"vmware-api-session-id: " + amy.Session, token}, esx, "unauthenticated"},
		{"the other dialect asks for none", "POST", []string{"Cookie: vmware-api-session-id=" + plain.Session}, esx, "amy by session"},
		{"password beside the cookie", "POST", []string{cookie, basic("amy", "secret")}, nsx, "amy by basic"},
		{"wrong password beside cookie and token", "POST", []string{cookie, token, basic("amy", "wrong")}, nsx, "unauthenticated"},
		{"session in a header", "POST", []string{"session: " + both.Session}, headerToo, "amy by session"},
		{"the same in a cookie", "POST", []string{"Cookie: JSESSIONID=" + both.Session}, headerToo, "forged"},
	})
}

// A request that is refused, since it is forged or in another dialect, neither keeps
// a session alive nor ends it.
func TestForgedRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), Now: clock.Now})
	id := login(t, a, "amy", "secret", nsx)
	forged := as(http.MethodPost, request("Cookie: JSESSIONID="+id))
	refused := func() {
		t.Helper()
		_, err := a.Authenticate(t.Context(), forged, from(here), nsx)
		wantKind(t, err, csr.Forged)
		for _, use := range []func(*http.Request, audit.Request, auth.Realm) (auth.Session, error){a.Session, a.Logout} {
			_, err = use(forged, from(here), nsx)
			wantKind(t, err, csr.Forged)
			_, err = use(bySession(id), from(here), esx)
			wantKind(t, err, csr.Unauthenticated)
		}
	}
	clock.Advance(20 * time.Minute)
	refused()
	clock.Advance(10*time.Minute - time.Millisecond)
	if ended(t, a, id, nsx) {
		t.Fatal("a refused request ended the session")
	}
	clock.Advance(20 * time.Minute)
	refused()
	clock.Advance(10 * time.Minute)
	_, err := a.Authenticate(t.Context(), forged, from(here), nsx)
	wantKind(t, err, csr.Unauthenticated) // the session's end is found before the token is looked at
}

func TestLoginPassword(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("p", 1024)
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", long[:72])})
	counted := count(a, 0)
	tests := []struct {
		name, user, password string
		ok                   bool
		comparisons          int
	}{
		{"right", "amy", "secret", true, 1},
		{"wrong password", "amy", "wrong", false, 1},
		{"unknown user", "eve", "secret", false, 1},
		{"longest password", "bob", long, true, 1},
		{"no user", "", "secret", false, 0},
		{"control character in the user", "amy\n", "secret", false, 0},
		{"password too long", "bob", long + "p", false, 0},
	}
	for _, tt := range tests {
		made, err := a.LoginPassword(t.Context(), tt.user, tt.password, from(here), nsx)
		if n := len(counted.runs()); n != tt.comparisons {
			t.Errorf("%s: %d comparisons, want %d", tt.name, n, tt.comparisons)
		}
		if !tt.ok {
			wantKind(t, err, csr.Unauthenticated)
			if made != (auth.Login{}) {
				t.Errorf("%s: a login beside an error", tt.name)
			}
			continue
		}
		if err != nil || made.User != tt.user || ended(t, a, made.Session, nsx) {
			t.Errorf("%s: %q, %v", tt.name, made.User, err)
		}
	}
}

// Wrong passwords of the form and of Basic are counted together, and those that
// there cannot be are not counted.
func TestLoginPasswordIsThrottled(t *testing.T) {
	inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
		guess(t, a, 10, "amy", here)
		for range 10 {
			_, err := a.LoginPassword(t.Context(), "", "secret", from(here), nsx)
			wantKind(t, err, csr.Unauthenticated)
			_, err = a.LoginPassword(t.Context(), "amy", "wrong", from(here), nsx)
			wantKind(t, err, csr.Unauthenticated)
		}
		_, err := a.LoginPassword(t.Context(), "amy", "secret", from(here), nsx)
		wantKind(t, err, csr.Busy)
		wantThrottled(t, a, "amy", "secret", here)
		if n := attempts(t, a, "form", "throttled"); n != 1 {
			t.Fatalf("%v throttled logins counted, want 1", n)
		}
		if _, err := a.LoginPassword(t.Context(), "amy", "secret", from(elsewhere), nsx); err != nil {
			t.Fatal(err)
		}
	})
}

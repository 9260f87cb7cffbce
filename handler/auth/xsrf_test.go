package auth_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/handler/auth"
)

func TestXSRF(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	begin := func(user, password string, realm auth.Realm) auth.Login {
		t.Helper()
		made, err := a.LoginPassword(t.Context(), user, password, here, realm)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	// headerToo is a realm whose sessions come in a header as well, which no other
	// site can make a browser send.
	headerToo := auth.Realm{Dialect: "both", SessionHeader: "session", SessionCookie: "JSESSIONID", XSRFHeader: "X-XSRF-TOKEN"}
	amy, again, bob, both, plain := begin("amy", "secret", nsx), begin("amy", "secret", nsx), begin("bob", "hidden", nsx), begin("amy", "secret", headerToo), begin("amy", "secret", esx)
	var (
		cookie = "Cookie: JSESSIONID=" + amy.Session
		token  = "X-XSRF-TOKEN: " + amy.XSRF
		good   = csr.Kind(-1)
	)
	tests := []struct {
		name    string
		method  string
		headers []string
		realm   auth.Realm
		want    csr.Kind
	}{
		{"GET", "GET", []string{cookie}, nsx, good},
		{"GET with a wrong token", "GET", []string{cookie, "X-XSRF-TOKEN: x"}, nsx, good},
		{"HEAD", "HEAD", []string{cookie}, nsx, good},
		{"POST", "POST", []string{cookie}, nsx, csr.Forged},
		{"PUT", "PUT", []string{cookie}, nsx, csr.Forged},
		{"PATCH", "PATCH", []string{cookie}, nsx, csr.Forged},
		{"DELETE", "DELETE", []string{cookie}, nsx, csr.Forged},
		{"a method of nobody", "BREW", []string{cookie}, nsx, csr.Forged},
		{"get in small letters", "get", []string{cookie}, nsx, csr.Forged},
		{"POST with the token", "POST", []string{cookie, token}, nsx, good},
		{"DELETE with the token", "DELETE", []string{cookie, token}, nsx, good},
		{"empty token", "POST", []string{cookie, "X-XSRF-TOKEN: "}, nsx, csr.Forged},
		{"token cut short", "POST", []string{cookie, token[:len(token)-1]}, nsx, csr.Forged},
		{"token with something after", "POST", []string{cookie, token + "0"}, nsx, csr.Forged},
		{"token in upper case", "POST", []string{cookie, "X-XSRF-TOKEN: " + strings.ToUpper(amy.XSRF)}, nsx, csr.Forged},
		{"token of nobody", "POST", []string{cookie, "X-XSRF-TOKEN: " + strings.Repeat("0", 64)}, nsx, csr.Forged},
		{"token of another session of the user", "POST", []string{cookie, "X-XSRF-TOKEN: " + again.XSRF}, nsx, csr.Forged},
		{"token of another user", "POST", []string{cookie, "X-XSRF-TOKEN: " + bob.XSRF}, nsx, csr.Forged},
		{"the id as token", "POST", []string{cookie, "X-XSRF-TOKEN: " + amy.Session}, nsx, csr.Forged},
		{"the token twice", "POST", []string{cookie, token, token}, nsx, csr.Forged},
		{"token in a cookie", "POST", []string{cookie + "; X-XSRF-TOKEN=" + amy.XSRF}, nsx, csr.Forged},
		{"token as session", "GET", []string{"Cookie: JSESSIONID=" + amy.XSRF}, nsx, csr.Unauthenticated},
		{"no session, no token", "POST", nil, nsx, csr.Unauthenticated},
		{"no session, a token", "POST", []string{token}, nsx, csr.Unauthenticated},
		{"unknown session, no token", "POST", []string{"Cookie: JSESSIONID=" + strings.Repeat("0", 64)}, nsx, csr.Unauthenticated},
		{"session of the other dialect", "POST", []string{"Cookie: JSESSIONID=" + plain.Session}, nsx, csr.Unauthenticated},
		{"in the other dialect", "POST", []string{"vmware-api-session-id: " + amy.Session, token}, esx, csr.Unauthenticated},
		{"the other dialect asks for none", "POST", []string{"Cookie: vmware-api-session-id=" + plain.Session}, esx, good},
		{"password beside the cookie", "POST", []string{cookie, basic("amy", "secret")}, nsx, good},
		{"wrong password beside cookie and token", "POST", []string{cookie, token, basic("amy", "wrong")}, nsx, csr.Unauthenticated},
		{"session in a header", "POST", []string{"session: " + both.Session}, headerToo, good},
		{"the same in a cookie", "POST", []string{"Cookie: JSESSIONID=" + both.Session}, headerToo, csr.Forged},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			caller, err := a.Authenticate(t.Context(), as(tt.method, request(tt.headers...)), here, tt.realm)
			if tt.want != good {
				wantKind(t, err, tt.want)
				if caller.User != "" {
					t.Fatalf("caller %+v beside an error", caller)
				}
				return
			}
			if err != nil || caller.User != "amy" {
				t.Fatalf("caller %+v, %v", caller, err)
			}
		})
	}
}

// A forged request neither keeps a session alive nor ends it.
func TestForgedRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	clock := newClock()
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret"), Now: clock.now})
	id := login(t, a, "amy", "secret", nsx)
	forge := func() *http.Request { return as(http.MethodPost, request("Cookie: JSESSIONID="+id)) }
	clock.advance(20 * time.Minute)
	_, err := a.Authenticate(t.Context(), forge(), here, nsx)
	wantKind(t, err, csr.Forged)
	_, err = a.Session(forge(), nsx)
	wantKind(t, err, csr.Forged)
	_, err = a.Logout(forge(), nsx)
	wantKind(t, err, csr.Forged)
	clock.advance(10*time.Minute - time.Millisecond)
	if ended(t, a, id, nsx) {
		t.Fatal("a forged request ended the session")
	}
	clock.advance(20 * time.Minute)
	_, err = a.Authenticate(t.Context(), forge(), here, nsx)
	wantKind(t, err, csr.Forged)
	clock.advance(10 * time.Minute)
	_, err = a.Authenticate(t.Context(), forge(), here, nsx)
	wantKind(t, err, csr.Unauthenticated) // the session's end is found before the token is looked at
}

func TestTokens(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret")})
	seen := map[string]bool{}
	for range 3 {
		made, err := a.Login(t.Context(), request(basic("amy", "secret")), here, nsx)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{made.Session, made.XSRF} {
			if raw, err := hex.DecodeString(secret); err != nil || len(raw) != 32 || seen[secret] {
				t.Fatalf("%q is not 256 new bits in hexadecimal", secret)
			}
			seen[secret] = true
		}
		sum := sha256.Sum256([]byte(made.XSRF))
		if !containsToken(a, sum[:]) {
			t.Fatal("the store does not keep the SHA-256 of the token")
		}
	}
}

func containsToken(a *auth.Authenticator, sum []byte) bool {
	for _, token := range a.TokenDigests() {
		if bytes.Equal(token, sum) {
			return true
		}
	}
	return false
}

func TestLoginPassword(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("p", 1024)
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret", "bob", long[:72])})
	counted := count(a, 0)
	tests := []struct {
		name, user, password string
		ok                   bool
		comparisons          int
	}{
		{"right", "amy", "secret", true, 1},
		{"right again", "amy", "secret", true, 0},
		{"wrong password", "amy", "wrong", false, 1},
		{"empty password", "amy", "", false, 1},
		{"unknown user", "eve", "secret", false, 1},
		{"longest password", "bob", long, true, 1},
		{"no user", "", "secret", false, 0},
		{"user too long", strings.Repeat("u", 256), "secret", false, 0},
		{"user not UTF-8", "amy\xff", "secret", false, 0},
		{"control character in the user", "amy\n", "secret", false, 0},
		{"password too long", "bob", long + "p", false, 0},
		{"password not UTF-8", "amy", "secret\xff", false, 0},
	}
	for _, tt := range tests { // in order: the second depends on the first
		made, err := a.LoginPassword(t.Context(), tt.user, tt.password, here, nsx)
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
			_, err := a.LoginPassword(t.Context(), "", "secret", here, nsx)
			wantKind(t, err, csr.Unauthenticated)
			_, err = a.LoginPassword(t.Context(), "amy", "wrong", here, nsx)
			wantKind(t, err, csr.Unauthenticated)
		}
		_, err := a.LoginPassword(t.Context(), "amy", "secret", here, nsx)
		wantKind(t, err, csr.Busy)
		wantThrottled(t, a, "amy", "secret", here)
		if n := attempts(t, a, "form", "throttled"); n != 1 {
			t.Fatalf("%v throttled logins counted, want 1", n)
		}
		if _, err := a.LoginPassword(t.Context(), "amy", "secret", elsewhere, nsx); err != nil {
			t.Fatal(err)
		}
	})
}

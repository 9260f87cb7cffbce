package auth_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/handler/auth"
)

// The first of Authorization, session header and session cookie that is present
// decides alone.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	var (
		amy      = basic("amy", "secret")
		bad      = basic("amy", "wrong")
		header   = "vmware-api-session-id: " + login(t, a, "bob", "hidden", esx)
		cookie   = "Cookie: vmware-api-session-id=" + login(t, a, "amy", "secret", esx)
		badID    = strings.Repeat("0", 64)
		badHdr   = "vmware-api-session-id: " + badID
		nsxID    = login(t, a, "amy", "secret", nsx)
		bearer   = "Authorization: Bearer token"
		unparsed = "Authorization: Basic !"
	)
	authenticateEach(t, a, []authCase{
		{"nothing", "GET", nil, esx, "unauthenticated"},
		{"basic", "GET", []string{amy}, esx, "amy by basic"},
		{"header", "GET", []string{header}, esx, "bob by session"},
		{"cookie", "GET", []string{cookie}, esx, "amy by session"},
		{"basic before header and cookie", "GET", []string{header, cookie, amy}, esx, "amy by basic"},
		{"header before cookie", "GET", []string{cookie, header}, esx, "bob by session"},
		{"wrong password beside good sessions", "GET", []string{bad, header, cookie}, esx, "unauthenticated"},
		{"unparsable header beside good sessions", "GET", []string{unparsed, header, cookie}, esx, "unauthenticated"},
		{"unknown scheme beside good sessions", "GET", []string{bearer, header, cookie}, esx, "unauthenticated"},
		{"empty Authorization beside good sessions", "GET", []string{"Authorization: ", header}, esx, "unauthenticated"},
		{"two Authorization headers", "GET", []string{amy, amy}, esx, "unauthenticated"},
		{"bad header beside a good cookie", "GET", []string{badHdr, cookie}, esx, "unauthenticated"},
		{"empty header beside a good cookie", "GET", []string{"vmware-api-session-id: ", cookie}, esx, "unauthenticated"},
		{"two session headers", "GET", []string{header, header}, esx, "unauthenticated"},
		{"two cookies", "GET", []string{cookie + "; vmware-api-session-id=" + badID}, esx, "unauthenticated"},
		{"id in upper case", "GET", []string{strings.ToUpper(header)}, esx, "unauthenticated"},
		{"id with something after", "GET", []string{header + "0"}, esx, "unauthenticated"},
		{"the other dialect's session", "GET", []string{"vmware-api-session-id: " + nsxID}, esx, "unauthenticated"},
		{"the other dialect's session there", "GET", []string{"Cookie: JSESSIONID=" + nsxID}, nsx, "amy by session"},
		{"header in a dialect without one", "GET", []string{header}, nsx, "unauthenticated"},
		{"realm without sessions", "GET", []string{header, cookie}, auth.Realm{}, "unauthenticated"},
		{"basic in a realm without sessions", "GET", []string{amy}, auth.Realm{}, "amy by basic"},
	})
}

// In a realm with Bearer, the session header comes before Authorization, which takes no
// passwords.
func TestPrecedenceOfTokens(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	id := func(user, password string) string {
		made, err := a.LoginPassword(t.Context(), user, password, from(here), tokens)
		if err != nil || made.Expires.IsZero() {
			t.Fatal(made, err)
		}
		return made.Session
	}
	var (
		header = "X-Vault-Token: " + id("bob", "hidden")
		bearer = "Authorization: Bearer " + id("amy", "secret")
		amy    = basic("amy", "secret")
		other  = "X-Vault-Token: " + login(t, a, "amy", "secret", esx)
	)
	authenticateEach(t, a, []authCase{
		{"nothing", "POST", nil, tokens, "unauthenticated"},
		{"header", "POST", []string{header}, tokens, "bob by session"},
		{"bearer", "POST", []string{bearer}, tokens, "amy by session"},
		{"bearer in lower case", "POST", []string{strings.Replace(bearer, "Bearer", "bearer", 1)}, tokens, "amy by session"},
		{"header before bearer", "POST", []string{bearer, header}, tokens, "bob by session"},
		{"header before a password", "POST", []string{amy, header}, tokens, "bob by session"},
		{"bad header beside a good bearer", "POST", []string{"X-Vault-Token: x", bearer}, tokens, "unauthenticated"},
		{"password", "POST", []string{amy}, tokens, "unauthenticated"},
		{"bearer beside a password", "POST", []string{amy, bearer}, tokens, "unauthenticated"},
		{"two headers", "POST", []string{header, header}, tokens, "unauthenticated"},
		{"two bearers", "POST", []string{bearer, bearer}, tokens, "unauthenticated"},
		{"no token", "POST", []string{"Authorization: Bearer"}, tokens, "unauthenticated"},
		{"two blanks", "POST", []string{strings.Replace(bearer, "Bearer ", "Bearer  ", 1)}, tokens, "unauthenticated"},
		{"the session of another dialect", "POST", []string{other}, tokens, "unauthenticated"},
		{"a token in another dialect", "GET", []string{bearer}, esx, "unauthenticated"},
		{"a token as the session of another dialect", "GET", []string{strings.Replace(header, "X-Vault-Token", "vmware-api-session-id", 1)}, esx, "unauthenticated"},
	})
	if got := auth.SessionID(request(header), tokens); "X-Vault-Token: "+got != header {
		t.Errorf("the id is %q", got)
	}
	if got := auth.SessionID(request(header, header), tokens); got != "" {
		t.Errorf("of two ids, %q", got)
	}
}

func TestPrivilegesAreLookedUpAtEachRequest(t *testing.T) {
	t.Parallel()
	var held []csr.Privilege
	a := newAuth(auth.Config{
		Users:      usersOf(t, "amy", "secret"),
		Privileges: func(string) []csr.Privilege { return held },
	})
	id := login(t, a, "amy", "secret", esx)
	for _, now := range [][]csr.Privilege{nil, {csr.SecurityManagement}, {csr.PolicyCertificateCRUD}} {
		held = now
		for _, header := range []string{basic("amy", "secret"), "vmware-api-session-id: " + id} {
			caller, err := a.Authenticate(t.Context(), request(header), from(here), esx)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(caller.Privileges, now) {
				t.Fatalf("privileges %v, want %v", caller.Privileges, now)
			}
		}
	}
}

// What an error says is the same whatever was wrong with the credentials.
func TestErrorsDoNotSayWhichPartWasWrong(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	expired := login(t, a, "bob", "hidden", esx)
	if _, err := a.Logout(request("vmware-api-session-id: "+expired), from(here), esx); err != nil {
		t.Fatal(err)
	}
	same := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			wantKind(t, err, csr.Unauthenticated)
			if err.Error() != errs[0].Error() {
				t.Errorf("%q and %q differ", err, errs[0])
			}
			for _, secret := range []string{"amy", "bob", "mallory", "wrong", "hidden", expired} {
				if strings.Contains(err.Error(), secret) && secret != "wrong" {
					t.Errorf("%q quotes credentials", err)
				}
			}
		}
	}
	same(try(a, "amy", "wrong", here), try(a, "mallory", "wrong", here), try(a, "amy", "hidden", here))
	var errs []error
	for _, id := range []string{expired, strings.Repeat("0", 64), "x", "", login(t, a, "amy", "secret", nsx)} {
		_, err := a.Authenticate(t.Context(), request("vmware-api-session-id: "+id), from(here), esx)
		errs = append(errs, err)
	}
	same(errs...)
}

func TestNobody(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{})
	counted := count(a, 0)
	a.Compare(func(hash, password []byte) error {
		// Cost 10 is slow under the race detector and not the point.
		return counted.run([]byte(strings.Replace(string(hash), "$10$", "$04$", 1)), password)
	})
	wantKind(t, try(a, "admin", "", here), csr.Unauthenticated)
	if len(counted.runs()) != 1 {
		t.Fatal("an unknown user was not compared with anything")
	}
	a.SetUsers(usersOf(t, "amy", "secret"))
	if err := try(a, "amy", "secret", here); err != nil {
		t.Fatal(err)
	}
	a.SetUsers(parse(t, ""))
	wantKind(t, try(a, "amy", "secret", here), csr.Unauthenticated)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret")})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a.Collectors()...)
	id := login(t, a, "amy", "secret", esx)    // basic, success
	ofNSX := login(t, a, "amy", "secret", nsx) // basic, success
	send := func(headers ...string) {
		_, _ = a.Authenticate(context.Background(), request(headers...), from(here), esx)
	}
	send()
	send(basic("amy", "wrong"))
	send("Authorization: Basic !")
	send("Authorization: Bearer x")
	send("vmware-api-session-id: " + id)
	send("vmware-api-session-id: x")
	_, _ = a.Session(request("vmware-api-session-id: "+id), from(here), esx)
	_, _ = a.Session(request(), from(here), esx)
	_, _ = a.Logout(request("vmware-api-session-id: "+id), from(here), esx)
	_, _ = a.Login(t.Context(), request("vmware-api-session-id: "+id), from(here), esx)
	_, _ = a.Authenticate(t.Context(), as(http.MethodPost, request("Cookie: JSESSIONID="+ofNSX)), from(here), nsx)
	_, _ = a.LoginPassword(t.Context(), "amy", "secret", from(here), esx)
	_, _ = a.LoginPassword(t.Context(), "amy", "wrong", from(here), esx)
	_, _ = a.LoginPassword(t.Context(), "", "secret", from(here), esx)

	all := 0
	for method, want := range map[string]map[string]float64{
		"basic":   {"success": 2, "failure": 2, "forged": 0, "throttled": 0, "busy": 0, "canceled": 0, "error": 0},
		"form":    {"success": 1, "failure": 2, "throttled": 0, "busy": 0, "canceled": 0, "error": 0},
		"session": {"success": 3, "failure": 2, "forged": 1},
		"other":   {"failure": 1, "forged": 0},
		"none":    {"failure": 2, "forged": 0},
	} {
		all += len(want)
		for outcome, n := range want {
			if got := attempts(t, a, method, outcome); got != n {
				t.Errorf("%s, %s: %v, want %v", method, outcome, got, n)
			}
		}
	}
	if n := testutil.CollectAndCount(a.Collectors()[0], "attestcsr_authentication_attempts_total"); n != all {
		t.Errorf("%d counters, want %d", n, all)
	}
	if n := testutil.ToFloat64(a.Collectors()[1]); n != 2 {
		t.Errorf("%v sessions, want 2", n)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v", problems, err)
	}
}

// attempts reads one counter.
func attempts(t testing.TB, a *auth.Authenticator, method, outcome string) float64 {
	t.Helper()
	return testutil.ToFloat64(a.Collectors()[0].(*prometheus.CounterVec).WithLabelValues(method, outcome))
}

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
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	var (
		amy      = basic("amy", "secret")
		bad      = basic("amy", "wrong")
		header   = "vmware-api-session-id: " + login(t, a, "bob", "hidden", esx)
		cookie   = "Cookie: vmware-api-session-id=" + login(t, a, "amy", "secret", esx)
		badID    = strings.Repeat("0", 64)
		badHdr   = "vmware-api-session-id: " + badID
		badCk    = "Cookie: vmware-api-session-id=" + badID
		nsxID    = login(t, a, "amy", "secret", nsx)
		bearer   = "Authorization: Bearer token"
		unparsed = "Authorization: Basic !"
	)
	tests := []struct {
		name    string
		headers []string
		realm   auth.Realm
		user    string // empty: refused
		method  string
	}{
		{"nothing", nil, esx, "", ""},
		{"basic", []string{amy}, esx, "amy", "basic"},
		{"header", []string{header}, esx, "bob", "session"},
		{"cookie", []string{cookie}, esx, "amy", "session"},
		{"basic before header and cookie", []string{header, cookie, amy}, esx, "amy", "basic"},
		{"header before cookie", []string{cookie, header}, esx, "bob", "session"},
		{"wrong password beside good sessions", []string{bad, header, cookie}, esx, "", ""},
		{"unparsable header beside good sessions", []string{unparsed, header, cookie}, esx, "", ""},
		{"unknown scheme beside good sessions", []string{bearer, header, cookie}, esx, "", ""},
		{"empty Authorization beside good sessions", []string{"Authorization: ", header}, esx, "", ""},
		{"two Authorization headers", []string{amy, amy}, esx, "", ""},
		{"Basic and another", []string{amy, bearer}, esx, "", ""},
		{"bad header beside a good cookie", []string{badHdr, cookie}, esx, "", ""},
		{"empty header beside a good cookie", []string{"vmware-api-session-id: ", cookie}, esx, "", ""},
		{"good header beside a bad cookie", []string{header, badCk}, esx, "bob", "session"},
		{"two session headers", []string{header, header}, esx, "", ""},
		{"two cookies", []string{cookie + "; vmware-api-session-id=" + badID}, esx, "", ""},
		{"id in upper case", []string{strings.ToUpper(header)}, esx, "", ""},
		{"id cut short", []string{header[:len(header)-1]}, esx, "", ""},
		{"id with something after", []string{header + "0"}, esx, "", ""},
		{"other cookies", []string{"Cookie: JSESSIONID=" + nsxID}, esx, "", ""},
		{"the other dialect's session", []string{"vmware-api-session-id: " + nsxID}, esx, "", ""},
		{"the other dialect's session there", []string{"Cookie: JSESSIONID=" + nsxID}, nsx, "amy", "session"},
		{"header in a dialect without one", []string{header}, nsx, "", ""},
		{"our session in the other dialect", []string{"Cookie: JSESSIONID=" + strings.Fields(header)[1]}, nsx, "", ""},
		{"realm without sessions", []string{header, cookie}, auth.Realm{}, "", ""},
		{"basic in a realm without sessions", []string{amy}, auth.Realm{}, "amy", "basic"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			caller, err := a.Authenticate(t.Context(), request(tt.headers...), here, tt.realm)
			if tt.user == "" {
				wantKind(t, err, csr.Unauthenticated)
				if caller.User != "" || caller.Privileges != nil {
					t.Fatalf("caller %+v beside an error", caller)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if caller.User != tt.user || caller.Method != tt.method || caller.Address != here {
				t.Fatalf("caller %+v, want %s by %s", caller, tt.user, tt.method)
			}
		})
	}
}

func TestPrivilegesAreLookedUpAtEachRequest(t *testing.T) {
	t.Parallel()
	var held []csr.Privilege
	a := auth.New(auth.Config{
		Users:      usersOf(t, "amy", "secret"),
		Privileges: func(string) []csr.Privilege { return held },
	})
	id := login(t, a, "amy", "secret", esx)
	for _, now := range [][]csr.Privilege{nil, {csr.SecurityManagement}, {csr.PolicyCertificateCRUD}} {
		held = now
		for _, header := range []string{basic("amy", "secret"), "vmware-api-session-id: " + id} {
			caller, err := a.Authenticate(t.Context(), request(header), here, esx)
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
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	expired := login(t, a, "bob", "hidden", esx)
	if _, err := a.Logout(request("vmware-api-session-id: "+expired), esx); err != nil {
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
		_, err := a.Authenticate(t.Context(), request("vmware-api-session-id: "+id), here, esx)
		errs = append(errs, err)
	}
	same(errs...)
}

func TestNobody(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{})
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
	a.SetUsers(nil)
	a.Compare(func([]byte, []byte) error { return nil })
	wantKind(t, try(a, "amy", "secret", here), csr.Unauthenticated)
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret")})
	registry := prometheus.NewPedanticRegistry()
	for _, c := range a.Collectors() {
		if err := registry.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	id := login(t, a, "amy", "secret", esx)    // basic, success
	ofNSX := login(t, a, "amy", "secret", nsx) // basic, success
	send := func(headers ...string) {
		_, _ = a.Authenticate(context.Background(), request(headers...), here, esx)
	}
	send()
	send(basic("amy", "wrong"))
	send("Authorization: Basic !")
	send("Authorization: Bearer x")
	send("vmware-api-session-id: " + id)
	send("vmware-api-session-id: x")
	_, _ = a.Session(request("vmware-api-session-id: "+id), esx)
	_, _ = a.Session(request(), esx)
	_, _ = a.Logout(request("vmware-api-session-id: "+id), esx)
	_, _ = a.Login(t.Context(), request("vmware-api-session-id: "+id), here, esx)
	_, _ = a.Authenticate(t.Context(), as(http.MethodPost, request("Cookie: JSESSIONID="+ofNSX)), here, nsx)
	_, _ = a.LoginPassword(t.Context(), "amy", "secret", here, esx)
	_, _ = a.LoginPassword(t.Context(), "amy", "wrong", here, esx)
	_, _ = a.LoginPassword(t.Context(), "", "secret", here, esx)

	want := `
# HELP attestcsr_authentication_attempts_total Requests by the kind of their credentials and what came of them.
# TYPE attestcsr_authentication_attempts_total counter
attestcsr_authentication_attempts_total{method="basic",outcome="busy"} 0
attestcsr_authentication_attempts_total{method="basic",outcome="canceled"} 0
attestcsr_authentication_attempts_total{method="basic",outcome="error"} 0
attestcsr_authentication_attempts_total{method="basic",outcome="failure"} 2
attestcsr_authentication_attempts_total{method="basic",outcome="success"} 2
attestcsr_authentication_attempts_total{method="basic",outcome="throttled"} 0
attestcsr_authentication_attempts_total{method="form",outcome="busy"} 0
attestcsr_authentication_attempts_total{method="form",outcome="canceled"} 0
attestcsr_authentication_attempts_total{method="form",outcome="error"} 0
attestcsr_authentication_attempts_total{method="form",outcome="failure"} 2
attestcsr_authentication_attempts_total{method="form",outcome="success"} 1
attestcsr_authentication_attempts_total{method="form",outcome="throttled"} 0
attestcsr_authentication_attempts_total{method="none",outcome="failure"} 2
attestcsr_authentication_attempts_total{method="other",outcome="failure"} 1
attestcsr_authentication_attempts_total{method="session",outcome="failure"} 2
attestcsr_authentication_attempts_total{method="session",outcome="forged"} 1
attestcsr_authentication_attempts_total{method="session",outcome="success"} 3
# HELP attestcsr_sessions Sessions that have not ended.
# TYPE attestcsr_sessions gauge
attestcsr_sessions 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Fatal(err)
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

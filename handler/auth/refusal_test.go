package auth_test

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
)

// reports collects what an Authenticator reports.
type reports[T any] struct {
	mu  sync.Mutex
	all []T
}

type refusals = reports[audit.Refusal]

func (r *reports[T]) add(one T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}

// take returns what was reported since the last call.
func (r *reports[T]) take() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// TestRefusals: each request that is refused is reported once, with what is known of
// it, the user only where there is one, and never a secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	var reported refusals
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), Refused: reported.add})
	at := audit.Request{RequestID: "r1", Address: here, Route: "GET /x"}
	session, guarded := login(t, a, "amy", "secret", esx), login(t, a, "amy", "secret", nsx)
	unknown := strings.Repeat("0", 64)
	type call func() error
	authenticate := func(method string, realm auth.Realm, headers ...string) call {
		return func() error {
			_, err := a.Authenticate(t.Context(), as(method, request(headers...)), at, realm)
			return err
		}
	}
	form := func(user, password string) call {
		return func() error { _, err := a.LoginPassword(t.Context(), user, password, at, nsx); return err }
	}
	logout := func(method string, realm auth.Realm, header string) call {
		return func() error { _, err := a.Logout(as(method, request(header)), at, realm); return err }
	}
	loginBySession := func() error {
		_, err := a.Login(t.Context(), request("vmware-api-session-id: "+session), at, esx)
		return err
	}
	for name, test := range map[string]struct {
		do                    call
		user, method, outcome string // no outcome: is no refusal
	}{
		"right password":      {do: authenticate("GET", esx, basic("amy", "secret"))},
		"right form":          {do: form("amy", "secret")},
		"session":             {do: authenticate("GET", esx, "vmware-api-session-id: "+session)},
		"nothing":             {authenticate("GET", esx), "", "none", "unauthenticated"},
		"wrong password":      {authenticate("GET", esx, basic("amy", "hunter2")), "amy", "basic", "unauthenticated"},
		"password as name":    {authenticate("GET", esx, basic("mistyped-password", "x")), "", "basic", "unauthenticated"},
		"not readable":        {authenticate("GET", esx, "Authorization: Basic hunter2"), "", "basic", "unauthenticated"},
		"other scheme":        {authenticate("GET", esx, "Authorization: Bearer hunter2"), "", "other", "unauthenticated"},
		"unknown session":     {authenticate("GET", esx, "vmware-api-session-id: "+unknown), "", "session", "unauthenticated"},
		"other dialect":       {authenticate("GET", nsx, "Cookie: JSESSIONID="+session), "", "session", "unauthenticated"},
		"no token":            {authenticate("POST", nsx, "Cookie: JSESSIONID="+guarded), "amy", "session", "forged"},
		"wrong token":         {authenticate("POST", nsx, "Cookie: JSESSIONID="+guarded, "X-XSRF-TOKEN: hunter2"), "amy", "session", "forged"},
		"form":                {form("amy", "hunter2"), "amy", "form", "unauthenticated"},
		"form of nobody":      {form("mistyped-password", "x"), "", "form", "unauthenticated"},
		"form that cannot be": {form("", "hunter2"), "", "form", "unauthenticated"},
		"login by session":    {loginBySession, "amy", "session", "unauthenticated"},
		"logout of nobody":    {logout("DELETE", esx, "vmware-api-session-id: "+unknown), "", "session", "unauthenticated"},
		"forged logout":       {logout("POST", nsx, "Cookie: JSESSIONID="+guarded), "amy", "session", "forged"},
	} {
		err := test.do()
		var want []audit.Refusal
		if test.outcome != "" {
			by := at
			by.User, by.Method = test.user, test.method
			want = []audit.Refusal{{Request: by, Outcome: test.outcome}}
		}
		// That nothing else is reported also means: no secret.
		if all := reported.take(); (err == nil) != (want == nil) || !slices.Equal(all, want) {
			t.Errorf("%s: %v, reported %+v, want %+v", name, err, all, want)
		}
	}
}

func TestThrottledIsReported(t *testing.T) {
	var reported refusals
	users := usersOf(t, "amy", "secret")
	inBubble(t, auth.Config{Users: users, Failures: 2, Refused: reported.add}, func(t *testing.T, a *auth.Authenticator) {
		guess(t, a, 2, "amy", here)
		wantThrottled(t, a, "amy", "wrong", here)
		all := reported.take()
		if len(all) != 3 || all[2].Outcome != "throttled" || all[2].User != "amy" || all[2].Address != here {
			t.Errorf("reported %+v", all)
		}
	})
}

// Logins and logouts are reported with their user, and with a digest of the session that
// is also in the requests of that session.
func TestLoginsAreReported(t *testing.T) {
	t.Parallel()
	var logins, logouts reports[audit.Request]
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), LoggedIn: logins.add, LoggedOut: logouts.add, SessionsPerUser: 2})
	at := audit.Request{RequestID: "r1", Address: here, Route: "POST /x"}
	for method, begin := range map[string]func(password string) (auth.Login, error){
		"basic": func(password string) (auth.Login, error) {
			return a.Login(t.Context(), request(basic("amy", password)), at, esx)
		},
		"form": func(password string) (auth.Login, error) {
			return a.LoginPassword(t.Context(), "amy", password, at, esx)
		},
	} {
		if _, err := begin("wrong"); err == nil {
			t.Error("a login with a wrong password")
		}
		made, err := begin("secret")
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(made.Session))
		want := at
		want.User, want.Method, want.Session = "amy", method, hex.EncodeToString(sum[:])[:16]
		if all := logins.take(); !slices.Equal(all, []audit.Request{want}) {
			t.Errorf("%s: logins %+v, want %+v", method, all, want)
		}
		want.Method = "session"
		session := request("vmware-api-session-id: " + made.Session)
		if caller, err := a.Authenticate(t.Context(), session, at, esx); err != nil || caller.Request != want {
			t.Errorf("%+v, %v, want %+v", caller.Request, err, want)
		}
		if _, err := a.Session(session, at, esx); err != nil {
			t.Error(err)
		}
		for range 2 { // the second ends nothing
			_, _ = a.Logout(session, at, esx)
		}
		if all := logouts.take(); !slices.Equal(all, []audit.Request{want}) {
			t.Errorf("%s: logouts %+v, want %+v", method, all, want)
		}
	}
	if caller, err := a.Authenticate(t.Context(), request(basic("amy", "secret")), at, esx); err != nil || caller.Session != "" {
		t.Errorf("%+v, %v", caller.Request, err)
	}
	for range 3 { // there is room for two
		_, _ = a.LoginPassword(t.Context(), "amy", "secret", at, esx)
	}
	if all := logins.take(); len(all) != 2 {
		t.Errorf("%d logins", len(all))
	}
}

package auth_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
)

// refusals collects what an Authenticator reports.
type refusals struct {
	mu  sync.Mutex
	all []audit.Refusal
}

func (r *refusals) add(one audit.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}

// take returns what was reported since the last call.
func (r *refusals) take() []audit.Refusal {
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

package auth_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
)

// refusals collects what an Authenticator tells of.
type refusals struct {
	mu  sync.Mutex
	all []audit.Refusal
}

func (r *refusals) add(one audit.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, one)
}

// take returns what was told since the last call.
func (r *refusals) take() []audit.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// TestRefusals: each request that is refused is told of once, with what is known of
// it, the user only where there is one, and never a secret.
func TestRefusals(t *testing.T) {
	t.Parallel()
	var told refusals
	a := auth.New(auth.Config{Users: usersOf(t, "amy", "secret"), Refused: told.add})
	at := audit.Request{ID: "r1", Address: here, Route: "GET /x"}
	ctx := audit.NewContext(t.Context(), at)
	session := login(t, a, "amy", "secret", esx)
	guarded, err := a.LoginPassword(ctx, "amy", "secret", here, nsx)
	if err != nil {
		t.Fatal(err)
	}
	if all := told.take(); len(all) > 0 {
		t.Fatalf("logins that succeed: %+v", all)
	}
	unknown := strings.Repeat("0", 64)
	secrets := []string{"hunter2", "secret", "mistyped-password", session, guarded.Session, guarded.XSRF, unknown}
	authenticate := func(method string, realm auth.Realm, headers ...string) func() error {
		return func() error {
			_, err := a.Authenticate(ctx, as(method, request(headers...)), here, realm)
			return err
		}
	}
	for name, test := range map[string]struct {
		do                    func() error
		user, method, outcome string // no outcome: is no refusal
	}{
		"right password":   {do: authenticate("GET", esx, basic("amy", "secret"))},
		"session":          {do: authenticate("GET", esx, "vmware-api-session-id: "+session)},
		"nothing":          {authenticate("GET", esx), "", "none", "unauthenticated"},
		"wrong password":   {authenticate("GET", esx, basic("amy", "hunter2")), "amy", "basic", "unauthenticated"},
		"password as name": {authenticate("GET", esx, basic("mistyped-password", "x")), "", "basic", "unauthenticated"},
		"not readable":     {authenticate("GET", esx, "Authorization: Basic hunter2"), "", "basic", "unauthenticated"},
		"other scheme":     {authenticate("GET", esx, "Authorization: Bearer hunter2"), "", "other", "unauthenticated"},
		"unknown session":  {authenticate("GET", esx, "vmware-api-session-id: "+unknown), "", "session", "unauthenticated"},
		"other dialect":    {authenticate("GET", nsx, "Cookie: JSESSIONID="+session), "", "session", "unauthenticated"},
		"no token":         {authenticate("POST", nsx, "Cookie: JSESSIONID="+guarded.Session), "amy", "session", "forged"},
		"wrong token":      {authenticate("POST", nsx, "Cookie: JSESSIONID="+guarded.Session, "X-XSRF-TOKEN: hunter2"), "amy", "session", "forged"},
		"form": {func() error { _, err := a.LoginPassword(ctx, "amy", "hunter2", here, nsx); return err },
			"amy", "form", "unauthenticated"},
		"form of nobody": {func() error { _, err := a.LoginPassword(ctx, "mistyped-password", "x", here, nsx); return err },
			"", "form", "unauthenticated"},
		"form that cannot be": {func() error { _, err := a.LoginPassword(ctx, "", "hunter2", here, nsx); return err },
			"", "form", "unauthenticated"},
		"login by session": {func() error {
			_, err := a.Login(ctx, request("vmware-api-session-id: "+session), here, esx)
			return err
		}, "amy", "session", "unauthenticated"},
		"logout of nobody": {func() error {
			_, err := a.Logout(request("vmware-api-session-id: "+unknown).WithContext(ctx), esx)
			return err
		}, "", "session", "unauthenticated"},
		"forged logout": {func() error {
			_, err := a.Logout(as(http.MethodPost, request("Cookie: JSESSIONID="+guarded.Session)).WithContext(ctx), nsx)
			return err
		}, "amy", "session", "forged"},
	} {
		err := test.do()
		all := told.take()
		if test.outcome == "" {
			if err != nil || len(all) > 0 {
				t.Errorf("%s: %v, told %+v", name, err, all)
			}
			continue
		}
		want := audit.Refusal{Request: at, User: test.user, Method: test.method, Outcome: test.outcome}
		if err == nil || !slices.Equal(all, []audit.Refusal{want}) {
			t.Errorf("%s: %v, told %+v, want %+v", name, err, all, want)
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s: %s holds %q", name, text, secret)
			}
		}
	}
}

func TestThrottledIsTold(t *testing.T) {
	var told refusals
	users := usersOf(t, "amy", "secret")
	inBubble(t, auth.Config{Users: users, UserFailures: 2, Refused: told.add}, func(t *testing.T, a *auth.Authenticator) {
		guess(t, a, 2, "amy", here)
		wantThrottled(t, a, "amy", "wrong", here)
		all := told.take()
		if len(all) != 3 || all[2].Outcome != "throttled" || all[2].User != "amy" || all[2].Address != here {
			t.Errorf("told %+v", all)
		}
	})
}

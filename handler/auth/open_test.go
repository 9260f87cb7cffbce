package auth_test

import (
	"slices"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// TestOpen: whoever the kernel has named has a session with every privilege, in one realm
// and for its lifetime. It survives a change of the users, and nobody gets a part of it by
// the name: neither with a password nor with an entry among the privileges.
func TestOpen(t *testing.T) {
	t.Parallel()
	const name, lifetime = "uid:0 (root)", 10 * time.Minute
	clock := kit.NewClock()
	var logins, logouts []audit.Request
	a := newAuth(auth.Config{
		Users: usersOf(t, "amy", "secret", "uid", "0 (root)"), Now: clock.Now,
		Privileges: func(user string) []csr.Privilege { return map[string][]csr.Privilege{"amy": {csr.SecurityRead}}[user] },
		LoggedIn:   func(r audit.Request) { logins = append(logins, r) }, LoggedOut: func(r audit.Request) { logouts = append(logouts, r) },
	})
	open := func(realm auth.Realm) auth.Login {
		t.Helper()
		made, err := a.Open(audit.Request{User: name, Method: "control"}, realm, lifetime)
		if err != nil || made.User != name || !made.Expires.Equal(clock.Now().Add(lifetime)) || (made.XSRF != "") != (realm.XSRFHeader != "") {
			t.Fatalf("%+v, %v", made, err)
		}
		return made
	}
	made := open(esx)
	caller, err := a.Authenticate(t.Context(), bySession(made.Session), from(here), esx)
	if err != nil || caller.User != name || caller.Method != "session" || !slices.Equal(caller.Privileges, csr.Privileges()) || caller.Keys != nil {
		t.Fatalf("%+v, %v", caller, err)
	}
	if len(logins) != 1 || logins[0].User != name || logins[0].Method != "control" || logins[0].Session != caller.Session {
		t.Errorf("logins %+v", logins)
	}
	if _, err := a.Authenticate(t.Context(), request("X-Vault-Token: "+made.Session), from(here), tokens); kindOf(err) != csr.Unauthenticated {
		t.Errorf("in another realm: %v", err)
	}
	a.SetUsers(usersOf(t, "bob", "hidden"))
	session, err := a.Session(bySession(made.Session), from(here), esx)
	if err != nil || !slices.Equal(session.Privileges, csr.Privileges()) {
		t.Errorf("after a change of users: %+v, %v", session, err)
	}
	for _, password := range []string{"", "0 (root)", "secret", made.Session} {
		if _, err := a.LoginPassword(t.Context(), name, password, from(here), nsx); kindOf(err) != csr.Unauthenticated {
			t.Errorf("a login under its name: %v", err)
		}
	}
	if _, err := a.Logout(bySession(made.Session), from(here), esx); err != nil || len(logouts) != 1 || !ended(t, a, made.Session, esx) {
		t.Errorf("%v, logouts %+v", err, logouts)
	}

	made = open(esx)
	for range 10 { // use does not make it longer
		clock.Advance(lifetime / 11)
		if ended(t, a, made.Session, esx) {
			t.Fatal("it ended early")
		}
	}
	clock.Advance(lifetime / 10)
	if !ended(t, a, made.Session, esx) {
		t.Error("it outlived its lifetime")
	}
	open(nsx)
}

// TestOpenAmongUsers: the sessions of users keep the privileges of their users, which are
// asked for at each request.
func TestOpenAmongUsers(t *testing.T) {
	t.Parallel()
	var held []csr.Privilege
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), Privileges: func(string) []csr.Privilege { return held }})
	id := login(t, a, "amy", "secret", esx)
	for _, held = range [][]csr.Privilege{nil, {csr.SecurityRead}, {}, csr.Privileges()} {
		caller, err := a.Authenticate(t.Context(), bySession(id), from(here), esx)
		if err != nil || !slices.Equal(caller.Privileges, held) {
			t.Errorf("%v, %v, want %v", caller.Privileges, err, held)
		}
		if session, err := a.Session(bySession(id), from(here), esx); err != nil || !slices.Equal(session.Privileges, held) {
			t.Errorf("%v, %v, want %v", session.Privileges, err, held)
		}
	}
}

package auth_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

func bySession(id string) *http.Request { return request("vmware-api-session-id: " + id) }

func TestLogin(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret")})
	first := login(t, a, "amy", "secret", esx)
	tests := []struct {
		name    string
		headers []string
		realm   auth.Realm
		ok      bool
	}{
		{"password", []string{basic("amy", "secret")}, esx, true},
		{"password beside a session", []string{basic("amy", "secret"), "vmware-api-session-id: " + first}, esx, true},
		{"in a realm with tokens", []string{basic("amy", "secret")}, nsx, true},
		{"again", []string{basic("amy", "secret")}, nsx, true},
		{"wrong password beside a session", []string{basic("amy", "wrong"), "vmware-api-session-id: " + first}, esx, false},
		{"session header", []string{"vmware-api-session-id: " + first}, esx, false},
		{"session cookie", []string{"Cookie: vmware-api-session-id=" + first}, esx, false},
		{"nothing", nil, esx, false},
		{"bearer", []string{"Authorization: Bearer token"}, esx, false},
		{"unparsable", []string{"Authorization: Basic !"}, esx, false},
	}
	seen := map[string]bool{first: true}
	for _, tt := range tests {
		made, err := a.Login(t.Context(), request(tt.headers...), from(here), tt.realm)
		if !tt.ok {
			wantKind(t, err, csr.Unauthenticated)
			if made != (auth.Login{}) {
				t.Fatalf("%s: a login beside an error", tt.name)
			}
			continue
		}
		if err != nil || made.User != "amy" || (made.XSRF != "") != (tt.realm.XSRFHeader != "") {
			t.Fatalf("%s: user %q, token %q, %v", tt.name, made.User, made.XSRF, err)
		}
		for _, secret := range []string{made.Session, made.XSRF} {
			if secret == "" {
				continue
			}
			if raw, err := hex.DecodeString(secret); err != nil || len(raw) != 32 || secret != strings.ToLower(secret) || seen[secret] {
				t.Fatalf("%s: %q is not 256 new bits in hexadecimal", tt.name, secret)
			}
			seen[secret] = true
		}
	}
	if ended(t, a, first, esx) {
		t.Fatal("a login ended an older session")
	}
	for secret := range seen {
		if sum := sha256.Sum256([]byte(secret)); !slices.Contains(a.SessionDigests(), sum) {
			t.Fatal("the store does not keep the SHA-256 of each id and token")
		}
	}
}

func TestSessionExpiry(t *testing.T) {
	t.Parallel()
	const tick = time.Millisecond
	tests := []struct {
		name           string
		idle, lifetime time.Duration
		accesses       []time.Duration // after the login, in order
		alive          []bool
	}{
		{"idle", 30 * time.Minute, 24 * time.Hour, []time.Duration{30*time.Minute - tick}, []bool{true}},
		{"idle too long", 30 * time.Minute, 24 * time.Hour, []time.Duration{30 * time.Minute}, []bool{false}},
		{"access counts", 30 * time.Minute, 24 * time.Hour, []time.Duration{29 * time.Minute, 58 * time.Minute, 88 * time.Minute}, []bool{true, true, false}},
		{"defaults", 0, 0, []time.Duration{30*time.Minute - tick, 60*time.Minute - 2*tick, 90 * time.Minute}, []bool{true, true, false}},
		{"lifetime", 30 * time.Minute, time.Hour, []time.Duration{25 * time.Minute, 50 * time.Minute, time.Hour - tick, time.Hour}, []bool{true, true, true, false}},
		{"lifetime under idle time", time.Hour, time.Minute, []time.Duration{time.Minute - tick, time.Minute}, []bool{true, false}},
		{"stays ended", time.Minute, time.Hour, []time.Duration{time.Minute, time.Minute + tick}, []bool{false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clock := kit.NewClock()
			a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), Now: clock.Now, IdleTimeout: tt.idle, Lifetime: tt.lifetime})
			start := clock.Now()
			id := login(t, a, "amy", "secret", esx)
			for i, at := range tt.accesses {
				clock.Advance(start.Add(at).Sub(clock.Now()))
				var err error
				if i%2 == 0 { // both ways to use a session count
					_, err = a.Authenticate(t.Context(), bySession(id), from(here), esx)
				} else {
					var session auth.Session
					session, err = a.Session(bySession(id), from(here), esx)
					if err == nil && (session.User != "amy" || !session.Created.Equal(start) || !session.LastAccessed.Equal(clock.Now()) || !session.Expires.After(clock.Now())) {
						t.Fatalf("session %+v", session)
					}
				}
				if alive := err == nil; alive != tt.alive[i] {
					t.Fatalf("after %s: alive %v, want %v", at, alive, tt.alive[i])
				}
			}
			clock.Advance(48 * time.Hour)
			if n := testutil.ToFloat64(a.Collectors()[1]); n != 0 || a.Sessions() != 0 {
				t.Fatalf("%v sessions counted, %d kept, after all expired", n, a.Sessions())
			}
		})
	}
}

func TestSessionAndLogoutFollowPrecedence(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden")})
	amy, bob := login(t, a, "amy", "secret", esx), login(t, a, "bob", "hidden", esx)
	both := []string{"vmware-api-session-id: " + amy, "Cookie: vmware-api-session-id=" + bob}

	for name, headers := range map[string][]string{
		"password beside a session": append([]string{basic("amy", "secret")}, both...),
		"nothing":                   nil,
		"bad header":                {"vmware-api-session-id: x", both[1]},
	} {
		for _, use := range []func(*http.Request, audit.Request, auth.Realm) (auth.Session, error){a.Session, a.Logout} {
			if session, err := use(request(headers...), from(here), esx); kindOf(err) != csr.Unauthenticated || session.User != "" {
				t.Fatalf("%s: session %+v, %v", name, session, err)
			}
		}
	}
	if session, err := a.Session(request(both...), from(here), esx); err != nil || session.User != "amy" {
		t.Fatalf("session %+v, %v", session, err)
	}
	if session, err := a.Logout(request(both...), from(here), esx); err != nil || session.User != "amy" {
		t.Fatalf("logout: %+v, %v", session, err)
	}
	if !ended(t, a, amy, esx) || ended(t, a, bob, esx) {
		t.Fatal("logout ended another session than the one that authenticated it")
	}
	_, err := a.Logout(bySession(amy), from(here), esx)
	wantKind(t, err, csr.Unauthenticated)
}

func TestSessionBounds(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	a := newAuth(auth.Config{
		Users: usersOf(t, "amy", "a", "bob", "b", "eve", "e"), Now: clock.Now,
		Sessions: 5, SessionsPerUser: 3, RememberFor: 24 * time.Hour,
	})
	full := func(user, password string) {
		t.Helper()
		made, err := a.Login(t.Context(), request(basic(user, password)), from(here), esx)
		wantKind(t, err, csr.Unavailable)
		if made != (auth.Login{}) {
			t.Fatal("a login beside an error")
		}
	}
	first := login(t, a, "amy", "a", esx)
	clock.Advance(time.Minute)
	login(t, a, "amy", "a", nsx)
	login(t, a, "amy", "a", esx)
	full("amy", "a") // of one user, over both dialects
	login(t, a, "bob", "b", esx)
	login(t, a, "bob", "b", esx)
	full("eve", "e") // in all

	var err *csr.Error
	_, e := a.Login(t.Context(), request(basic("eve", "e")), from(here), esx)
	if !errors.As(e, &err) || err.RetryAfter != 29*time.Minute {
		t.Fatalf("%v: retry after %s, want when the first session expires", e, err.RetryAfter)
	}
	clock.Advance(29 * time.Minute) // the first expires and makes room
	login(t, a, "eve", "e", esx)
	if !ended(t, a, first, esx) {
		t.Fatal("the expired session lives")
	}
	full("bob", "b")
	clock.Advance(time.Minute) // all but the last expire
	for range 3 {
		login(t, a, "bob", "b", esx)
	}
	full("bob", "b")
	if _, err := a.Logout(bySession(login(t, a, "amy", "a", esx)), from(here), esx); err != nil {
		t.Fatal(err)
	}
	login(t, a, "amy", "a", esx) // a logout makes room
	full("eve", "e")
}

// Removal of a user and a new hash, even of the same password, end sessions and
// what is remembered at once and for good.
func TestSetUsersEndsSessions(t *testing.T) {
	t.Parallel()
	amy, amyAgain, bob := "amy:"+hashOf(t, "secret")+"\n", "amy:"+hashOf(t, "secret")+"\n", "bob:"+hashOf(t, "hidden")+"\n"
	for name, next := range map[string]string{"removed": bob, "hash changed": amyAgain + bob} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := parse(t, amy+bob)
			a := newAuth(auth.Config{Users: before})
			counted := count(a, 0)
			ofAmy, ofBob := login(t, a, "amy", "secret", esx), login(t, a, "bob", "hidden", esx)
			counted.runs()

			a.SetUsers(parse(t, amy+bob)) // a reload that changes nothing
			if ended(t, a, ofAmy, esx) || try(a, "amy", "secret", here) != nil || len(counted.runs()) != 0 {
				t.Fatal("a reload without a change ended something")
			}
			a.SetUsers(parse(t, next))
			if !ended(t, a, ofAmy, esx) || ended(t, a, ofBob, esx) {
				t.Fatal("not exactly the sessions of the changed user ended")
			}
			if n := a.Sessions(); n != 1 {
				t.Fatalf("%d sessions are kept, want 1", n)
			}
			if err := try(a, "amy", "secret", here); (err == nil) != (next != bob) || len(counted.runs()) != 1 {
				t.Fatalf("the password was not checked anew: %v", err)
			}
			if err := try(a, "bob", "hidden", here); err != nil || len(counted.runs()) != 0 {
				t.Fatalf("another user's password was forgotten: %v", err)
			}
			a.SetUsers(before)
			if !ended(t, a, ofAmy, esx) {
				t.Fatal("the session came back with the old hash")
			}
		})
	}
}

// A login that overlaps with the removal of its user leaves no session.
func TestSetUsersDuringLogin(t *testing.T) {
	t.Parallel()
	before, after := usersOf(t, "amy", "secret"), usersOf(t, "bob", "hidden")
	a := newAuth(auth.Config{Users: before})
	compare := a.Bcrypt()
	a.Compare(func(hash, password []byte) error {
		err := compare(hash, password)
		a.SetUsers(after) // just after the password was found right
		return err
	})
	_, err := a.Login(t.Context(), request(basic("amy", "secret")), from(here), esx)
	wantKind(t, err, csr.Unauthenticated)
	a.SetUsers(before)
	if n := a.Sessions(); n != 0 {
		t.Fatalf("%d sessions left", n)
	}
}

func TestSessionsConcurrently(t *testing.T) {
	t.Parallel()
	before, after := usersOf(t, "amy", "secret", "bob", "hidden"), usersOf(t, "bob", "hidden")
	a := newAuth(auth.Config{Users: before, Sessions: 50, SessionsPerUser: 40, Failures: 1e6})
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() {
			credentials := []string{basic("amy", "secret"), basic("bob", "hidden")}[i%2]
			for range 25 {
				made, err := a.Login(t.Context(), request(credentials), from(here), esx)
				if err != nil {
					continue
				}
				_, _ = a.Authenticate(t.Context(), bySession(made.Session), from(here), esx)
				_, _ = a.Session(bySession(made.Session), from(here), esx)
				_, _ = a.Logout(bySession(made.Session), from(here), esx)
			}
		})
	}
	workers.Go(func() {
		for range 20 {
			a.SetUsers(after)
			a.SetUsers(before)
		}
		a.SetUsers(after)
	})
	workers.Wait()
	if n := a.Sessions(); n != 0 {
		t.Fatalf("%d sessions left after all were ended", n)
	}
}

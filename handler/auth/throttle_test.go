package auth_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"attestcsr/csr"
	"attestcsr/handler/auth"
)

// guess sends n wrong passwords one after another and wants each refused at once.
func guess(t *testing.T, a *auth.Authenticator, n int, user, address string) {
	t.Helper()
	for i := range n {
		start := time.Now()
		wantKind(t, try(a, user, fmt.Sprint("guess", i), address), csr.Unauthenticated)
		if waited := time.Since(start); waited != 0 {
			t.Fatalf("guess %d of %s at %s waited %s", i, user, address, waited)
		}
	}
}

// wantThrottled wants a password refused at once and unchecked.
func wantThrottled(t *testing.T, a *auth.Authenticator, user, password, address string) *csr.Error {
	t.Helper()
	start := time.Now()
	err := try(a, user, password, address)
	wantKind(t, err, csr.Busy)
	if waited := time.Since(start); waited != 0 {
		t.Fatalf("%s at %s waited %s", user, address, waited)
	}
	var busy *csr.Error
	errors.As(err, &busy)
	return busy
}

// inBubble runs a test on a fake clock, with users amy and bob.
func inBubble(t *testing.T, cfg auth.Config, test func(t *testing.T, a *auth.Authenticator)) {
	t.Helper()
	t.Parallel()
	cfg.Users = usersOf(t, "amy", "secret", "bob", "hidden")
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(cfg)
		a.Compare(plainly)
		test(t, a)
	})
}

// Twenty wrong passwords from one address are answered at once, and then one every three
// seconds.
func TestThrottle(t *testing.T) {
	inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
		counted := count(a, 0)
		guess(t, a, 15, "amy", here)
		guess(t, a, 5, "bob", here)
		counted.runs()
		// The right password is not checked either: the answer would confirm it.
		for range 2 { // a refusal costs nothing
			if busy := wantThrottled(t, a, "amy", "secret", here); busy.RetryAfter != 3*time.Second {
				t.Fatalf("retry after %s, want when there is a token", busy.RetryAfter)
			}
		}
		if n := len(counted.runs()); n != 0 {
			t.Fatalf("%d comparisons while throttled", n)
		}
		if n := attempts(t, a, "basic", "throttled"); n != 2 {
			t.Fatalf("%v throttled attempts counted, want 2", n)
		}
		time.Sleep(3 * time.Second)
		guess(t, a, 1, "amy", here)
		wantThrottled(t, a, "amy", "guess", here)
		time.Sleep(3 * time.Second)
		for range 2 { // the right one costs no token
			if err := try(a, "amy", "secret", here); err != nil {
				t.Fatal(err)
			}
		}
		guess(t, a, 1, "amy", here)
		time.Sleep(time.Hour)
		guess(t, a, 20, "amy", here)
		wantThrottled(t, a, "amy", "guess", here)
	})
}

// Throttling somebody else, or what is no guess, costs nobody anything.
func TestThrottleSparesOthers(t *testing.T) {
	t.Parallel()
	t.Run("never per user alone", func(t *testing.T) {
		inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
			for i := range 100 {
				guess(t, a, 20, "amy", fmt.Sprintf("10.0.0.%d", i))
			}
			if err := try(a, "amy", "secret", here); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("sessions and remembered passwords pass", func(t *testing.T) {
		inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
			id := login(t, a, "amy", "secret", esx)
			guess(t, a, 20, "amy", here)
			start := time.Now()
			for range 50 {
				if err := try(a, "amy", "secret", here); err != nil {
					t.Fatal(err)
				}
				if ended(t, a, id, esx) {
					t.Fatal("the session is throttled")
				}
				login(t, a, "amy", "secret", esx)
			}
			if time.Since(start) != 0 {
				t.Fatal("they waited")
			}
			wantThrottled(t, a, "amy", "guess", here)
		})
	})
	t.Run("what is no guess does not count", func(t *testing.T) {
		inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
			for range 100 {
				for _, headers := range [][]string{
					nil, {"Authorization: Basic !"}, {"Authorization: Bearer x"}, {"Authorization: "},
					{basic("", "x")}, {"vmware-api-session-id: x"}, {"Cookie: vmware-api-session-id=x"},
				} {
					_, err := a.Authenticate(t.Context(), request(headers...), from(here), esx)
					wantKind(t, err, csr.Unauthenticated)
				}
				login(t, a, "bob", "hidden", esx)
			}
			guess(t, a, 20, "amy", here)
			wantThrottled(t, a, "amy", "guess", here)
		})
	})
}

// Right passwords of many users behind one address take no tokens, though they may.
func TestRightPasswordsOfOneNetwork(t *testing.T) {
	t.Parallel()
	users, credentials := manyUsers(t, 60)
	synctest.Test(t, func(t *testing.T) {
		a := newAuth(auth.Config{Users: users, Comparisons: 2})
		a.Compare(plainly)
		count(a, 50*time.Millisecond)
		errs := all(60, func(i int) error { return try(a, credentials[2*i], credentials[2*i+1], here) })
		if kinds := byKind(errs); kinds[succeeded] != 60 {
			t.Fatalf("outcomes %v, want 60 successes", kinds)
		}
	})
}

// Guesses made at the same time are not all admitted before the first is counted.
func TestThrottleConcurrentGuesses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		guess       func(i int) (user, password string)
		comparisons int
	}{
		{"distinct passwords", func(i int) (string, string) { return "amy", fmt.Sprint("guess", i) }, 20},
		{"distinct users", func(i int) (string, string) { return fmt.Sprint("user", i), "guess" }, 20},
		// Requests that share a check count each by itself.
		{"the same password", func(int) (string, string) { return "amy", "guess" }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, auth.Config{Comparisons: 4}, func(t *testing.T, a *auth.Authenticator) {
				counted := count(a, 50*time.Millisecond)
				errs := all(1000, func(i int) error {
					user, password := tt.guess(i)
					return try(a, user, password, here)
				})
				if kinds := byKind(errs); kinds[csr.Unauthenticated] != 20 || kinds[csr.Busy] != 980 {
					t.Fatalf("outcomes %v, want 20 unauthenticated, 980 busy", kinds)
				}
				if n := len(counted.runs()); n != tt.comparisons {
					t.Fatalf("%d comparisons, want %d", n, tt.comparisons)
				}
			})
		})
	}
}

// A client that does not wait for the answer has guessed all the same.
func TestThrottleCountsCancelledGuesses(t *testing.T) {
	inBubble(t, auth.Config{Comparisons: 4}, func(t *testing.T, a *auth.Authenticator) {
		count(a, 50*time.Millisecond)
		all(20, func(i int) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := a.Authenticate(ctx, request(basic("amy", fmt.Sprint("guess", i))), from(here), esx)
			wantKind(t, err, csr.Unavailable)
			return err
		})
		time.Sleep(time.Second)
		wantThrottled(t, a, "amy", "guess", here)
	})
}

// Failures are counted for all of a client's network.
func TestThrottleAddresses(t *testing.T) {
	inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
		guess(t, a, 20, "amy", "2001:db8:1:2::1")
		wantThrottled(t, a, "amy", "secret", "2001:db8:1:2::2")
	})
}

// Strangers cannot grow the memory, and a flood of other addresses does not let a
// guess that is being checked be forgotten.
func TestThrottleMemoryIsBounded(t *testing.T) {
	inBubble(t, auth.Config{Failures: 1, Comparisons: 2}, func(t *testing.T, a *auth.Authenticator) {
		a.Compare(func(hash, password []byte) error {
			if string(password) == "slow" {
				time.Sleep(time.Second)
			}
			return plainly(hash, password)
		})
		slow := make(chan error)
		go func() { slow <- try(a, "amy", "slow", here) }()
		synctest.Wait()
		for i := range auth.MaxSources + 100 {
			guess(t, a, 1, "amy", fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&0xff, i&0xff))
		}
		if n := a.Sources(); n != auth.MaxSources {
			t.Fatalf("%d addresses are counted, want %d", n, auth.MaxSources)
		}
		wantKind(t, <-slow, csr.Unauthenticated)
		wantThrottled(t, a, "amy", "secret", here)
	})
}

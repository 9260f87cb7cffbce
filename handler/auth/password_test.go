package auth_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// all calls f for 0 to n-1 at once and returns the errors in that order.
func all(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() { errs[i] = f(i) })
	}
	calls.Wait()
	return errs
}

// byKind counts errors by kind; success counts as -1.
func byKind(errs []error) map[csr.Kind]int {
	kinds := map[csr.Kind]int{}
	for _, err := range errs {
		if err == nil {
			kinds[succeeded]++
		} else {
			kinds[kindOf(err)]++
		}
	}
	return kinds
}

const succeeded csr.Kind = -1

// An unknown user costs what the file's most expensive hash costs, so that time
// does not show which names exist. Not even a comparison that succeeds lets one in.
func TestUnknownUserCostsAComparison(t *testing.T) {
	t.Parallel()
	known := map[string]int{"amy": 4, "bob": 6, "eve": 5}
	var file strings.Builder
	for user, cost := range known {
		hash, err := bcrypt.GenerateFromPassword([]byte("secret"), cost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&file, "%s:%s\n", user, hash)
	}
	a := newAuth(auth.Config{Users: parse(t, file.String())})
	counted := count(a, 0)
	wrong := func(user, password string, cost int) {
		t.Helper()
		wantKind(t, try(a, user, password, here), csr.Unauthenticated)
		if costs := counted.runs(); !slices.Equal(costs, []int{cost}) {
			t.Fatalf("%s: comparisons of cost %v, want one of %d", user, costs, cost)
		}
	}
	for range 2 { // nothing about either is remembered
		wrong("mallory", "secret", 6)
		for user, cost := range known {
			wrong(user, "wrong", cost)
		}
	}
	a.Compare(func([]byte, []byte) error { return nil })
	for range 2 {
		wantKind(t, try(a, "mallory", "secret", here), csr.Unauthenticated)
	}
}

func TestBrokenComparisonIsInternal(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret")})
	a.Compare(func([]byte, []byte) error { return bcrypt.ErrHashTooShort })
	wantKind(t, try(a, "amy", "secret", here), csr.Internal)
	if n := attempts(t, a, "basic", "error"); n != 1 {
		t.Fatalf("%v errors counted, want 1", n)
	}
}

// Of a password over 72 bytes htpasswd and bcrypt take the beginning, so that any
// other end is as good; up to there every byte counts. Passwords have a bound.
func TestLongPassword(t *testing.T) {
	t.Parallel()
	beginning := strings.Repeat("b", 71) + "!"
	long := func(beginning string, length int) string {
		return beginning + strings.Repeat("x", length-len(beginning))
	}
	a := newAuth(auth.Config{Users: usersOf(t, "amy", beginning)})
	for _, password := range []string{beginning, long(beginning, 73), long(beginning, 1024)} {
		if err := try(a, "amy", password, here); err != nil {
			t.Errorf("%d bytes: %v", len(password), err)
		}
	}
	counted := count(a, 0)
	for password, comparisons := range map[string]int{beginning[:71]: 1, long(beginning[:71], 1024): 1, long(beginning, 1025): 0} {
		wantKind(t, try(a, "amy", password, here), csr.Unauthenticated)
		if n := len(counted.runs()); n != comparisons {
			t.Errorf("%d bytes: %d comparisons, want %d", len(password), n, comparisons)
		}
	}
}

func TestRemembered(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	var called []string
	a := newAuth(auth.Config{
		Users: usersOf(t, "amy", "secret", "bob", "hidden"), Now: clock.Now,
		OnPassword: func(user, _ string) { called = append(called, user) },
	})
	counted := count(a, 0)
	right := func(user, password, address string, compared int) {
		t.Helper()
		called = nil
		if err := try(a, user, password, address); err != nil {
			t.Fatal(err)
		}
		if n := len(counted.runs()); n != compared {
			t.Fatalf("%d comparisons, want %d", n, compared)
		}
		if len(called) != compared {
			t.Fatalf("OnPassword was called for %v", called)
		}
	}
	right("amy", "secret", here, 1)
	right("amy", "secret", here, 0)
	right("amy", "secret", elsewhere, 0)
	for range 2 {
		wantKind(t, try(a, "amy", "wrong", here), csr.Unauthenticated)
		if n := len(counted.runs()); n != 1 {
			t.Fatalf("a wrong password took %d comparisons, want 1", n)
		}
	}
	clock.Advance(5*time.Minute - time.Nanosecond)
	right("amy", "secret", here, 0)
	clock.Advance(time.Nanosecond) // use does not prolong it
	right("amy", "secret", here, 1)

	right("bob", "hidden", here, 1)
	right("amy", "secret", here, 0)
}

// Users and passwords that make the same text when put together are not confused.
func TestRememberedIsUnambiguous(t *testing.T) {
	t.Parallel()
	hash := hashOf(t, "bc")
	a := newAuth(auth.Config{Users: parse(t, "a:"+hash+"\nab:"+hash)})
	if err := try(a, "a", "bc", here); err != nil {
		t.Fatal(err)
	}
	wantKind(t, try(a, "ab", "c", here), csr.Unauthenticated)
}

func TestIdenticalCredentialsShareOneComparison(t *testing.T) {
	inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
		counted := count(a, 50*time.Millisecond)
		errs := all(200, func(i int) error {
			return try(a, "amy", "secret", fmt.Sprintf("192.0.2.%d", i%10))
		})
		if kinds := byKind(errs); kinds[succeeded] != 200 {
			t.Fatalf("outcomes %v, want 200 successes", kinds)
		}
		if n := len(counted.runs()); n != 1 {
			t.Fatalf("%d comparisons, want 1", n)
		}
	})
}

// A client that goes away takes nobody with it, whoever of them came first.
func TestCancelledWaiter(t *testing.T) {
	for _, cancelled := range []int{0, 1} {
		t.Run(fmt.Sprint("number ", cancelled), func(t *testing.T) {
			inBubble(t, auth.Config{}, func(t *testing.T, a *auth.Authenticator) {
				counted := count(a, 50*time.Millisecond)
				start := time.Now()
				errs := all(3, func(i int) error {
					time.Sleep(time.Duration(i) * time.Millisecond)
					ctx := t.Context()
					if i == cancelled {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, 10*time.Millisecond)
						defer cancel()
					}
					_, err := a.Authenticate(ctx, request(basic("amy", "secret")), from(here), esx)
					if waited := time.Since(start); i == cancelled && waited > 20*time.Millisecond {
						t.Errorf("the cancelled request waited %s", waited)
					}
					return err
				})
				if kinds := byKind(errs); kinds[succeeded] != 2 || kindOf(errs[cancelled]) != csr.Unavailable {
					t.Errorf("outcomes %v", errs)
				}
				if n := len(counted.runs()); n != 1 {
					t.Fatalf("%d comparisons, want 1", n)
				}
				if n := attempts(t, a, "basic", "canceled"); n != 1 {
					t.Fatalf("%v cancelled attempts counted, want 1", n)
				}
			})
		})
	}
}

// manyUsers makes users with a password each. It also returns names and passwords in
// turn.
func manyUsers(t *testing.T, n int) (users *auth.Users, credentials []string) {
	t.Helper()
	for i := range n {
		credentials = append(credentials, fmt.Sprint("user", i), fmt.Sprint("password", i))
	}
	return usersOf(t, credentials...), credentials
}

// Few comparisons run at once, first come first served.
func TestComparisonsInTurn(t *testing.T) {
	t.Parallel()
	const n = 40
	users, credentials := manyUsers(t, n)
	for _, slots := range []int{1, 2} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var order []string
				a := newAuth(auth.Config{Users: users, Comparisons: slots})
				a.Compare(plainly)
				counted := count(a, 50*time.Millisecond)
				a.Compare(func(hash, password []byte) error {
					mu.Lock()
					order = append(order, string(password))
					mu.Unlock()
					return counted.run(hash, password)
				})
				errs := all(n, func(i int) error {
					time.Sleep(time.Duration(i) * time.Millisecond) // so that there is an order
					return try(a, credentials[2*i], credentials[2*i+1], fmt.Sprintf("192.0.2.%d", i))
				})
				if kinds := byKind(errs); kinds[succeeded] != n {
					t.Fatalf("outcomes %v", kinds)
				}
				if counted.most != slots {
					t.Fatalf("%d comparisons at once, want %d", counted.most, slots)
				}
				for i, password := range order {
					if password != credentials[2*i+1] {
						t.Fatalf("order %q", order)
					}
				}
			})
		})
	}
}

// Where more passwords wait than can be checked soon, further ones are refused; no
// refusal counts as a wrong password.
func TestComparisonQueueIsBounded(t *testing.T) {
	t.Parallel()
	t.Run("in number", func(t *testing.T) {
		inBubble(t, auth.Config{Comparisons: 1}, func(t *testing.T, a *auth.Authenticator) {
			counted := count(a, time.Millisecond)
			var atOnce atomic.Int32
			start := time.Now()
			errs := all(auth.MaxOthers+100, func(i int) error {
				err := try(a, "amy", fmt.Sprint("guess", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250))
				if kindOf(err) == csr.Busy && time.Since(start) == 0 {
					atOnce.Add(1)
				}
				return err
			})
			kinds := byKind(errs)
			if kinds[csr.Unauthenticated] != auth.MaxOthers+1 || atOnce.Load() != 99 || kinds[csr.Busy] != 99 {
				t.Fatalf("outcomes %v, %d refused at once", kinds, atOnce.Load())
			}
			if runs := len(counted.runs()); runs != auth.MaxOthers+1 {
				t.Fatalf("%d comparisons", runs)
			}
			if n := attempts(t, a, "basic", "busy"); n != 99 {
				t.Fatalf("%v busy attempts counted, want 99", n)
			}
		})
	})
	t.Run("in time", func(t *testing.T) {
		inBubble(t, auth.Config{Comparisons: 1}, func(t *testing.T, a *auth.Authenticator) {
			count(a, 4*time.Second)
			start := time.Now()
			errs := all(6, func(i int) error { return try(a, "amy", fmt.Sprint("guess", i), here) })
			if kinds := byKind(errs); kinds[csr.Unauthenticated] != 3 || kinds[csr.Busy] != 3 {
				t.Fatalf("outcomes %v", kinds)
			}
			if waited := time.Since(start); waited > auth.TurnWait+4*time.Second {
				t.Fatalf("waited %s", waited)
			}
			a.Compare(plainly)
			guess(t, a, 17, "amy", here) // those refused were no guesses
		})
	})
}

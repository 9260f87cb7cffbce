package auth_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// slowly makes comparisons take as long as bcrypt does, and lists what is compared. It
// is for use in a bubble.
func slowly(a *auth.Authenticator) (compared func() []string) {
	const takes = 60 * time.Millisecond
	var mu sync.Mutex
	var passwords []string
	a.Compare(func(hash, password []byte) error {
		mu.Lock()
		passwords = append(passwords, string(password))
		mu.Unlock()
		time.Sleep(takes)
		return plainly(hash, password)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return passwords
	}
}

// inTurn starts checks one after another, each given as "password at address", and
// returns once all have ended. The first one runs while the others come.
func inTurn(a *auth.Authenticator, checks ...string) (kinds map[csr.Kind]int) {
	errs := all(len(checks), func(i int) error {
		time.Sleep(time.Duration(i) * time.Microsecond)
		password, address, _ := strings.Cut(checks[i], " at ")
		return try(a, "amy", password, address)
	})
	return byKind(errs)
}

// Known networks go first, each fourth turn is for the others, and of those goes first
// whose last check is longest ago.
func TestOrderOfTurns(t *testing.T) {
	inBubble(t, auth.Config{Comparisons: 1}, func(t *testing.T, a *auth.Authenticator) {
		compared := slowly(a)
		if err := try(a, "bob", "hidden", here); err != nil { // makes here known
			t.Fatal(err)
		}
		guess := func(password, address string) string { return password + " at " + address }
		checks := []string{guess("first", "10.0.0.1")}
		for i := range 3 {
			checks = append(checks, guess(fmt.Sprint("again", i), "10.0.0.1"))
		}
		for i := range 2 {
			checks = append(checks, guess(fmt.Sprint("new", i), fmt.Sprint("10.0.1.", i)))
		}
		for i := range 7 {
			checks = append(checks, guess(fmt.Sprint("known", i), here))
		}
		inTurn(a, checks...)
		want := "hidden first known0 known1 known2 new0 known3 known4 known5 new1 known6 again0 again1 again2"
		if got := strings.Join(compared(), " "); got != want {
			t.Errorf("order\n%s\nwant\n%s", got, want)
		}
	})
}

// A network that had no check yet takes the place of one that waits for another.
func TestFullLine(t *testing.T) {
	inBubble(t, auth.Config{Comparisons: 1, Failures: 2 * auth.MaxOthers}, func(t *testing.T, a *auth.Authenticator) {
		compared := slowly(a)
		checks := []string{"first at 10.0.0.1"}
		for i := range auth.MaxOthers + 5 {
			checks = append(checks, fmt.Sprintf("again%d at 10.0.0.1", i))
		}
		for i := range 2 * auth.MaxOthers {
			checks = append(checks, fmt.Sprintf("new%d at 10.1.0.%d", i, i))
		}
		kinds := inTurn(a, checks...)
		if len(compared()) != 1+auth.MaxOthers || kinds[csr.Unauthenticated] != 1+auth.MaxOthers {
			t.Fatalf("%d compared, %v", len(compared()), kinds)
		}
		for i, password := range compared()[1:] {
			if password != fmt.Sprint("new", i) {
				t.Fatalf("%d: %s", i, password)
			}
		}
	})
	t.Run("known networks have a line of their own", func(t *testing.T) {
		inBubble(t, auth.Config{Comparisons: 1, Failures: 1000}, func(t *testing.T, a *auth.Authenticator) {
			slowly(a)
			if err := try(a, "bob", "hidden", here); err != nil {
				t.Fatal(err)
			}
			var checks []string
			for i := range auth.MaxKnown + 50 {
				checks = append(checks, fmt.Sprintf("guess%d at %s", i, here))
			}
			kinds := inTurn(a, append(checks, "new at 10.0.0.1")...)
			// The first of the others comes after at most three of the known.
			if ran := kinds[csr.Unauthenticated]; ran < int(auth.TurnWait/(60*time.Millisecond)) || kinds[csr.Busy] != len(checks)+1-ran {
				t.Fatalf("outcomes %v", kinds)
			}
		})
	})
}

// TestThousandGuessers: a thousand networks (a few hundred where time is short) guess once a second each. A login from a
// known network takes less than a second; another network gets its turn as soon as any
// of them; and of those, the one that asks fifty times as often gets no more.
func TestThousandGuessers(t *testing.T) {
	const lasts = 40 * time.Second
	guessers := kit.Effort(150, 1000)
	inBubble(t, auth.Config{Comparisons: 1, RememberFor: time.Nanosecond}, func(t *testing.T, a *auth.Authenticator) {
		compared := slowly(a)
		if err := try(a, "bob", "hidden", here); err != nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		begun := time.Now()
		for i := range guessers {
			every := time.Second
			if i == 0 {
				every /= 50
			}
			clients.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for n := 0; time.Since(begun) < lasts; n++ {
					next := time.Now().Add(every)
					_ = try(a, "amy", fmt.Sprintf("%d %d", i, n), fmt.Sprintf("10.0.%d.%d", i/250, i%250))
					time.Sleep(time.Until(next))
				}
			})
		}
		time.Sleep(lasts / 3)
		var longest, comes time.Duration
		for range 20 {
			asked := time.Now()
			if err := try(a, "bob", "hidden", here); err != nil {
				t.Error(err)
			}
			longest = max(longest, time.Since(asked))
			time.Sleep(time.Second)
		}
		asked := time.Now()
		for try(a, "bob", "hidden", elsewhere) != nil {
			time.Sleep(time.Second)
		}
		comes = time.Since(asked)
		clients.Wait()
		if longest >= 250*time.Millisecond { // one comparison that runs, one of others, its own
			t.Errorf("a known network waited %s", longest)
		}
		if comes > time.Minute {
			t.Errorf("a new network waited %s", comes)
		}
		shares := map[string]int{}
		for _, password := range compared() {
			guesser, _, _ := strings.Cut(password, " ")
			shares[guesser]++
		}
		delete(shares, "hidden")
		fair := float64(len(compared())) / float64(guessers)
		for guesser, n := range shares {
			if n := float64(n); n < fair-1.5 || n > fair+1.5 {
				t.Errorf("guesser %s had %v comparisons, a fair share is %.1f", guesser, n, fair)
			}
		}
		if len(shares) < guessers*9/10 {
			t.Errorf("%d of %d networks had a comparison", len(shares), guessers)
		}
		kit.Count(t, "guesses of a thousand networks", len(compared()))
		t.Logf("known network: %s at most; new network: %s", longest, comes)
	})
}

// One comparison is enough for the same password at the same time, wherever from.
func TestSharedComparison(t *testing.T) {
	inBubble(t, auth.Config{Comparisons: 1}, func(t *testing.T, a *auth.Authenticator) {
		compared := slowly(a)
		errs := all(40, func(i int) error { return try(a, "amy", "guess", fmt.Sprint("10.0.0.", i)) })
		if kinds := byKind(errs); kinds[csr.Unauthenticated] != 40 || len(compared()) != 1 {
			t.Errorf("outcomes %v, %d comparisons", kinds, len(compared()))
		}
	})
}

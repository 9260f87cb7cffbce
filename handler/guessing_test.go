package handler_test

import (
	"attestcsr/test/kit"

	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/handler/auth"
)

// guessed is a stack on a clock that stands still, so that the minute in which
// wrong passwords count does not pass by itself.
type guessed struct {
	*stack
	clock *handClock
}

func newGuessed(t *testing.T) *guessed {
	t.Helper()
	g := &guessed{clock: newHandClock()}
	g.stack = newStack(t, func(c *handler.Config) {
		c.Auth = auth.New(auth.Config{
			Users:      users(t, "admin", adminPassword, "viewer", viewerPassword, "hosts", hostsPassword),
			Privileges: func(string) []csr.Privilege { return csr.Privileges() },
			Now:        g.clock.now,
		})
	})
	return g
}

// from is a client that connects from an address of the loopback network.
func (s *stack) from(address string) func(c call) answer {
	transport := s.client.Transport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext
	s.t.Cleanup(transport.CloseIdleConnections)
	there := *s
	there.client = &http.Client{Transport: transport}
	return there.do
}

func basic(path, user, password string) call {
	return call{method: "GET", path: path, user: user, password: password}
}

// guesses are the ways to try a password.
func guessAt(i int) call {
	switch password := fmt.Sprint("guess ", i); i % 4 {
	case 0:
		return basic(csrPath, "admin", password)
	case 1:
		return basic(nsxCSRs, "admin", password)
	case 2:
		return formLogin("admin", password)
	default:
		return call{method: "POST", path: legacyPath, user: "eve", password: password}
	}
}

// promptly is far from the five seconds that a throttled check waits, and long
// enough for a busy machine.
const promptly = 4 * time.Second

// TestGuessingLocksNobodyOut: while a guesser is throttled, sessions and remembered
// passwords of the same address are served at once, and so is everything from
// other addresses.
func TestGuessingLocksNobodyOut(t *testing.T) {
	t.Parallel()
	const guesser, other = "127.0.0.2", "127.0.0.3"
	g := newGuessed(t)
	bad, good := g.from(guesser), g.from(other)
	g.createCSR(validSpec)

	var id string
	if err := json.Unmarshal(bad(call{method: "POST", path: sessionPath}).body, &id); err != nil {
		t.Fatal(err)
	}
	nsx := g.nsxLogin("admin", adminPassword)
	served := map[string]call{
		"session":                   {method: "GET", path: csrPath, anonymous: true, header: map[string]string{"vmware-api-session-id": id}},
		"session of NSX":            nsx.carry(call{method: "GET", path: nsxCSRs}),
		"remembered password":       basic(csrPath, "admin", adminPassword),
		"login by it":               {method: "POST", path: sessionPath},
		"form login by it":          formLogin("admin", adminPassword),
		"health without any":        {method: "GET", path: "/healthz", anonymous: true},
		"remembered password, HEAD": {method: "HEAD", path: csrPath, raw: true},
	}

	// None of this is a guess.
	for range 50 {
		for _, c := range []call{
			{method: "GET", path: csrPath, anonymous: true},
			{method: "GET", path: csrPath, anonymous: true, header: map[string]string{"vmware-api-session-id": strings.Repeat("0", 64)}},
			{method: "GET", path: nsxCSRs, anonymous: true, header: map[string]string{"Cookie": "JSESSIONID=x", "X-XSRF-TOKEN": "x"}},
			{method: "GET", path: csrPath, anonymous: true, header: map[string]string{"Authorization": "Basic !"}},
			{method: "GET", path: csrPath, anonymous: true, header: map[string]string{"Authorization": "Bearer x"}},
			formLogin("", "x"),
		} {
			if a := bad(c); a.status != http.StatusUnauthorized {
				t.Fatalf("%s %s %v: %d", c.method, c.path, c.header, a.status)
			}
		}
	}
	const atOnce, waiting, beyond = 20, 64, 12
	for i := range atOnce {
		begun := time.Now()
		if a := bad(guessAt(i)); a.status != http.StatusUnauthorized || time.Since(begun) > promptly {
			t.Fatalf("guess %d: %d after %s", i, a.status, time.Since(begun))
		}
	}

	var guesses sync.WaitGroup
	for i := range waiting + beyond {
		guesses.Go(func() {
			// Another address in a header moves nobody.
			c := guessAt(atOnce + i)
			c.header = maps.Clone(c.header)
			if c.header == nil {
				c.header = map[string]string{}
			}
			c.header["X-Forwarded-For"] = fmt.Sprintf("192.0.2.%d", i)
			wantThrottled(t, bad(c))
		})
	}
	done := make(chan struct{})
	go func() { guesses.Wait(); close(done) }()
	rounds := 0
	for waits := true; waits; rounds++ {
		select {
		case <-done:
			waits = false
		default:
		}
		for name, c := range served {
			begun := time.Now()
			if a := bad(c); a.status >= 300 || time.Since(begun) > promptly {
				t.Errorf("%s beside a guesser: %d after %s", name, a.status, time.Since(begun))
			}
		}
		time.Sleep(50 * time.Millisecond) // each round makes two sessions, of which a user has a bounded number
		// This one has not been seen before: it takes a comparison of its own.
		begun := time.Now()
		if a := good(basic(csrPath, "viewer", viewerPassword)); a.status != http.StatusOK || time.Since(begun) > promptly {
			t.Errorf("from another address: %d after %s", a.status, time.Since(begun))
		}
	}
	// The right password is not looked at either: its answer would tell a guesser.
	wantThrottled(t, bad(basic(csrPath, "hosts", hostsPassword)))
	if a := good(basic(csrPath, "hosts", hostsPassword)); a.status != http.StatusOK {
		t.Errorf("the same from another address: %d", a.status)
	}
	if a := good(guessAt(0)); a.status != http.StatusUnauthorized {
		t.Errorf("a first wrong password from another address: %d", a.status)
	}
	g.clock.advance(time.Minute)
	for i := range atOnce {
		if a := bad(guessAt(i)); a.status != http.StatusUnauthorized {
			t.Fatalf("guess %d a minute later: %d", i, a.status)
		}
	}
	kit.Count(t, "rounds served beside a guesser", rounds)
	kit.Count(t, "guesses", 2*atOnce+waiting+beyond+2)
}

// wantThrottled wants the answer to a guess too many, in the document of its dialect.
func wantThrottled(t *testing.T, a answer) {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	documents := []string{`"error_type":"SERVICE_UNAVAILABLE"`, `"error_code":99,`, `com.vmware.vapi.std.errors.service_unavailable`}
	if a.status != http.StatusServiceUnavailable || err != nil || seconds < 1 || seconds > 60 || a.header.Get("WWW-Authenticate") != "" ||
		!slices.ContainsFunc(documents, func(d string) bool { return strings.Contains(string(a.body), d) }) {
		t.Errorf("a guess too many: %d %v %s", a.status, a.header, a.body)
	}
}

// Guessers at many addresses do not add up against a user.
func TestGuessingFromManyAddresses(t *testing.T) {
	t.Parallel()
	g := newGuessed(t)
	addresses := kit.Effort(3, 100)
	for n := range addresses {
		there := g.from(fmt.Sprintf("127.0.1.%d", n+1))
		for i := range 20 {
			if a := there(basic(csrPath, "admin", fmt.Sprint(n, "guess", i))); a.status != http.StatusUnauthorized {
				t.Fatalf("guess %d at address %d: %d", i, n, a.status)
			}
		}
	}
	begun := time.Now()
	if a := g.from("127.0.0.9")(basic(sessionPath, "admin", adminPassword)); a.status != http.StatusUnauthorized || time.Since(begun) > promptly {
		t.Errorf("Basic shows no session: %d after %s", a.status, time.Since(begun))
	}
	if a := g.from("127.0.0.9")(call{method: "POST", path: sessionPath}); a.status != http.StatusCreated || time.Since(begun) > promptly {
		t.Errorf("the user from an address of its own: %d after %s", a.status, time.Since(begun))
	}
	kit.Count(t, "guesses", addresses*20)
}

// TestTimingOfUnknownUsers: how long a refusal takes does not tell whether there
// is such a user. It runs beside no other test of the package, for the sake of
// the clock.
func TestTimingOfUnknownUsers(t *testing.T) { //nolint:paralleltest // see above
	hash, err := bcrypt.GenerateFromPassword([]byte(adminPassword), kit.Effort(6, auth.Cost))
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, func(c *handler.Config) {
		c.Auth = auth.New(auth.Config{Users: parseUsers(t, "admin:"+string(hash)+"\n"), UserFailures: 1 << 20, AddressFailures: 1 << 20})
	})
	pairs := kit.Effort(10, 200)
	// In the short run, hashes are cheap and the machine does other things too. A
	// refusal without a comparison would still take a small part of the time.
	low, high := 0.4, 2.5
	if pairs >= 200 {
		low, high = 0.8, 1.25
	}
	for name, try := range map[string]func(user, password string) call{
		"Basic": func(user, password string) call { return basic(csrPath, user, password) },
		"form":  formLogin,
	} {
		var known, unknown []time.Duration
		for i := range pairs {
			for user, took := range map[string]*[]time.Duration{"admin": &known, "admim": &unknown} {
				begun := time.Now()
				if a := s.do(try(user, fmt.Sprint(name, i))); a.status != http.StatusUnauthorized {
					t.Fatalf("%s: %d", user, a.status)
				}
				*took = append(*took, time.Since(begun))
			}
		}
		slices.Sort(known)
		slices.Sort(unknown)
		of, to := unknown[pairs/2], known[pairs/2]
		t.Logf("%s: unknown user %s, wrong password %s", name, of, to)
		if ratio := float64(of) / float64(to); ratio < low || ratio > high {
			t.Errorf("%s: the median for an unknown user is %s, for a wrong password %s", name, of, to)
		}
	}
	kit.Count(t, "pairs timed", 2*pairs)
}

// TestSessionFixation: nothing that a client sends becomes the id of its session,
// and no session outlives its logout.
func TestSessionFixation(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	planted := strings.Repeat("ab", 32)
	var first string
	if err := json.Unmarshal(s.do(call{method: "POST", path: sessionPath}).body, &first); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{planted, first} {
		login := func(c call) answer {
			t.Helper()
			a := s.do(c)
			if a.status != http.StatusOK && a.status != http.StatusCreated || strings.Contains(string(a.body)+fmt.Sprint(a.header), id) {
				t.Errorf("%s %s with %.4s…: %d %v %s", c.method, c.path, id, a.status, a.header, a.body)
			}
			return a
		}
		login(call{method: "POST", path: sessionPath, header: map[string]string{"vmware-api-session-id": id, "Cookie": "vmware-api-session-id=" + id}})
		login(call{method: "POST", path: legacyPath, header: map[string]string{"vmware-api-session-id": id}})
		login(call{method: "POST", path: sessionPath + "?vmware-api-session-id=" + id})
		form := formLogin("admin", adminPassword)
		form.header["Cookie"], form.header["X-XSRF-TOKEN"] = "JSESSIONID="+id, id
		form.body += "&JSESSIONID=" + id
		form.path += "?JSESSIONID=" + id
		login(form)
	}
	for _, c := range []call{
		{method: "GET", path: csrPath, header: map[string]string{"vmware-api-session-id": planted}},
		{method: "GET", path: csrPath, header: map[string]string{"Cookie": "vmware-api-session-id=" + planted}},
		{method: "GET", path: nsxCSRs, header: map[string]string{"Cookie": "JSESSIONID=" + planted, "X-XSRF-TOKEN": planted}},
		{method: "GET", path: csrPath + "?vmware-api-session-id=" + first},
		{method: "GET", path: sessionPath + "?vmware-api-session-id=" + first, body: `{"vmware-api-session-id":"` + first + `"}`},
	} {
		c.anonymous = true
		if a := s.do(c); a.status != http.StatusUnauthorized {
			t.Errorf("%s %v: %d", c.path, c.header, a.status)
		}
	}
	if a := s.do(call{method: "GET", path: sessionPath + ";vmware-api-session-id=" + first, anonymous: true}); a.status != http.StatusNotFound {
		t.Errorf("an id in the path: %d", a.status)
	}
	one, two := s.nsxLogin("admin", adminPassword), s.nsxLogin("admin", adminPassword)
	if one.id == two.id || one.token == two.token || one.id == one.token {
		t.Error("two logins share an id or a token")
	}
	s.do(one.carry(call{method: "GET", path: logoutPath}))
	s.do(one.carry(call{method: "GET", path: nsxCSRs})).wantNSXError(t, http.StatusUnauthorized, 403)
	if a := s.do(two.carry(call{method: "GET", path: nsxCSRs})); a.status != http.StatusOK {
		t.Errorf("one logout ended another session: %d", a.status)
	}
}

package handler_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// from is a client that connects from an address of the loopback network.
func (s *stack) from(address string) func(c call) answer {
	transport := s.transport.Clone()
	transport.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext
	s.t.Cleanup(transport.CloseIdleConnections)
	there := *s
	there.client = s.clientOf(transport)
	return there.do
}

func basic(path, user, password string) call {
	return call{method: "GET", path: path, user: user, password: password}
}

// guesses are the ways to try a password.
func guessAt(i int) call {
	switch password := fmt.Sprint("guess ", i); i % 6 {
	case 5:
		return consoleLogin("admin", password)
	case 4:
		return call{method: "POST", path: userpassLogin + "admin", raw: true, anonymous: true, body: kit.JSON(map[string]string{"password": password})}
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

const guesserAddress, otherAddress = "127.0.0.2", "127.0.0.3"

// What one address may guess at once, and how many more the test tries.
const guessesAtOnce, guessesBeyond = 20, 60

// servedBesideGuesser is what a guesser's address gets at once whatever it guesses.
func servedBesideGuesser(t *testing.T, g *stack) map[string]call {
	t.Helper()
	var id string
	if err := json.Unmarshal(g.from(guesserAddress)(call{method: "POST", path: sessionPath}).body, &id); err != nil {
		t.Fatal(err)
	}
	return map[string]call{
		"session":                   {method: "GET", path: csrPath, anonymous: true, header: map[string]string{"vmware-api-session-id": id}},
		"session of NSX":            g.nsxLogin("admin", adminPassword).carry(call{method: "GET", path: nsxCSRs}),
		"remembered password":       basic(csrPath, "admin", adminPassword),
		"login by it":               {method: "POST", path: sessionPath},
		"form login by it":          formLogin("admin", adminPassword),
		"health without any":        {method: "GET", path: "/healthz", anonymous: true},
		"remembered password, HEAD": {method: "HEAD", path: csrPath, raw: true},
	}
}

// TestGuessingLocksNobodyOut: while a guesser is throttled, sessions and remembered
// passwords of the same address are served at once, and so is everything from
// other addresses.
func TestGuessingLocksNobodyOut(t *testing.T) {
	t.Parallel()
	g := newStack(t)
	bad, good := g.from(guesserAddress), g.from(otherAddress)
	g.createCSR(validSpec)
	served := servedBesideGuesser(t, g)
	wants := func(what string, do func(call) answer, c call, status int) {
		t.Helper()
		if a := do(c); a.status != status {
			t.Errorf("%s: %d, want %d", what, a.status, status)
		}
	}
	begun := time.Now()
	for i := range guessesAtOnce {
		status := http.StatusUnauthorized
		if strings.HasPrefix(guessAt(i).path, userpassLogin) {
			status = http.StatusBadRequest
		}
		wants(fmt.Sprint("guess ", i), bad, guessAt(i), status)
	}
	checked := 0
	for i := range guessesBeyond {
		// Another address in a header moves nobody.
		c := guessAt(guessesAtOnce + i)
		c.header = maps.Clone(c.header)
		if c.header == nil {
			c.header = map[string]string{}
		}
		c.header["X-Forwarded-For"] = fmt.Sprintf("192.0.2.%d", i)
		if a := bad(c); a.status == http.StatusUnauthorized || a.status == http.StatusBadRequest {
			checked++
		} else {
			wantThrottled(t, a)
		}
		if i%10 > 0 {
			continue
		}
		for name, c := range served {
			status := http.StatusOK
			if c.path == sessionPath {
				status = http.StatusCreated
			}
			wants(name, bad, c, status)
		}
		wants("another address", good, basic(nsxCSRs, "viewer", viewerPassword), http.StatusOK)
	}
	if most := 1 + int(time.Since(begun)/(3*time.Second)); checked > most {
		t.Errorf("%d guesses beyond the first %d were checked in %s, want one every three seconds", checked, guessesAtOnce, time.Since(begun))
	}
	// The right password is not looked at either: its answer would confirm it.
	for a := bad(guessAt(0)); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") < "2"; a = bad(guessAt(0)) {
		time.Sleep(100 * time.Millisecond) // there is a token, or nearly
	}
	wantThrottled(t, bad(basic(csrPath, "hosts", hostsPassword)))
	wants("the same from another address", good, basic(csrPath, "hosts", hostsPassword), http.StatusOK)
	wants("a first wrong password from another address", good, guessAt(0), http.StatusUnauthorized)
	kit.Count(t, "guesses", guessesAtOnce+guessesBeyond)
}

// wantThrottled wants the answer to a guess too many, in the document of its dialect.
func wantThrottled(t *testing.T, a answer) {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	documents := []string{`{"errors":["the service cannot take this request now`, `"error_type":"SERVICE_UNAVAILABLE"`, `"error_code":99,`, `com.vmware.vapi.std.errors.service_unavailable`}
	if a.status != http.StatusServiceUnavailable || err != nil || seconds < 1 || seconds > 60 || a.header.Get("WWW-Authenticate") != "" ||
		!slices.ContainsFunc(documents, func(d string) bool { return strings.Contains(string(a.body), d) }) {
		t.Errorf("a guess too many: %d %v %s", a.status, a.header, a.body)
	}
}

// Guessers at many addresses do not add up against a user.
func TestGuessingFromManyAddresses(t *testing.T) {
	t.Parallel()
	g := newStack(t)
	addresses := kit.Effort(3, 100)
	for n := range addresses {
		there := g.from(fmt.Sprintf("127.0.1.%d", n+1))
		for i := range 20 {
			if a := there(basic(csrPath, "admin", fmt.Sprint(n, "guess", i))); a.status != http.StatusUnauthorized {
				t.Fatalf("guess %d at address %d: %d", i, n, a.status)
			}
		}
	}
	if a := g.from("127.0.0.9")(basic(sessionPath, "admin", adminPassword)); a.status != http.StatusUnauthorized {
		t.Errorf("Basic shows no session: %d", a.status)
	}
	if a := g.from("127.0.0.9")(call{method: "POST", path: sessionPath}); a.status != http.StatusCreated {
		t.Errorf("the user from an address of its own: %d", a.status)
	}
	kit.Count(t, "guesses", addresses*20)
}

// TestGuessersFromManyNetworks: while many networks guess all the time, a
// login from a network that is known is checked each time, and one from a new network
// gets through too. Networks beyond what can be checked get their 503.
func TestGuessersFromManyNetworks(t *testing.T) {
	t.Parallel()
	networks, logins := kit.Effort(120, 1000), kit.Effort(10, 20)
	const guessing = 100
	hash, err := bcrypt.GenerateFromPassword([]byte(adminPassword), kit.Effort(7, auth.Cost))
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, trusting("127.0.0.0/8"), func(c *handler.Config) {
		c.Auth = newAuth(auth.Config{Users: parseUsers(t, "admin:"+string(hash)+"\n"), RememberFor: time.Nanosecond})
	})
	guess := func(address, password string) answer {
		c := basic(sessionPath, "admin", password)
		c.method, c.header = http.MethodPost, map[string]string{"X-Forwarded-For": address}
		return s.do(c)
	}
	const known, unknown = "192.0.2.1", "198.51.100.7"
	took := func() time.Duration {
		begun := time.Now()
		if a := guess(known, adminPassword); a.status != http.StatusCreated {
			t.Errorf("a login from a known network: %d %s", a.status, a.body)
		}
		return time.Since(begun)
	}
	alone := took()
	alone = min(alone, took())
	var statuses [600]atomic.Int64
	var guessers sync.WaitGroup
	done := make(chan struct{})
	for g := range guessing {
		guessers.Go(func() {
			for i := g; ; i += guessing {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				n := i % networks
				statuses[guess(fmt.Sprintf("10.1.%d.%d", n/250, n%250), fmt.Sprint("guess", i)).status].Add(1)
			}
		})
	}
	var waits []time.Duration
	for len(waits) < logins {
		waits = append(waits, took())
	}
	tries := 1
	for begun := time.Now(); guess(unknown, adminPassword).status != http.StatusCreated; tries++ {
		if time.Since(begun) > time.Minute {
			t.Fatalf("a new network got nothing in %d tries", tries)
		}
	}
	close(done)
	guessers.Wait()
	slices.Sort(waits)
	checked, refused := int(statuses[http.StatusUnauthorized].Load()), int(statuses[http.StatusServiceUnavailable].Load())
	t.Logf("a login alone: %s; beside guessers: median %s, longest %s; a new network: %d tries", alone, waits[logins/2], waits[logins-1], tries)
	if limit := max(time.Second, 20*alone); waits[logins/2] > limit {
		t.Errorf("a known network waits %s, and %s alone", waits[logins/2], alone)
	}
	if checked == 0 || refused == 0 {
		t.Errorf("%d guesses were checked, %d refused", checked, refused)
	}
	kit.Count(t, "guesses refused beside known networks", refused)
}

// TestTimingOfUnknownUsers: how long a refusal takes does not show whether there
// is such a user. It runs beside no other test of the package, for the sake of
// the clock.
func TestTimingOfUnknownUsers(t *testing.T) { //nolint:paralleltest // see above
	hash, err := bcrypt.GenerateFromPassword([]byte(adminPassword), kit.Effort(6, auth.Cost))
	if err != nil {
		t.Fatal(err)
	}
	s := newStack(t, func(c *handler.Config) {
		c.Auth = newAuth(auth.Config{Users: parseUsers(t, "admin:"+string(hash)+"\n"), Failures: 1 << 20})
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

// A right password in Latin-1 is a 401 like any other. The log tells the operator why,
// and it is no guess: no such password can be right.
func TestPasswordInLatin1(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) {
		c.Auth = newAuth(auth.Config{Users: users(t, "admin", "Pässwort-lang-12")})
	})
	if a := s.do(call{method: "POST", path: sessionPath, user: "admin", password: "Pässwort-lang-12"}); a.status != http.StatusCreated {
		t.Fatalf("in UTF-8: %d", a.status)
	}
	form := formLogin("admin", "")
	form.body = "j_username=admin&j_password=P%E4sswort-lang-12"
	for name, c := range map[string]call{
		"Basic": {method: "GET", path: csrPath, user: "admin", password: "P\xe4sswort-lang-12"}, "form": form,
	} {
		for range 25 {
			a := s.do(c)
			if challenge := a.header.Get("WWW-Authenticate"); a.status != http.StatusUnauthorized || challenge != `Basic realm="attestcsr", charset="UTF-8"` {
				t.Fatalf("%s: %d, challenge %s", name, a.status, challenge)
			}
			if line := s.logged(a); !strings.Contains(line, "not UTF-8") || strings.Contains(line, "sswort") {
				t.Fatalf("%s: logged %s", name, line)
			}
		}
	}
}

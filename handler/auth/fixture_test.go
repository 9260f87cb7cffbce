package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	here      = "192.0.2.1"
	elsewhere = "198.51.100.7"
)

func from(address string) audit.Request { return audit.Request{Address: address} }

var (
	esx = auth.Realm{Dialect: "esx", SessionHeader: "vmware-api-session-id", SessionCookie: "vmware-api-session-id"}
	nsx = auth.Realm{Dialect: "nsx", SessionCookie: "JSESSIONID", XSRFHeader: "X-XSRF-TOKEN"}
	// tokens takes sessions in the Authorization header.
	tokens = auth.Realm{Dialect: "transit", SessionHeader: "X-Vault-Token", Bearer: true}
)

// newAuth makes an Authenticator of nobody as the service does, with what cfg has instead.
func newAuth(cfg auth.Config) *auth.Authenticator {
	nobody, _ := auth.ParseUsers(nil)
	return auth.New(kit.Complete(cfg, auth.Config{
		Users: nobody, Privileges: func(string) []csr.Privilege { return nil }, OnPassword: func(_, _ string) {}, Now: time.Now, Networks: newNetworks(time.Now),
		Refused: func(audit.Refusal) {}, LoggedIn: func(audit.Request) {}, LoggedOut: func(audit.Request) {},
		IdleTimeout: 30 * time.Minute, Lifetime: 24 * time.Hour, Sessions: 10_000, SessionsPerUser: 1_000,
		RememberFor: 5 * time.Minute, Failures: 20, Comparisons: max(1, runtime.GOMAXPROCS(0)/2),
	}))
}

// newNetworks hashes without a key.
func newNetworks(now func() time.Time) *auth.Networks {
	return auth.NewNetworks(sha256.Sum256, now)
}

// hashOf makes the cheapest hash there is; which cost it has is not the point.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	passwordOf.Store(string(hash), password)
	return string(hash)
}

// usersOf makes users of names and passwords in turn.
func usersOf(t testing.TB, namesAndPasswords ...string) *auth.Users {
	t.Helper()
	var file strings.Builder
	for i := 0; i < len(namesAndPasswords); i += 2 {
		fmt.Fprintf(&file, "%s:%s\n", namesAndPasswords[i], hashOf(t, namesAndPasswords[i+1]))
	}
	return parse(t, file.String())
}

func parse(t testing.TB, file string) *auth.Users {
	t.Helper()
	users, err := auth.ParseUsers([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return users
}

// comparisons counts bcrypt's runs and how many there are at once. Each takes
// takes: only for use in a synctest bubble, where that costs no time.
type comparisons struct {
	takes   time.Duration
	compare func(hash, password []byte) error

	mu      sync.Mutex
	costs   []int
	running int
	most    int
}

func count(a *auth.Authenticator, takes time.Duration) *comparisons {
	c := &comparisons{takes: takes, compare: a.Bcrypt()}
	a.Compare(c.run)
	return c
}

func (c *comparisons) run(hash, password []byte) error {
	cost, err := bcrypt.Cost(hash)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.costs = append(c.costs, cost)
	c.running++
	c.most = max(c.most, c.running)
	c.mu.Unlock()
	if c.takes > 0 {
		time.Sleep(c.takes)
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running--
	}()
	return c.compare(hash, password)
}

// runs returns the costs of the comparisons since the last call.
func (c *comparisons) runs() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	costs := c.costs
	c.costs = nil
	return costs
}

// plainly compares in no time with what bcrypt would find, for tests of what
// stands before it; hashes are those of users made by usersOf.
func plainly(hash, password []byte) error {
	if known, ok := passwordOf.Load(string(hash)); ok && known == string(password) {
		return nil
	}
	return bcrypt.ErrMismatchedHashAndPassword
}

// passwordOf knows the password of every hash that hashOf made.
var passwordOf sync.Map

// request makes a request with headers given as "Name: value".
func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	return r
}

// as makes a request one of another method.
func as(method string, r *http.Request) *http.Request {
	r.Method = method
	return r
}

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func try(a *auth.Authenticator, user, password, address string) error {
	_, err := a.Authenticate(context.Background(), request(basic(user, password)), from(address), esx)
	return err
}

// begin begins a session.
func begin(t testing.TB, a *auth.Authenticator, user, password string, realm auth.Realm) auth.Login {
	t.Helper()
	made, err := a.Login(context.Background(), request(basic(user, password)), from(here), realm)
	if err != nil || made.User != user {
		t.Fatalf("login of %s: %q, %v", user, made.User, err)
	}
	return made
}

func login(t testing.TB, a *auth.Authenticator, user, password string, realm auth.Realm) (id string) {
	t.Helper()
	return begin(t, a, user, password, realm).Session
}

// authCase is a request and who it is from: "amy by basic", or the kind of the error.
type authCase struct {
	name, method string
	headers      []string
	realm        auth.Realm
	want         string
}

func authenticateEach(t *testing.T, a *auth.Authenticator, cases []authCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			caller, err := a.Authenticate(t.Context(), as(c.method, request(c.headers...)), from(here), c.realm)
			got := caller.User + " by " + caller.Method
			if err != nil {
				got = kindOf(err).String()
				if caller.User != "" || caller.Privileges != nil {
					t.Errorf("caller %+v beside an error", caller)
				}
			}
			if got != c.want || err == nil && caller.Address != here {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
}

// ended reports whether an id authenticates no longer; if it does, that is an access.
func ended(t testing.TB, a *auth.Authenticator, id string, realm auth.Realm) bool {
	t.Helper()
	_, err := a.Authenticate(context.Background(), request("Cookie: "+realm.SessionCookie+"="+id), from(here), realm)
	if err != nil {
		wantKind(t, err, csr.Unauthenticated)
	}
	return err != nil
}

func kindOf(err error) csr.Kind {
	if known, ok := errors.AsType[*csr.Error](err); ok {
		return known.Kind
	}
	return csr.Internal
}

func wantKind(t testing.TB, err error, kind csr.Kind) {
	t.Helper()
	known, ok := errors.AsType[*csr.Error](err)
	switch {
	case !ok || known.Kind != kind:
		t.Fatalf("error %v, want kind %s", err, kind)
	case (kind == csr.Busy || kind == csr.Unavailable) && known.RetryAfter < time.Second:
		t.Fatalf("error %v: retry after %s, want a second or more", err, known.RetryAfter)
	}
}

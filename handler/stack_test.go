package handler_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
	"attestcsr/keystore/sealed"
	"attestcsr/test/kit"
)

const (
	csrPath         = "/api/esx/attestation/certificate/csr"
	certificatePath = "/api/esx/attestation/certificate"
	sessionPath     = "/api/session"
	checkPath       = "/console/check"
	consoleSession  = "/console/session"
	legacyPath      = "/rest/com/vmware/cis/session"

	keySetPath    = "/.well-known/jwks.json"
	discoveryPath = "/.well-known/openid-configuration"
	issuer        = "https://tokens.example.com"

	adminPassword  = "correct horse battery"
	readerPassword = "only looks"
	viewerPassword = "looks even less"
	hostsPassword  = "knows hosts alone"
)

// validSpec is a create_spec with every required field.
const validSpec = `{"organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
	`"state_or_province":"California","country":"us","email_address":"pki@example.com"}`

// stack is the whole service behind a real TLS socket.
type stack struct {
	t         testing.TB
	url       string
	transport *http.Transport
	client    *http.Client
	witness   *witness // of the exchanges of client and of serve; nil in benchmarks
	server    *httptest.Server
	handler   *handler.Handler
	auth      *auth.Authenticator
	registry  *prometheus.Registry
	log       *kit.Buffer
	hostname  string
}

// newAuth makes an Authenticator as the service does, with what cfg has instead.
func newAuth(cfg auth.Config) *auth.Authenticator {
	return auth.New(kit.Complete(cfg, auth.Config{
		Privileges: func(string) []csr.Privilege { return nil }, OnPassword: func(_, _ string) {}, Now: time.Now,
		Networks: auth.NewNetworks(sha256.Sum256, time.Now),
		Refused:  func(audit.Refusal) {}, LoggedIn: func(audit.Request) {}, LoggedOut: func(audit.Request) {},
		IdleTimeout: 30 * time.Minute, Lifetime: 24 * time.Hour, Sessions: 10_000, SessionsPerUser: 1_000,
		RememberFor: 5 * time.Minute, Failures: 20, Comparisons: 1,
	}))
}

type option func(*handler.Config)

// newStack has one RSA key of each size, which it hands out again and again: most
// tests do not ask whether a key is fresh, and an RSA key takes long to make.
func newStack(t testing.TB, options ...option) *stack {
	t.Helper()
	return newStackOf(t, setup{}, options...)
}

// setup is what few tests change.
type setup struct {
	freshKeys bool          // each key is made when it is asked for
	requests  int           // that the collection of NSX takes; 0: 100,000
	rate      int           // of signatures; 0: no bound
	wait      time.Duration // until a certificate becomes active
}

func newStackOf(t testing.TB, of setup, options ...option) *stack {
	t.Helper()
	s := &stack{t: t, log: &kit.Buffer{}, registry: prometheus.NewRegistry(), hostname: "esx-01.example.com"}
	logger := slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keys := s.openKeystore(of.freshKeys, logger)
	service, err := csr.New(csr.Config{
		Keys: keys, KeySizes: []int{2048, 3072, 4096}, Hostname: s.hostname,
		MaxRequests: cmp.Or(of.requests, 100_000), MaxCertificates: 100_000, Logger: logger, Now: time.Now,
		SignatureRate: of.rate, ActivateAfter: of.wait, Publish: csr.Publish{Enabled: true, Retain: 24 * time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.auth = newAuth(auth.Config{
		Users: users(t, "admin", adminPassword, "reader", readerPassword, "viewer", viewerPassword, "hosts", hostsPassword), Privileges: privileges,
	})
	for _, c := range slices.Concat(keys.Collectors(), service.Collectors(), s.auth.Collectors()) {
		s.registry.MustRegister(c)
	}
	cfg := handler.Config{
		Service: service, Auth: s.auth, Ready: service.Ready,
		Registry: s.registry, Logger: logger, Pool: func() error { return nil }, Version: "v1.2.3",
		Console:   true,
		Publish:   &handler.Publish{MaxAge: 5 * time.Minute, Issuer: issuer},
		BodyBytes: 64 << 10, RequestsPerClient: 256, WriteTimeout: 30 * time.Second,
	}
	for _, o := range options {
		o(&cfg)
	}
	s.handler, err = handler.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, measures := t.(*testing.B); !measures {
		s.witness = newWitness(t)
	}
	server := httptest.NewTLSServer(s.handler)
	t.Cleanup(server.Close)
	s.server, s.url = server, server.URL
	s.transport = server.Client().Transport.(*http.Transport)
	s.transport.MaxIdleConnsPerHost = 64
	s.client = s.clientOf(s.transport)
	return s
}

// clientOf is a client whose exchanges are witnessed.
func (s *stack) clientOf(transport *http.Transport) *http.Client {
	if s.witness == nil {
		return &http.Client{Transport: transport}
	}
	return &http.Client{Transport: recorder{transport, s.witness}}
}

func (s *stack) openKeystore(freshKeys bool, logger *slog.Logger) *keystore.Keystore {
	s.t.Helper()
	store, err := bolt.Open(filepath.Join(s.t.TempDir(), "attestcsr.db"), bolt.Options{Logger: logger})
	if err != nil {
		s.t.Fatal(err)
	}
	var custodian keystore.Custodian
	if freshKeys {
		custodian, err = newCustodian()
	} else {
		custodian, err = sharedCustodian()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	// No targets: keys are made when they are asked for.
	maker := pool.New(pool.Options{Custodian: staysOpen{custodian}, QueueBound: 256, QueueDeadline: time.Minute, Logger: logger})
	keys, err := keystore.Open(s.t.Context(), keystore.Options{Store: store, Custodian: maker, MAC: keystoretest.MAC("records"), Logger: logger})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := keys.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return keys
}

// newCustodian has a keyset in memory alone: its file is removed.
func newCustodian() (keystore.Custodian, error) {
	dir, err := os.MkdirTemp("", "keyset")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
}

// sharedCustodian is that of all stacks without fresh keys, so that each RSA key is
// made once for all tests.
var sharedCustodian = sync.OnceValues(func() (keystore.Custodian, error) {
	custodian, err := newCustodian()
	return keystoretest.NewHandedIn(custodian), err
})

// staysOpen is a custodian that others use too.
type staysOpen struct{ keystore.Custodian }

func (staysOpen) Close() error { return nil }

// privileges returns what each user of the stack may do.
func privileges(user string) []csr.Privilege {
	return map[string][]csr.Privilege{
		"admin":  csr.Privileges(),
		"reader": {csr.PolicyCertificateRead, csr.PolicyCertificateCRUD},
		"viewer": {csr.PolicyCertificateRead},
		"hosts":  {csr.SecurityManagement},
	}[user]
}

func trusting(prefixes ...string) option {
	return func(c *handler.Config) {
		for _, p := range prefixes {
			c.TrustedProxies = append(c.TrustedProxies, netip.MustParsePrefix(p))
		}
	}
}

// users makes a users file. The lowest cost of bcrypt keeps the tests quick.
func users(t testing.TB, namesAndPasswords ...string) *auth.Users {
	t.Helper()
	return parseUsers(t, usersFile(t, namesAndPasswords...))
}

func usersFile(t testing.TB, namesAndPasswords ...string) string {
	t.Helper()
	var file strings.Builder
	for i := 0; i < len(namesAndPasswords); i += 2 {
		hash, err := bcrypt.GenerateFromPassword([]byte(namesAndPasswords[i+1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file.WriteString(namesAndPasswords[i] + ":" + string(hash) + "\n")
	}
	return file.String()
}

func parseUsers(t testing.TB, file string) *auth.Users {
	t.Helper()
	parsed, err := auth.ParseUsers([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// call is one request. The zero value is what the vendor's SDK sends: JSON
// content type, "{}" where there is no body, Basic on every call.
type call struct {
	method, path string
	body         string
	header       map[string]string // a value "-" removes the header
	lines        http.Header       // further lines of the header
	anonymous    bool
	user         string
	password     string
	raw          bool // no content type and no default body: what curl sends
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// request makes the request of a call to a server.
func (c call) request(server string) (*http.Request, error) {
	body := c.body
	if body == "" && !c.raw {
		body = "{}"
	}
	req, err := http.NewRequestWithContext(context.Background(), c.method, server+c.path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if !c.raw {
		req.Header.Set("Content-Type", asJSON)
	}
	if !c.anonymous {
		user, password := "admin", adminPassword
		if c.user != "" {
			user, password = c.user, c.password
		}
		req.SetBasicAuth(user, password)
	}
	for name, value := range c.header {
		if value == "-" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	for name, values := range c.lines {
		req.Header[name] = append(req.Header[name], values...)
	}
	return req, nil
}

// do sends a call over the socket.
func (s *stack) do(c call) answer {
	s.t.Helper()
	a, err := s.try(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// try is do for other goroutines than that of the test.
func (s *stack) try(c call) (answer, error) {
	req, err := c.request(s.url)
	if err != nil {
		return answer{}, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, data}, err
}

// serve answers a call without a socket.
func (s *stack) serve(c call) answer {
	req, err := c.request("https://host")
	if err != nil {
		s.t.Error(err)
		return answer{}
	}
	req.RemoteAddr = "192.0.2.1:1234"
	return s.serveRequest(req)
}

func (s *stack) serveRequest(r *http.Request) answer {
	var sent kit.Buffer
	if r.Body != nil {
		r.Body = readCloser{io.TeeReader(r.Body, &sent), r.Body}
	}
	recorder := httptest.NewRecorder()
	s.handler.ServeHTTP(recorder, r)
	a := answer{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
	if s.witness != nil {
		s.witness.see(exchange{r, []byte(sent.String()), a})
	}
	return a
}

// logged is the line of the log about a request that was answered.
func (s *stack) logged(a answer) string {
	s.t.Helper()
	before, rest, found := strings.Cut(s.log.String(), `"request_id":"`+a.header.Get("X-Request-Id"))
	if !found {
		s.t.Fatal("a request is not logged")
	}
	rest, _, _ = strings.Cut(rest, "\n")
	return before[strings.LastIndex(before, "\n")+1:] + rest
}

// get reads a page that needs no credentials, such as metrics.
func (s *stack) get(path string) string {
	s.t.Helper()
	a := s.do(call{method: "GET", path: path, anonymous: true})
	if a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	return string(a.body)
}

// decode reads an answer strictly: a member that the type does not have is an error.
func decode[T any](t testing.TB, a answer) T {
	t.Helper()
	var v T
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil || d.More() {
		t.Fatalf("not one %T: %v: %d %s", v, err, a.status, a.body)
	}
	return v
}

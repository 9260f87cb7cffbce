package handler_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/pool"
	"attestcsr/keystore/sealed"
	"attestcsr/test/kit"
)

const (
	csrPath         = "/api/esx/attestation/certificate/csr"
	certificatePath = "/api/esx/attestation/certificate"
	sessionPath     = "/api/session"
	legacyPath      = "/rest/com/vmware/cis/session"

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
	t        testing.TB
	url      string
	client   *http.Client
	handler  *handler.Handler
	keys     *keystore.Keystore
	auth     *auth.Authenticator
	registry *prometheus.Registry
	log      *kit.Buffer
	hostname string
}

type option func(*handler.Config)

func newStack(t testing.TB, options ...option) *stack {
	t.Helper()
	return newStackOver(t, func(c keystore.Custodian) keystore.Custodian { return c }, options...)
}

// newStackOver wraps the custodian of the key store.
func newStackOver(t testing.TB, wrap func(keystore.Custodian) keystore.Custodian, options ...option) *stack {
	t.Helper()
	dir := t.TempDir()
	s := &stack{t: t, log: &kit.Buffer{}, registry: prometheus.NewRegistry(), hostname: "esx-01.example.com"}
	logger := slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.keys = openKeystore(t, dir, wrap, logger)
	service, err := csr.New(csr.Config{Keys: s.keys, KeySizes: []int{2048, 3072, 4096}, Hostname: s.hostname})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.auth = auth.New(auth.Config{
		Users:       users(t, "admin", adminPassword, "reader", readerPassword, "viewer", viewerPassword, "hosts", hostsPassword),
		Privileges:  privileges,
		IdleTimeout: 30 * time.Minute,
		Lifetime:    24 * time.Hour,
	})
	for _, c := range slices.Concat(s.keys.Collectors(), service.Collectors(), s.auth.Collectors()) {
		s.registry.MustRegister(c)
	}
	cfg := handler.Config{
		Service: service, Auth: s.auth, Ready: service.Ready,
		Registry: s.registry, Logger: logger,
	}
	for _, o := range options {
		o(&cfg)
	}
	s.handler, err = handler.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(s.handler)
	t.Cleanup(server.Close)
	s.url, s.client = server.URL, server.Client()
	s.client.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return s
}

func openKeystore(t testing.TB, dir string, wrap func(keystore.Custodian) keystore.Custodian, logger *slog.Logger) *keystore.Keystore {
	t.Helper()
	store, err := bolt.Open(filepath.Join(dir, "attestcsr.db"), bolt.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	// No targets: keys are made when they are asked for.
	maker, err := pool.New(pool.Options{Custodian: custodian, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keystore.Open(t.Context(), keystore.Options{Store: store, Custodian: wrap(maker), Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
	})
	return keys
}

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
	anonymous    bool
	user         string
	password     string
	raw          bool // no default body, for what curl sends
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *stack) do(c call) answer {
	s.t.Helper()
	a, err := s.try(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s *stack) try(c call) (answer, error) {
	body := c.body
	if body == "" && !c.raw {
		body = "{}"
	}
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(context.Background(), c.method, s.url+c.path, reader)
	if err != nil {
		return answer{}, err
	}
	if !c.raw {
		req.Header.Set("Content-Type", "application/json")
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
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, data}, err
}

// vapiError is the error document as the vendor's client reads it. That client fails on
// anything but an object whose messages and args are lists.
type vapiError struct {
	ErrorType string `json:"error_type"`
	Messages  []struct {
		ID      string   `json:"id"`
		Default string   `json:"default_message"`
		Args    []string `json:"args"`
	} `json:"messages"`
	Data map[string]any `json:"data"`
}

func (a answer) vapiError(t testing.TB) vapiError {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("error with Content-Type %q", got)
	}
	var shape map[string]json.RawMessage
	if err := json.Unmarshal(a.body, &shape); err != nil {
		t.Fatalf("error body is no object: %v: %s", err, a.body)
	}
	for name, value := range shape {
		if string(value) == "null" {
			t.Errorf("member %s is null", name)
		}
	}
	var doc vapiError
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatalf("error document: %v: %s", err, a.body)
	}
	if len(doc.Messages) == 0 {
		t.Errorf("no messages: %s", a.body)
	}
	for _, m := range doc.Messages {
		if m.ID == "" || m.Default == "" || m.Args == nil {
			t.Errorf("incomplete message: %s", a.body)
		}
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-ID")
	}
	return doc
}

func (s *stack) createCSR(spec string) string {
	s.t.Helper()
	a := s.do(call{method: "POST", path: csrPath, body: spec})
	if a.status != http.StatusCreated {
		s.t.Fatalf("create: %d %s", a.status, a.body)
	}
	return a.member(s.t, "csr")
}

// member returns the only member of a JSON object.
func (a answer) member(t testing.TB, name string) string {
	t.Helper()
	var object map[string]string
	if err := json.Unmarshal(a.body, &object); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if _, ok := object[name]; !ok || len(object) != 1 {
		t.Fatalf("want exactly the member %q: %s", name, a.body)
	}
	return object[name]
}

package handler_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler"
	"attestcsr/handler/policy"
	"attestcsr/handler/transit"
	"attestcsr/handler/vapi"
)

func TestHealthAndReadiness(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var broken error
	s := newStack(t, func(c *handler.Config) {
		ready := c.Ready
		c.Ready = func(ctx context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return errors.Join(broken, ready(ctx))
		}
	})
	get := func(path string) answer { return s.do(call{method: "GET", path: path, anonymous: true, raw: true}) }
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if a := get(path); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	mu.Lock()
	broken = errors.New("the disk is gone")
	mu.Unlock()
	if a := get("/readyz"); a.status != http.StatusServiceUnavailable || strings.Contains(string(a.body), "disk") {
		t.Errorf("not ready: %d %s", a.status, a.body)
	}
	if !strings.Contains(s.log.String(), "the disk is gone") {
		t.Error("the log does not say why")
	}
	if a := get("/healthz"); a.status != http.StatusOK {
		t.Errorf("health: %d", a.status)
	}
}

func TestSeparateOps(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.SeparateOps = true })
	if a := s.do(call{method: "GET", path: "/metrics", anonymous: true}); a.status != http.StatusNotFound {
		t.Errorf("metrics beside the API: %d", a.status)
	}
	ops := httptest.NewServer(s.handler.Ops())
	defer ops.Close()
	for path, want := range map[string]int{"/metrics": http.StatusOK, "/readyz": http.StatusOK, csrPath: http.StatusNotFound} {
		resp, err := http.Get(ops.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s on the ops listener: %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	if err := s.handler.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := s.do(call{method: "POST", path: csrPath, body: validSpec})
	if doc := a.vapiError(t); a.status != http.StatusServiceUnavailable || doc.ErrorType != "SERVICE_UNAVAILABLE" || a.header.Get("Retry-After") == "" {
		t.Errorf("while draining: %d %s %v", a.status, a.body, a.header)
	}
	if a := s.do(call{method: "GET", path: "/readyz", anonymous: true}); a.status != http.StatusServiceUnavailable {
		t.Errorf("readiness while draining: %d", a.status)
	}
	if a := s.do(call{method: "GET", path: "/healthz", anonymous: true}); a.status != http.StatusOK {
		t.Errorf("health while draining: %d", a.status)
	}
}

// TestPanic: a panic is a 500 that does not show its cause. The readiness function
// stands for any code that panics.
func TestPanic(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) {
		c.Ready = func(context.Context) error { panic("cause of the panic") }
	})
	a := s.do(call{method: "GET", path: "/readyz", anonymous: true})
	doc := a.vapiError(t)
	id := a.header.Get("X-Request-Id")
	if a.status != http.StatusInternalServerError || doc.ErrorType != "ERROR" || doc.Data["request_id"] != id {
		t.Errorf("%d %s", a.status, a.body)
	}
	if strings.Contains(string(a.body), "cause of the panic") {
		t.Error("the cause left the service")
	}
	if log := s.log.String(); !strings.Contains(log, "cause of the panic") || !strings.Contains(log, id) {
		t.Error("the log does not have the cause and the request id")
	}
}

// TestErrorDocuments walks every kind of error in every dialect. The answers are as the
// OpenAPI document says, and it says of no operation that there are others.
func TestErrorDocuments(t *testing.T) {
	t.Parallel()
	const secret = "cause with details"
	statuses := map[csr.Kind]int{
		csr.Internal: 500, csr.Invalid: 400, csr.Unauthenticated: 401, csr.Unauthorized: 403,
		csr.NotFound: 404, csr.Exists: 400, csr.Conflict: 409, csr.Busy: 503, csr.Unavailable: 503, csr.TooMany: 503,
		csr.Stale: 412, csr.Forged: 403,
	}
	dialects := map[string]func(echo.Context, string, error) error{
		"Esx": vapi.WriteError, "Legacy": vapi.WriteLegacyError, "Nsx": policy.WriteError, "Vault": transit.WriteError,
	}
	d := theDescription(t)
	for name, write := range dialects {
		schema := d.schemas[pointer("#/components/responses", name+"Internal", "content", asJSON)]
		written := []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge}
		for _, kind := range csr.Kinds() {
			want, known := statuses[kind]
			if !known {
				t.Fatalf("kind %s has no status in this test", kind)
			}
			switch {
			case kind == csr.Stale && name != "Nsx":
				want = http.StatusConflict // vSphere Automation has no 412
			case kind == csr.Unauthenticated && name == "Vault":
				want = http.StatusForbidden
			case kind == csr.TooMany && name == "Vault":
				want = http.StatusTooManyRequests
			}
			e := &csr.Error{Kind: kind, Err: errors.New(secret)}
			if kind == csr.Invalid {
				e.Violations = []pkcs10.Violation{{Field: pkcs10.KeySize, Rule: "not_allowed", Value: "1", Limit: "2048"}}
			}
			recorder := httptest.NewRecorder()
			c := echo.New().NewContext(httptest.NewRequest("GET", "/", nil), recorder)
			if err := write(c, "rid", e); err != nil {
				t.Fatal(err)
			}
			if recorder.Code != want {
				t.Errorf("%s %s: status %d, want %d", name, kind, recorder.Code, want)
			}
			written = append(written, recorder.Code)
			text := recorder.Body.String()
			document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
			if err != nil || schema.Validate(document) != nil || strings.Contains(text, secret) {
				t.Errorf("%s %s: %s", name, kind, text)
			}
			if got := recorder.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("%s %s: Content-Type %q", name, kind, got)
			}
		}
		if described := d.errorsOf(name); len(described) < 4 || slices.ContainsFunc(described, func(status int) bool { return !slices.Contains(written, status) }) {
			t.Errorf("%s: the document has errors %v, there are %v", name, described, written)
		}
	}
}

// errorsOf are the statuses of errors that operations have from a family.
func (d *description) errorsOf(family string) (statuses []int) {
	for _, item := range d.Paths.Map() {
		for _, operation := range item.Operations() {
			for key, r := range operation.Responses.Map() {
				if status, err := strconv.Atoi(key); err == nil && status >= 400 && strings.HasPrefix(r.Ref, "#/components/responses/"+family) {
					statuses = append(statuses, status)
				}
			}
		}
	}
	return statuses
}

// The dialect of an error document follows the path, also of paths that do not exist.
func TestErrorDocumentByPath(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for path, member := range map[string]string{
		"/none":                                 `"error_type":"NOT_FOUND"`,
		"/api/unknown":                          `"error_type":"NOT_FOUND"`,
		"/api/session/createX":                  `"error_type":"NOT_FOUND"`,
		"/rest/unknown":                         `"type":"com.vmware.vapi.std.errors.not_found"`,
		"/policy/api/v1/infra/unknown":          `"error_code":600`,
		"/policyx":                              `"error_type":"NOT_FOUND"`,
		"/policy/api/v1/infra/certificates/a/b": `"error_code":600`,
		"/api/session/create/and/further":       `"error_type":"NOT_FOUND"`,
	} {
		a := s.do(call{method: "GET", path: path, anonymous: true})
		if a.status != http.StatusNotFound || !strings.Contains(string(a.body), member) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// Unknown paths beside templates with parameters are 404, and unknown methods are 405,
// also without credentials.
func TestNSXRoutes(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for path, allow := range map[string]string{
		nsxCSRs:                 "GET, HEAD, POST",
		nsxCSRs + "/x":          "GET, HEAD, POST, DELETE",
		nsxCSRs + "/a%2Fb":      "GET, HEAD, POST, DELETE",
		nsxCSRs + "/x/pem-file": "GET, HEAD",
		nsxCertificates:         "GET, HEAD",
		nsxCertificates + "/x":  "GET, HEAD, DELETE",
		"/api/session/create":   "POST",
	} {
		for _, method := range []string{"PUT", "PATCH", "OPTIONS", "BREW"} {
			a := s.do(call{method: method, path: path, anonymous: true})
			a.wantNSXError(t, http.StatusMethodNotAllowed, 255)
			if got := a.header.Get("Allow"); got != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, path, got, allow)
			}
		}
	}
	for _, path := range []string{
		"/policy", "/policy/", "/policy/api/v1/infra", nsxCSRs + "x", nsxCSRs + "/a/b", nsxCSRs + "/a/pem-file/b", nsxCSRs + "/a/b/pem-file", nsxCSRs + "/x/",
		nsxCertificates + "/a/b", nsxCertificates + "/a/b/c", nsxCertificates + "/a/pem-file", "/api/session/create/", "/policy/api/v1/infra/c%73rs/x", "/POLICY/api/v1/infra/csrs/x",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "PUT", "OPTIONS"} {
			a := s.do(call{method: method, path: path, anonymous: true})
			if a.status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
	for l := range strings.Lines(s.log.String()) {
		if strings.Contains(l, `"status":404`) && !strings.Contains(l, `"route":"unmatched"`) {
			t.Errorf("an unknown path has a route: %s", l)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.createCSR(validSpec)
	s.do(call{method: "POST", path: csrPath, body: "{}"})
	s.do(call{method: "GET", path: csrPath, anonymous: true})
	s.do(call{method: "BREW", path: csrPath})
	for _, path := range []string{"/a", "/b", "/c"} {
		s.do(call{method: "GET", path: path})
	}
	problems, err := testutil.GatherAndLint(s.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	text := string(s.do(call{method: "GET", path: "/metrics", anonymous: true}).body)
	for _, want := range []string{
		`attestcsr_csrs_created_total{dialect="esx",outcome="created"} 1`,
		`attestcsr_csrs_created_total{dialect="esx",outcome="invalid"} 1`,
		`attestcsr_http_request_duration_seconds_count{code="404",method="GET",route="unmatched"} 3`,
		`attestcsr_http_request_duration_seconds_count{code="405",method="other",route="` + csrPath + `"} 1`,
		`attestcsr_http_request_duration_seconds_count{code="201",method="POST",route="` + csrPath + `"} 1`,
		`attestcsr_key_generation_seconds_count{`,
		`attestcsr_store_commit_seconds_count{`,
		`attestcsr_certificate_not_after_timestamp_seconds `,
		`attestcsr_csr_created_timestamp_seconds `,
		`attestcsr_authentication_attempts_total{`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestRequestLog(t *testing.T) {
	t.Parallel()
	s := newStack(t, trusting("127.0.0.1/32"))
	a := s.do(call{method: "POST", path: csrPath, body: "{}", header: map[string]string{
		"X-Request-ID": "from the\tclient" + strings.Repeat("x", 100), "vapi-ctx-opid": "op-7", "X-Forwarded-For": "198.51.100.7, 192.0.2.9",
	}})
	id := a.header.Get("X-Request-Id")
	if strings.Contains(id, "client") {
		t.Error("the request id is the client's")
	}
	var line string
	for l := range strings.Lines(s.log.String()) {
		if strings.Contains(l, id) {
			line += l
		}
	}
	if strings.Count(line, "\n") != 1 {
		t.Errorf("not one line: %s", line)
	}
	for _, want := range []string{`"method":"POST"`, `"route":"` + csrPath + `"`, `"status":400`, `"user":"admin"`,
		`"client":"192.0.2.9"`, `"error_kind":"invalid"`, `"dialect":"esx"`, `"op_id":"op-7"`, `"client_request_id":"from the`, `"duration":`} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Contains(line, strings.Repeat("x", 65)) {
		t.Error("the client's request id is not bounded")
	}
}

// TestClientGone: a request whose client left is no failure of the service.
func TestClientGone(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", csrPath, nil)
	r.SetBasicAuth("admin", adminPassword)
	s.handler.ServeHTTP(httptest.NewRecorder(), r)
	text := string(s.do(call{method: "GET", path: "/metrics", anonymous: true}).body)
	if want := `attestcsr_http_request_duration_seconds_count{code="499",method="GET",route="` + csrPath + `"} 1`; !strings.Contains(text, want) {
		t.Errorf("/metrics lacks %s", want)
	}
	if log := s.log.String(); !strings.Contains(log, `"error_kind":"client_gone"`) || !strings.Contains(log, `"status":499`) {
		t.Errorf("the log says %s", log)
	}
}

func TestForwardedForIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.do(call{method: "GET", path: csrPath, header: map[string]string{"X-Forwarded-For": "198.51.100.7", "X-Real-IP": "198.51.100.7"}})
	if strings.Contains(s.log.String(), "198.51.100.7") {
		t.Error("X-Forwarded-For was believed from an untrusted peer")
	}
}

func TestSecretsStayIn(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	var seen strings.Builder
	id := strings.Trim(string(s.do(call{method: "POST", path: sessionPath}).body), `"`)
	guess := "a wrong password"
	for _, c := range []call{
		{method: "POST", path: csrPath, body: validSpec},
		{method: "GET", path: csrPath, anonymous: true, header: map[string]string{"vmware-api-session-id": id}},
		{method: "GET", path: csrPath + "?" + id, anonymous: true, header: map[string]string{"vmware-api-session-id": id + "0"}},
		{method: "GET", path: csrPath, user: "admin", password: guess},
		{method: "GET", path: sessionPath, anonymous: true, header: map[string]string{"vmware-api-session-id": id}},
		{method: "DELETE", path: sessionPath, anonymous: true, header: map[string]string{"vmware-api-session-id": id}},
		{method: "GET", path: "/metrics"},
	} {
		seen.Write(s.do(c).body)
	}
	seen.WriteString(s.log.String())
	for name, secret := range map[string]string{"password": adminPassword, "guessed password": guess, "session id": id, "private key": "PRIVATE KEY"} {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("%s found in an answer, a metric or the log", name)
		}
	}
}

func TestDrainWaitsForRequestsInFlight(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	body := &slowBody{entered: entered, release: release, rest: strings.NewReader(validSpec)}
	s := newStack(t)
	done := make(chan answer)
	go func() {
		req, err := http.NewRequestWithContext(context.Background(), "POST", s.url+csrPath, body)
		if err != nil {
			t.Error(err)
		}
		req.SetBasicAuth("admin", adminPassword)
		req.Header.Set("Content-Type", "application/json")
		resp, err := s.client.Do(req)
		if err != nil {
			t.Error(err)
			done <- answer{}
			return
		}
		resp.Body.Close()
		done <- answer{status: resp.StatusCode}
	}()
	<-entered
	for !strings.Contains(string(s.do(call{method: "GET", path: "/metrics", anonymous: true}).body), "attestcsr_http_requests_in_flight 1") {
		time.Sleep(time.Millisecond)
	}
	drained := make(chan error)
	go func() { drained <- s.handler.Drain(context.Background()) }()
	select {
	case <-drained:
		t.Error("drained with a request in flight")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if a := <-done; a.status != http.StatusCreated {
		t.Errorf("the request in flight got %d", a.status)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// slowBody blocks its reader until it is released.
type slowBody struct {
	once             sync.Once
	entered, release chan struct{}
	rest             *strings.Reader
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.once.Do(func() { close(b.entered) })
	<-b.release
	return b.rest.Read(p)
}

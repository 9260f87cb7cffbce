package start

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// Paths of the ESX dialect, and a body for a create.
const (
	CSRPath         = "/api/esx/attestation/certificate/csr"
	CertificatePath = "/api/esx/attestation/certificate"
	SessionPath     = "/api/session"

	ValidSpec = `{"organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
		`"state_or_province":"California","country":"US","email_address":"pki@example.com"}`
)

// Paths of the NSX dialect, and the content type of its login.
const (
	NSXCSRs         = "/policy/api/v1/infra/csrs"
	NSXCertificates = "/policy/api/v1/infra/certificates"
	NSXLogin        = "/api/session/create"

	FormType = "application/x-www-form-urlencoded"
)

// ECSpec returns a body for a create of the NSX dialect, with a key that is made
// quickly.
func ECSpec(commonName string) string {
	return fmt.Sprintf(`{"subject":{"attributes":[{"key":"CN","value":%q}]},"algorithm":"EC","key_size":256}`, commonName)
}

// Answer is an answer to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Edit changes a request before it is sent.
type Edit func(*http.Request)

// As sends a request with Basic credentials of somebody else.
func As(user, password string) Edit {
	return func(r *http.Request) { r.SetBasicAuth(user, password) }
}

// Authorization returns the header field of Basic credentials, for requests that no
// client sends.
func (s *Instance) Authorization() string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(User+":"+s.Password)) + "\r\n"
}

// Anonymous sends a request without credentials.
func Anonymous(r *http.Request) { r.Header.Del("Authorization") }

// Session sends a request with a session of the ESX dialect instead of Basic
// credentials.
func Session(id string) Edit {
	return func(r *http.Request) {
		Anonymous(r)
		r.Header.Set("vmware-api-session-id", id)
	}
}

// Header sends a request with a header field.
func Header(name, value string) Edit {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// Do sends one request, with a body of JSON and Basic credentials unless an edit says
// otherwise.
func (s *Instance) Do(method, path, body string, edits ...Edit) (Answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth(User, s.Password)
	for _, edit := range edits {
		edit(req)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return Answer{resp.StatusCode, resp.Header, string(content)}, err
}

// Must is Do for a request that has to end with the status. It returns the body.
func (s *Instance) Must(want int, method, path, body string, edits ...Edit) string {
	s.T.Helper()
	a, err := s.Do(method, path, body, edits...)
	if err != nil || a.Status != want {
		s.T.Fatalf("%s %s: %v %d %s", method, path, err, a.Status, a.Body)
	}
	return a.Body
}

// Answers reports whether a GET ends with the status.
func (s *Instance) Answers(want int, path string, edits ...Edit) bool {
	a, err := s.Do(http.MethodGet, path, "", edits...)
	return err == nil && a.Status == want
}

// LogIn returns a new session of the ESX dialect.
func (s *Instance) LogIn() Edit {
	s.T.Helper()
	var id string
	if err := json.Unmarshal([]byte(s.Must(http.StatusCreated, http.MethodPost, SessionPath, "")), &id); err != nil {
		s.T.Fatal(err)
	}
	return Session(id)
}

// Upload returns the form of a file that is uploaded, and what sends it as one.
func Upload(name, content string) (form string, edit Edit) {
	var b strings.Builder
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile("file", name)
	if err == nil {
		_, err = io.WriteString(part, content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		panic(err) // in memory: never
	}
	return b.String(), Header("Content-Type", w.FormDataContentType())
}

// WithClient returns the instance with another client.
func (s *Instance) WithClient(client *http.Client) *Instance {
	other := *s
	other.Client = client
	return &other
}

// Metric returns a metric, such as `attestcsr_connections{listener="api"}`, summed up
// over the labels that are not given.
func (s *Instance) Metric(name string, edits ...Edit) (sum int) {
	s.T.Helper()
	family, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
	known := false
	for line := range strings.Lines(s.Must(http.StatusOK, http.MethodGet, "/metrics", "", edits...)) {
		rest, is := strings.CutPrefix(line, family)
		if !is || rest[0] != ' ' && rest[0] != '{' || !containsAll(rest, strings.Split(labels, ",")) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			s.T.Fatal(err)
		}
		sum, known = sum+int(n), true
	}
	if !known {
		s.T.Fatalf("no metric %s", name)
	}
	return sum
}

// WaitForLines waits until every change has its line in the audit trail: from then on
// nothing is committed without a request.
func (s *Instance) WaitForLines() {
	s.T.Helper()
	kit.Eventually(s.T, "every change has its line", func() bool { return s.Metric("attestcsr_audit_outbox_notes") == 0 })
}

func containsAll(text string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// Member returns a member of a JSON object that is a string.
func Member(t testing.TB, body, name string) string {
	t.Helper()
	var object map[string]string
	if err := json.Unmarshal([]byte(body), &object); err != nil || object[name] == "" {
		t.Fatalf("no member %s: %v: %s", name, err, body)
	}
	return object[name]
}

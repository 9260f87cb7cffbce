package handler_test

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
)

func parseCSR(t testing.TB, text string) *x509.CertificateRequest {
	t.Helper()
	request, err := kit.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// TestGeneratedSpecs has many more, but none of these is left to luck.
func TestCreateCSR(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	defaults := wantedCSR{bits: 2048, names: []wantedName{{mailTag, "pki@example.com"}}, subject: []wantedAttribute{
		{"C", "US"}, {"ST", "California"}, {"L", "Palo Alto"}, {"O", "Example Ltd"}, {"OU", "Hosts"}, {"CN", s.hostname}}}
	for _, test := range []struct {
		name, mediaType, spec string
		want                  wantedCSR
	}{
		{"defaults", asJSON, validSpec, defaults},
		{"null is unset", asJSON, strings.Replace(validSpec, "{", `{"key_size":null,"common_name":null,"subject_alt_name":null,`, 1), defaults},
		{"charset and letter case of the media type", "Application/JSON; charset=UTF-8", validSpec, defaults},
		{"charset in quotes", `application/json; charset="utf-8"`, validSpec, defaults},
		{"charset US-ASCII", `application/json;charset=US-ascii`, validSpec, defaults},
		{"another parameter", `application/json; version=1`, validSpec, defaults},
		{"everything given", asJSON, `{"key_size":3072,"common_name":"attest.example.com","organization":"Ö GmbH","organization_unit":"",
			"locality":"","state_or_province":"","country":"DE","email_address":"",
			"subject_alt_name":["a.example.com","A.EXAMPLE.COM","10.0.0.7","ops@example.com","https://example.com/x","urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"]}`,
			wantedCSR{bits: 3072, subject: []wantedAttribute{{"C", "DE"}, {"O", "Ö GmbH"}, {"CN", "attest.example.com"}}, names: []wantedName{
				{dnsTag, "a.example.com"}, {ipTag, "\x0a\x00\x00\x07"}, {mailTag, "ops@example.com"}, {uriTag, "https://example.com/x"}, {uriTag, "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}}}},
	} {
		a := s.do(call{method: "POST", path: csrPath, body: test.spec, header: map[string]string{"Content-Type": test.mediaType}})
		if a.status != http.StatusCreated {
			t.Errorf("%s: %d %s", test.name, a.status, a.body)
			continue
		}
		text := a.member(t, "csr")
		if _, err := test.want.judge(text); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != text {
			t.Errorf("%s: GET does not return the last CSR", test.name)
		}
	}
}

func TestGetAndDeleteCSR(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, raw := range []bool{false, true} { // the SDK's and curl's way
		for _, method := range []string{"GET", "DELETE"} {
			a := s.do(call{method: method, path: csrPath, raw: raw})
			if doc := a.vapiError(t); a.status != http.StatusNotFound || doc.ErrorType != "NOT_FOUND" {
				t.Errorf("%s without a CSR: %d %s", method, a.status, a.body)
			}
		}
		want := s.createCSR(validSpec)
		if a := s.do(call{method: "GET", path: csrPath, raw: raw}); a.status != http.StatusOK || a.member(t, "csr") != want {
			t.Errorf("GET: %d %s", a.status, a.body)
		}
		if a := s.do(call{method: "HEAD", path: csrPath, raw: true}); a.status != http.StatusOK || len(a.body) != 0 {
			t.Errorf("HEAD: %d %q", a.status, a.body)
		}
		a := s.do(call{method: "DELETE", path: csrPath, raw: raw})
		if a.status != http.StatusNoContent || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
			t.Errorf("DELETE: %d %q %v", a.status, a.body, a.header)
		}
	}
}

// What sessions may do, and that they end, is in TestAccess.
func TestSessions(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	id := s.esxLogin()
	session := decode[map[string]string](t, s.do(call{method: "GET", path: sessionPath}.inSession(id)))
	if len(session) != 3 || session["user"] != "admin" {
		t.Errorf("session: %v", session)
	}
	for _, name := range []string{"created_time", "last_accessed_time"} {
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(session[name]) {
			t.Errorf("%s: %q", name, session[name])
		}
	}
	cookie := call{method: "GET", path: csrPath, anonymous: true, header: map[string]string{"Cookie": "vmware-api-session-id=" + id}}
	for _, test := range []struct {
		call   call
		status int
	}{
		{call{method: "GET", path: csrPath}.inSession(id), http.StatusNotFound},
		{cookie, http.StatusNotFound},
		{call{method: "DELETE", path: sessionPath}.inSession(id), http.StatusNoContent},
		{call{method: "GET", path: csrPath}.inSession(id), http.StatusUnauthorized},
		{cookie, http.StatusUnauthorized},
		{call{method: "GET", path: sessionPath}.inSession(id), http.StatusUnauthorized},
		{call{method: "DELETE", path: sessionPath}.inSession(id), http.StatusUnauthorized},
	} {
		if a := s.do(test.call); a.status != test.status {
			t.Errorf("%s %s: %d %s, want %d", test.call.method, test.call.path, a.status, a.body, test.status)
		}
	}
}

func TestLegacySessions(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	// govmomi sends chunked encoding and no body at all.
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+legacyPath, struct{ io.Reader }{strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", adminPassword)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("login: %d %s %v", resp.StatusCode, body, err)
	}
	id := answer{body: body}.member(t, "value")

	get := call{method: "POST", path: legacyPath + "?~action=get"}
	for _, c := range []call{get, {method: "GET", path: legacyPath}, {method: "GET", path: legacyPath + "?~action=get"}} {
		got := decode[struct{ Value map[string]string }](t, s.do(c.inSession(id)))
		if len(got.Value) != 3 || got.Value["user"] != "admin" {
			t.Errorf("%s %s: %v", c.method, c.path, got)
		}
	}
	if a := s.do(call{method: "GET", path: csrPath}.inSession(id)); a.status != http.StatusNotFound {
		t.Errorf("legacy session under /api: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "DELETE", path: legacyPath}.inSession(id)); a.status != http.StatusOK {
		t.Errorf("logout: %d", a.status)
	}
	a := s.do(get.inSession(id))
	doc := decode[legacyError](t, a)
	if a.status != http.StatusUnauthorized || doc.Type != "com.vmware.vapi.std.errors.unauthenticated" || len(doc.Value.Messages) != 1 {
		t.Errorf("after logout: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "POST", path: legacyPath + "?~action=list"}); a.status != http.StatusNotFound {
		t.Errorf("unknown action: %d", a.status)
	}
}

// TestSessionCookies: a client with a cookie jar, as the vendor's Python client has one,
// needs nothing else.
func TestSessionCookies(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.client.Jar = jar
	login := func(path string) string {
		t.Helper()
		before := s.cookie(path)
		if a := s.do(call{method: "POST", path: path}); a.status != http.StatusCreated && a.status != http.StatusOK {
			t.Fatalf("login: %d %s", a.status, a.body)
		}
		id := s.cookie(path)
		if id == "" || id == before {
			t.Fatalf("the login at %s sets no new cookie", path)
		}
		return id
	}
	first, second := login(sessionPath), login(sessionPath)
	old := login(legacyPath)
	if old == second || s.cookie(csrPath) != second {
		t.Error("the cookie of one path is used on the other")
	}
	none := strings.Repeat("0", 64)
	for _, test := range []struct {
		name   string
		call   call
		status int
	}{
		{"cookie", call{method: "GET", path: csrPath, anonymous: true}, http.StatusNotFound},
		{"legacy cookie", call{method: "GET", path: legacyPath, anonymous: true}, http.StatusOK},
		{"header before cookie", call{method: "GET", path: csrPath}.inSession(none), http.StatusUnauthorized},
		{"empty header before cookie", call{method: "GET", path: csrPath}.inSession(""), http.StatusUnauthorized},
		{"Authorization before cookie", call{method: "GET", path: csrPath, password: "wrong", user: "admin"}, http.StatusUnauthorized},
		{"two cookies", call{method: "GET", path: csrPath, anonymous: true, lines: headers("Cookie", "vmware-api-session-id="+first)}, http.StatusUnauthorized},
		{"an older session", call{method: "GET", path: csrPath}.inSession(first), http.StatusNotFound},
		{"logout", call{method: "DELETE", path: sessionPath, anonymous: true}, http.StatusNoContent},
		{"after the logout", call{method: "GET", path: csrPath}.inSession(second), http.StatusUnauthorized},
		{"an empty cookie", call{method: "GET", path: csrPath, anonymous: true, lines: headers("Cookie", "vmware-api-session-id=")}, http.StatusUnauthorized},
		{"legacy logout", call{method: "DELETE", path: legacyPath, anonymous: true}, http.StatusOK},
	} {
		if a := s.do(test.call); a.status != test.status {
			t.Errorf("%s: %d %s, want %d", test.name, a.status, a.body, test.status)
		}
	}
	if s.cookie(csrPath) != "" || s.cookie(legacyPath) != "" {
		t.Error("a logout leaves the cookie")
	}
	header := map[string]string{"vmware-use-header-authn": "true"}
	for _, path := range []string{sessionPath, legacyPath} {
		for _, method := range []string{"POST", "DELETE"} {
			c := call{method: method, path: path, header: header}
			if method == "DELETE" {
				c = c.inSession(s.esxLogin())
				c.header["vmware-use-header-authn"] = "true"
			}
			if a := s.do(c); a.status >= 300 || a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s %s with %v: %d %q", method, path, header, a.status, a.header.Get("Set-Cookie"))
			}
		}
	}
}

// cookie is the session id that the client's jar sends with a path.
func (s *stack) cookie(path string) string {
	s.t.Helper()
	u, err := url.Parse(s.url + path)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range s.client.Jar.Cookies(u) {
		if c.Name == "vmware-api-session-id" {
			return c.Value
		}
	}
	return ""
}

func newTestCA(t *testing.T) *kit.CA {
	t.Helper()
	return kit.NewCA(t, "Test CA", time.Now())
}

// issueFor makes a certificate for a CSR, under a name of the CA's choice.
func issueFor(t *testing.T, ca *kit.CA, csrText string) string {
	t.Helper()
	return kit.PEM(ca.Issue(t, "issued", parseCSR(t, csrText).PublicKey))
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{freshKeys: true})
	ca := newTestCA(t)

	initial := s.installed()
	first, err := certificateOf(initial)
	if err != nil {
		t.Fatal(err)
	}
	if first.Subject.CommonName != s.hostname || first.IsCA || first.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("initial certificate: %v CA=%v usage=%v", first.Subject, first.IsCA, first.KeyUsage)
	}

	pending := s.createCSR(validSpec)
	if s.installed() != initial {
		t.Error("creating a CSR changed the installed certificate")
	}
	overtaking := s.createCSR(validSpec)
	a := s.setCertificate(issueFor(t, ca, pending))
	if doc := a.vapiError(t); a.status != http.StatusBadRequest || doc.ErrorType != "INVALID_ARGUMENT" || !strings.Contains(doc.Messages[0].Default, "CSR") {
		t.Errorf("set overtaken by a create: %d %s", a.status, a.body)
	}
	certificate := issueFor(t, ca, overtaking)
	a = s.setCertificate("subject=somebody\n" + certificate)
	if a.status != http.StatusNoContent || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
		t.Fatalf("set: %d %s", a.status, a.body)
	}
	if got := s.installed(); got != certificate {
		t.Errorf("installed:\n%s\nwant:\n%s", got, certificate)
	}
	if a := s.do(call{method: "GET", path: csrPath}); a.status != http.StatusNotFound {
		t.Errorf("the CSR was not used up: %d", a.status)
	}

	// A renewal leaves a pending CSR alone.
	next := s.createCSR(validSpec)
	if a := s.setCertificate(issueFor(t, ca, overtaking)); a.status != http.StatusNoContent {
		t.Fatalf("renewal: %d %s", a.status, a.body)
	}
	if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != next {
		t.Error("the pending CSR changed")
	}

	// A private key is refused and not echoed.
	a = s.setCertificate(certificate + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("the secret of somebody")})))
	if a.vapiError(t); a.status != http.StatusBadRequest || strings.Contains(string(a.body)+s.log.String(), "dGhlIHNlY3JldCBvZiBzb21lYm9keQ") {
		t.Errorf("a private key: %d %s", a.status, a.body)
	}
}

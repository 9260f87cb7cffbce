//go:build tools

// Package browser_test has a real browser open pages of other sites beside a service
// that the browser is logged in to.
package browser_test

import (
	_ "embed"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"attestcsr/test/browser"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

//go:embed attack.js
var attack string

// logIn has the browser log in to a service in three ways: it remembers the password,
// and it has the session cookie of each dialect.
func logIn(page *browser.Page, t *testing.T, s *start.Instance) {
	t.Helper()
	page.Open(strings.Replace(s.URL, "https://", "https://"+start.User+":"+start.Password+"@", 1) + start.NSXCSRs)
	page.Open(s.URL + start.NSXCSRs) // scripts of a page whose address has a password cannot fetch
	id := browser.Evaluate[string](page, `fetch('/api/session', {method: 'POST'}).then(r => r.json())`)
	browser.Evaluate[string](page, `document.cookie = 'vmware-api-session-id=`+id+`; path=/; secure'`)
	token := browser.Evaluate[string](page, `fetch('`+start.NSXLogin+`', {method: 'POST', body: new URLSearchParams({j_username: '`+start.User+`', j_password: '`+start.Password+`'})})
		.then(r => r.headers.get('X-XSRF-TOKEN'))`)
	if len(id) != 64 || len(token) != 64 {
		t.Fatalf("the service's own page cannot log in: %q, %q", id, token)
	}
}

// TestPagesOfOtherSites: what a page of another site has the browser send makes no key,
// begins no session and ends none, whether the browser takes it for the same site (it
// ignores ports) or for another one. Where the settings allow the page, the same
// requests do all that: the browser does send the credentials.
func TestPagesOfOtherSites(t *testing.T) {
	t.Parallel()
	page := browser.New(t)
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!DOCTYPE html><body><script>%s</script>", attack)
	}))
	t.Cleanup(site.Close)
	sameSite, crossSite := site.URL, strings.Replace(site.URL, "127.0.0.1", "localhost", 1)

	sent := 0
	for name, test := range map[string]struct {
		from, settings string
		allowed        bool
	}{
		"other port":         {from: sameSite},
		"other host":         {from: crossSite},
		"other port allowed": {from: sameSite, settings: "allowed_origins: ['" + sameSite + "']\n", allowed: true},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // one browser, one page
			s := start.Serve(t, start.Options{Settings: test.settings})
			s.Must(201, "POST", start.NSXCSRs+"/planted?action=create", start.ECSpec("planted"))
			logIn(page, t, s)
			if n := s.Metric("attestcsr_sessions"); n != 2 {
				t.Fatalf("%d sessions before, want 2", n)
			}
			page.Open(test.from)
			n := browser.Evaluate[int](page, fmt.Sprintf("attack(%q, %q, %q)", s.URL, start.ValidSpec, start.ECSpec("attack")))

			csrs, sessions := strings.Count(s.Must(200, "GET", start.NSXCSRs, ""), `"TlsCsr"`), s.Metric("attestcsr_sessions")
			forged := func(method string) int {
				return s.Metric(`attestcsr_authentication_attempts_total{method="` + method + `",outcome="forged"}`)
			}
			refused := forged("basic") + forged("session") + forged("none")
			t.Logf("%d requests, %d refused, %d of these with a password and %d with a session: %d CSRs, %d sessions", n, refused, forged("basic"), forged("session"), csrs, sessions)
			if test.allowed {
				if csrs <= 1 || sessions == 2 {
					t.Errorf("%d CSRs, %d sessions: these requests attack nothing", csrs, sessions)
				}
				return
			}
			sent += n
			if csrs != 1 || sessions != 2 || !s.Answers(404, start.CSRPath) {
				t.Errorf("%d CSRs, want 1; %d sessions, want 2; or the host has a CSR", csrs, sessions)
			}
			if refused < n/3 {
				t.Errorf("%d of %d requests were refused", refused, n)
			}
		})
	}
	kit.Count(t, "requests by pages of other sites", sent)
}

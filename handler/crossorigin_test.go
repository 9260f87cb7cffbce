package handler_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"attestcsr/handler"
	"attestcsr/test/kit"
)

const (
	allowedSite = "https://console.example.com"
	otherSite   = "https://evil.example.com"
)

// siteHeaders is what a browser tells of the page that sends a request.
type siteHeaders struct {
	name, fetchSite, origin string
	passes                  bool
}

func allSiteHeaders(own string) []siteHeaders {
	ownButScheme := "http" + strings.TrimPrefix(own, "https")
	all := []siteHeaders{
		{"no browser", "", "", true},
		{"own page", "same-origin", own, true},
		{"typed by the user", "none", "", true},
		{"own page, old browser", "", own, true},
		{"own page over http, old browser", "", ownButScheme, true}, // the header Host has no scheme
		{"other site, old browser", "", otherSite, false},
		{"allowed site, old browser", "", allowedSite, true},
		{"allowed host, another scheme", "", "http://console.example.com", false},
		{"allowed host, another port", "", allowedSite + ":8443", false},
		{"below the allowed host", "", "https://x.console.example.com", false},
		{"page without an origin", "", "null", false},
		{"origin that is none", "", "%", false},
	}
	for _, fetchSite := range []string{"cross-site", "same-site", "of a later standard", "Same-Origin"} {
		all = append(all,
			siteHeaders{fetchSite, fetchSite, "", false},
			siteHeaders{fetchSite + ", other site", fetchSite, otherSite, false},
			siteHeaders{fetchSite + ", null", fetchSite, "null", false},
			siteHeaders{fetchSite + ", allowed site", fetchSite, allowedSite, true},
			// An own page would be same-origin: a proxy changed the scheme or the host.
			siteHeaders{fetchSite + ", own origin", fetchSite, own, false},
		)
	}
	return all
}

// TestCrossOrigin: every route × every method × what browsers tell of the page that
// sends the request. A refused one is refused before its credentials are looked at,
// and reads and paths that do not exist do not depend on it.
func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.AllowedOrigins = []string{allowedSite} })
	api, _ := s.handler.Routes()
	tried := 0
	for _, route := range api {
		method, path, _ := strings.Cut(route, " ")
		if method == handler.NotFoundMethod {
			continue
		}
		path = strings.ReplaceAll(path, ":id", "none")
		guarded := !slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, method) || path == logoutPath && method != "OPTIONS"
		for _, site := range allSiteHeaders(s.url) {
			h := http.Header{}
			if site.fetchSite != "" {
				h.Set("Sec-Fetch-Site", site.fetchSite)
			}
			if site.origin != "" {
				h.Set("Origin", site.origin)
			}
			for name, authorization := range map[string]string{"nothing": "", "a wrong password": basicHeader("admin", "wrong").Get("Authorization")} {
				if authorization != "" && (!guarded || site.passes) {
					continue
				}
				h.Del("Authorization")
				if authorization != "" {
					h.Set("Authorization", authorization)
				}
				a := s.do(call{method: method, path: path, raw: true, anonymous: true, lines: h})
				tried++
				// Under /v1 any request without credentials gets 403.
				if refused := a.status == http.StatusForbidden && (!strings.HasPrefix(path, "/v1/") || strings.Contains(string(a.body), "another site")); refused != (guarded && !site.passes) {
					t.Errorf("%s with %s, %s: %d %s", route, name, site.name, a.status, a.body)
				}
				if a.header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s, %s: the answer lets a page read it", route, site.name)
				}
			}
		}
	}
	kit.Count(t, "routes × pages", tried)
}

// Refusals come in the words of each dialect, are counted, and never say whether the
// credentials were right. What they come to is no guess.
func TestCrossOriginRefusals(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	session := s.nsxLogin("admin", adminPassword)
	h := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {otherSite}}
	for name, r := range map[string]struct {
		call    call
		dialect dialect
		header  http.Header
	}{
		"vapi":         {call{method: "POST", path: csrPath, body: validSpec}, inESX, basicHeader("admin", adminPassword)},
		"vapi login":   {call{method: "POST", path: sessionPath}, inESX, basicHeader("admin", adminPassword)},
		"legacy":       {call{method: "DELETE", path: legacyPath}, inLegacy, nil},
		"nsx":          {call{method: "DELETE", path: nsxCSRs + "/x"}, inNSX, nsxCookie(session.id, session.token)},
		"transit":      {call{method: "PUT", path: transitSign + "attestation"}, inTransit, tokenHeader(s.vault("admin", adminPassword).token)},
		"transit list": {call{method: "LIST", path: transitKeys}, inTransit, nil},
		"nsx login":    {formLogin("admin", adminPassword), inNSX, nil},
		"nsx logout":   {call{method: "GET", path: logoutPath}, inNSX, nsxCookie(session.id, session.token)},
		"nsx logout ":  {call{method: "HEAD", path: logoutPath}, inNSX, nsxCookie(session.id, session.token)},
	} {
		r.call.raw, r.call.anonymous, r.call.lines = true, true, together(h, r.header)
		a := s.do(r.call)
		want := r.dialect.answer(forged)
		if r.call.method == http.MethodHead {
			want.body = ""
		}
		if problem := want.differs(r.call.method, a); problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
	}
	if a := s.do(call{method: "POST", path: "/api/none", raw: true, anonymous: true, lines: h}); a.status != http.StatusNotFound {
		t.Errorf("a path that does not exist: %d", a.status)
	}
	for range 30 {
		s.do(call{method: "POST", path: csrPath, raw: true, anonymous: true, lines: together(h, basicHeader("admin", "guess"))})
	}
	if a := s.do(call{method: "GET", path: csrPath}); a.status != http.StatusNotFound {
		t.Errorf("after refusals the right password gets %d: something was created, or the refusals counted as guesses", a.status)
	}
	if a := s.do(session.carry(call{method: "GET", path: nsxCSRs})); a.status != http.StatusOK {
		t.Errorf("another site ended a session: %d", a.status)
	}
	if metrics := string(s.do(call{method: "GET", path: "/metrics"}).body); !strings.Contains(metrics, `attestcsr_authentication_attempts_total{method="basic",outcome="forged"} 32`) ||
		!strings.Contains(metrics, `attestcsr_authentication_attempts_total{method="session",outcome="forged"} 4`) {
		t.Error("the refusals are not counted")
	}
	if log := s.log.String(); !strings.Contains(log, "cross-origin request detected") {
		t.Error("the log does not say why")
	}
}

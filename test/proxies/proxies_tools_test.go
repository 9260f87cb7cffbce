//go:build tools

// Package proxies_test runs nginx and haproxy before the service, with the
// configurations of docs/proxies.
package proxies_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

const trusting = "trusted_proxies: [127.0.0.1]\nallowed_origins: ['https://" + console + "']\n"

// TestProxies: behind each proxy the service is what it is without one, whether the
// proxy keeps the Host of a request or writes its own.
func TestProxies(t *testing.T) {
	t.Parallel()
	for name, p := range proxies() {
		for _, v := range []struct {
			name             string
			rewritten, http2 bool
		}{{name: "host kept"}, {name: "host rewritten", rewritten: true}, {name: "HTTP 2", http2: true}} {
			t.Run(name+", "+v.name, func(t *testing.T) {
				t.Parallel()
				s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: trusting})
				f := p.serve(t, s, v.rewritten)
				f.http2 = v.http2
				checkVAPISession(t, f)
				checkNSXSession(t, f)
				checkIDs(t, f)
				checkReuse(t, f)
				checkPrivate(t, f)
				checkAddress(t, f, "127.0.0.2")
				checkOrigins(t, f, v.rewritten)
				checkBodies(t, f)
				checkGuessing(t, f)
			})
		}
	}
}

// checkVAPISession: the cookie of the login is the session, until the logout.
func checkVAPISession(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	c.Must(201, "POST", start.SessionPath, "")
	c.Must(201, "POST", start.CSRPath, start.ValidSpec, start.Anonymous)
	c.Must(200, "GET", start.CSRPath, "", start.Anonymous)
	c.Must(204, "DELETE", start.SessionPath, "", start.Anonymous)
	c.Must(401, "GET", start.CSRPath, "", start.Anonymous)
}

// checkNSXSession: cookie and token of the login are the session, until the logout.
func checkNSXSession(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	form := url.Values{"j_username": {start.User}, "j_password": {start.Password}}.Encode()
	a, err := c.Do("POST", start.NSXLogin, form, start.Anonymous, start.Header("Content-Type", start.FormType))
	if err != nil || a.Status != 200 {
		t.Fatalf("%v %+v", err, a)
	}
	token := start.Header("X-XSRF-TOKEN", a.Header.Get("X-XSRF-TOKEN"))
	create := start.NSXCSRs + "/session?action=create"
	c.Must(403, "POST", create, start.ECSpec("session"), start.Anonymous)
	c.Must(201, "POST", create, start.ECSpec("session"), start.Anonymous, token)
	c.Must(200, "GET", "/api/session/destroy", "", start.Anonymous, token)
	c.Must(401, "GET", start.NSXCSRs, "", start.Anonymous)
}

// checkIDs: a slash in an id goes through, and is no slash of the path.
func checkIDs(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	for id, escaped := range map[string]string{"a/b": "a%2Fb", "a//b/../c": "a%2F%2Fb%2F..%2Fc", "100% ü": "100%25%20%C3%BC", "a?b#c": "a%3Fb%23c"} {
		created := c.Must(201, "POST", start.NSXCSRs+"/"+escaped+"?action=create", start.ECSpec("id"))
		if want := `"id":` + kit.JSON(id); !strings.Contains(created, want) {
			t.Errorf("%s: no %s in %s", escaped, want, created)
		}
		f.service.Must(200, "GET", start.NSXCSRs+"/"+escaped+"/pem-file", "") // past the proxy
		c.Must(200, "DELETE", start.NSXCSRs+"/"+escaped, "")
	}
}

// checkReuse: the proxy keeps its connections to the service.
func checkReuse(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	before := f.opened.Load()
	for range 100 {
		c.Must(200, "GET", start.CertificatePath, "")
	}
	// A check of haproxy has a connection of its own.
	if n := f.opened.Load() - before; n > 20 {
		t.Errorf("%d connections for 100 requests", n)
	}
}

// checkPrivate: health and metrics do not go out, however their path is written.
func checkPrivate(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	for _, path := range []string{
		"/healthz", "/readyz", "/metrics", "/metrics?x=1", "/%6detrics", "/metric%73", "/metrics/", "//metrics", "/./metrics", "/x/../metrics",
		"/x/..%2fmetrics", "/%2e/metrics", "/metrics;x", "/metrics%20", "/metrics%23", "/api/../metrics",
	} {
		a, err := c.Do("GET", path, "")
		if err != nil || a.Status == 200 || strings.Contains(a.Body, "go_goroutines") {
			t.Errorf("%s: %v %d", path, err, a.Status)
		}
	}
	absolute, err := c.Do("GET", "/", "", func(r *http.Request) { r.URL.Opaque = "//" + r.URL.Host + "/metrics" })
	if err != nil || absolute.Status == 200 {
		t.Errorf("the absolute form: %v %d", err, absolute.Status)
	}
	f.service.Must(200, "GET", "/metrics", "")
}

// checkAddress: the line of a change has the address of its client, whatever the
// client says about it.
func checkAddress(t *testing.T, f *front, want string) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	for i, claim := range []string{"", "192.0.2.99", "192.0.2.99, 127.0.0.1", "127.0.0.1", "not an address"} {
		id := "address-" + strconv.Itoa(i)
		c.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec(id), func(r *http.Request) {
			if claim != "" {
				r.Header.Set("X-Forwarded-For", claim)
			}
		})
		if got := auditAddress(t, f.service, id); got != want {
			t.Errorf("X-Forwarded-For %q: the line has %s, want %s", claim, got, want)
		}
	}
}

// auditAddress returns the address in the line of a new CSR.
func auditAddress(t *testing.T, s *start.Instance, id string) (address string) {
	t.Helper()
	kit.Eventually(t, "the line of "+id, func() bool {
		files, err := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, "changes-*.jsonl"))
		if err != nil || len(files) != 1 {
			t.Fatal(err, files)
		}
		for line := range bytes.Lines(kit.Read(t, filepath.Dir(files[0]), filepath.Base(files[0]))) {
			var e struct{ Slot, Address string }
			if err := json.Unmarshal(line, &e); err == nil && e.Slot == "nsx/csrs/"+id {
				address = e.Address
			}
		}
		return address != ""
	})
	return address
}

// checkOrigins: pages of the site itself may change something. Where the Host is not
// what the browser sent, those of old browsers need allowed_origins.
func checkOrigins(t *testing.T, f *front, rewritten bool) {
	t.Helper()
	for i, test := range []struct {
		name, origin, fetchSite string
		allowed                 bool
	}{
		{site, site, "same-origin", true},
		{site, site, "", !rewritten},
		{console, console, "", true},
		{site, "evil.example.com", "cross-site", false},
		{site, "evil.example.com", "", false},
	} {
		want := 403
		if test.allowed {
			want = 201
		}
		id := "origin-" + strconv.Itoa(i)
		a, err := f.client(t, "127.0.0.2", test.name).Do("POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec(id), func(r *http.Request) {
			r.Header.Set("Origin", "https://"+test.origin)
			if test.fetchSite != "" {
				r.Header.Set("Sec-Fetch-Site", test.fetchSite)
			}
		})
		if err != nil || a.Status != want {
			t.Errorf("%+v: %v %d %s, want %d", test, err, a.Status, a.Body, want)
		}
	}
}

// checkBodies: the bound of a body is the service's, and its answer comes through.
func checkBodies(t *testing.T, f *front) {
	t.Helper()
	c := f.client(t, "127.0.0.2", site)
	for _, size := range []int{64<<10 + 1, 100_000, 900_000} {
		for range 5 {
			a, err := c.Do("POST", start.CSRPath, `{"organization":"`+strings.Repeat("x", size)+`"}`)
			if err != nil || a.Status != 413 || !strings.Contains(a.Body, "error_type") {
				t.Fatalf("%d bytes: %v %d %.200s", size, err, a.Status, a.Body)
			}
		}
	}
	c.Must(400, "POST", start.CSRPath, `{"organization":"`+strings.Repeat("x", 60_000)+`"}`)
}

// checkGuessing: who guesses waits by himself, and is told how long.
func checkGuessing(t *testing.T, f *front) {
	t.Helper()
	guesser := f.client(t, "127.0.0.3", site)
	for i := range 100 {
		a, err := guesser.Do("GET", start.CSRPath, "", start.As(start.User, fmt.Sprint("wrong", i)))
		if err != nil {
			t.Fatal(err)
		}
		if a.Status == 503 {
			if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 {
				t.Errorf("Retry-After: %q", a.Header.Get("Retry-After"))
			}
			f.client(t, "127.0.0.4", site).Must(401, "GET", start.CSRPath, "", start.As(start.User, "wrong"))
			return
		}
	}
	t.Error("100 guesses were answered")
}

// TestProxyIsNotTrusted: without trusted_proxies the proxy's address is what counts.
func TestProxyIsNotTrusted(t *testing.T) {
	t.Parallel()
	for name, p := range proxies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start.Serve(t, start.Options{Binary: start.Binary(t)})
			checkAddress(t, p.serve(t, s, false), "127.0.0.1")
		})
	}
}

// TestProxyBelievesNobodyElse: another server at the address of the service gets no
// request.
func TestProxyBelievesNobodyElse(t *testing.T) {
	t.Parallel()
	for name, p := range proxies() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start.Serve(t, start.Options{Binary: start.Binary(t)})
			other := start.Serve(t, start.Options{Binary: start.Binary(t)})
			wrong := other.WithClient(other.Client)
			wrong.DataDir = s.DataDir
			a, err := p.serve(t, wrong, false).client(t, "127.0.0.2", site).Do("GET", start.CertificatePath, "")
			if err != nil || a.Status != 502 && a.Status != 503 {
				t.Errorf("%v %d %s", err, a.Status, a.Body)
			}
		})
	}
}

// TestStalledBody: a client that sends no more of its body gets the service's answer
// through haproxy, which passes bodies on as they come. nginx would wait for the rest
// by itself.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: "limits:\n  read_header_timeout: 1s\n  read_timeout: 1s\n"})
	f := proxies()["haproxy"].serve(t, s, false)
	conn, err := tls.Dial("tcp", f.address, &tls.Config{RootCAs: f.roots, ServerName: site, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n%s\r\n{", start.CSRPath, site, s.Authorization())
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 || resp.Header.Get("X-Request-ID") == "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

// TestDrained: haproxy sees that a service stops while the last request is still in
// flight, and sends it no more.
func TestDrained(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: trusting})
	f := proxies()["haproxy"].serve(t, s, false)
	f.client(t, "127.0.0.2", site).Must(200, "GET", start.CertificatePath, "")

	conn := s.DialRaw(t)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n",
		start.CSRPath, len(start.ValidSpec), s.Authorization())
	kit.Eventually(t, "the request in flight", func() bool { return s.Metric("attestcsr_http_requests_in_flight") > 0 })
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "haproxy takes the service out", func() bool { return strings.Contains(f.log.String(), "Server attestcsr/one is DOWN") })
	a, err := f.client(t, "127.0.0.2", site).Do("GET", start.CertificatePath, "")
	if err != nil || a.Status != 503 || a.Header.Get("X-Request-ID") != "" {
		t.Errorf("%v %d %s: not haproxy's own answer", err, a.Status, a.Body)
	}
	fmt.Fprint(conn, start.ValidSpec)
	if answers := start.ReadAnswers(t, conn); len(answers) != 1 || answers[0].Status != 201 {
		t.Errorf("the request in flight: %+v", answers)
	}
	<-s.Exited
}

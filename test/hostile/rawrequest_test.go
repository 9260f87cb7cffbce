package hostile_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// These tests send what no client library would send, over TLS to the real process:
// requests that proxies and servers have read differently (RFC 9112 section 11), odd
// paths, and odd host names.

const (
	// smuggled is a request inside of another one. If the server takes it for a
	// request of its own, the log has its request id.
	smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"
	// lastRequest ends a connection that is still open. No other answer is like its own.
	lastRequest = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	lastAnswer  = "ok\n"
)

func statuses(answers []start.Answer) []int {
	var all []int
	for _, a := range answers {
		all = append(all, a.Status)
	}
	return all
}

// framing is a form of a request to /api/session without credentials, and the answers
// that it has to get.
type framing struct {
	name, send string
	want       []int // without the answer to lastRequest
	open       bool  // the connection stays open; otherwise two programs could read the form as different requests
}

const (
	postSession        = "POST /api/session HTTP/1.1\r\nHost: x\r\n"
	getSession         = "GET /api/session HTTP/1.1\r\nHost: x\r\n"
	postSessionChunked = postSession + "Transfer-Encoding: chunked\r\n"
)

func contentLength(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }

func transferEncodings() []framing {
	const post, te = postSession, postSessionChunked
	length := contentLength
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(s), s) }
	return []framing{
		{"nothing odd", post + length(2) + "\r\n{}", []int{401}, true},
		{"Content-Length ends behind the chunks", te + length(5+len(smuggled)) + "\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"Content-Length ends in the first chunk", te + length(4) + "\r\n" + chunk(smuggled), []int{401}, false},
		{"Content-Length before Transfer-Encoding", post + length(0) + "Transfer-Encoding: chunked\r\n\r\n" + chunk(smuggled), []int{401}, false},
		{"chunks alone", te + "\r\n" + chunk("{}"), []int{401}, false},
		{"Transfer-Encoding in HTTP/1.0", "POST /api/session HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n" + length(5) + "\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"chunked, identity", post + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunk(smuggled), []int{501}, false},
		{"gzip, chunked", post + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunk(smuggled), []int{501}, false},
		{"chunked twice", te + "Transfer-Encoding: chunked\r\n\r\n" + chunk(smuggled), []int{501}, false},
		{"chunked and identity", te + "Transfer-Encoding: identity\r\n\r\n" + chunk(smuggled), []int{501}, false},
		{"xchunked", post + "Transfer-Encoding: xchunked\r\n" + length(0) + "\r\n" + smuggled, []int{501}, false},
		{"quoted chunked", post + "Transfer-Encoding: \"chunked\"\r\n" + length(0) + "\r\n" + smuggled, []int{501}, false},
		{"empty Transfer-Encoding", post + "Transfer-Encoding:\r\n" + length(0) + "\r\n" + smuggled, []int{501}, false},
		{"vertical tab before chunked", post + "Transfer-Encoding: \x0bchunked\r\n" + length(0) + "\r\n" + smuggled, []int{400}, false},
		{"space before the colon of Transfer-Encoding", post + "Transfer-Encoding : chunked\r\n" + length(5) + "\r\n0\r\n\r\n" + smuggled, []int{400}, false},
		{"folded Transfer-Encoding", post + "Transfer-Encoding:\r\n chunked\r\n" + length(5) + "\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"letter case of chunked", post + "Transfer-Encoding: ChUnKeD\r\n" + length(0) + "\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"negative chunk", te + "\r\n-1\r\n" + smuggled, []int{401}, false},
		{"chunk size with 0x", te + "\r\n0x0\r\n\r\n" + smuggled, []int{401}, false},
		{"chunk size beyond 64 bits", te + "\r\n10000000000000000\r\n" + smuggled, []int{401}, false},
		{"chunk longer than its size", te + "\r\n1\r\nabc\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"chunk ended by LF", te + "\r\n0\n\n" + smuggled, []int{401}, false},
		{"LF in a chunk extension", te + "\r\n2;\nxx\r\n4c\r\n0\r\n\r\n" + smuggled, []int{401}, false},
		{"quote in a chunk extension", te + "\r\n0;a=\"\r\n\r\n" + smuggled, []int{401}, false},
	}
}

func contentLengths() []framing {
	const post, get, te = postSession, getSession, postSessionChunked
	length := contentLength
	return []framing{
		{"two Content-Lengths", post + length(0) + length(len(smuggled)) + "\r\n" + smuggled, []int{400}, false},
		{"two Content-Lengths in one line", post + "Content-Length: 2, 2\r\n\r\n{}" + smuggled, []int{400}, false},
		{"Content-Length with a sign", post + "Content-Length: +2\r\n\r\n{}" + smuggled, []int{400}, false},
		{"negative Content-Length", post + "Content-Length: -1\r\n\r\n" + smuggled, []int{400}, false},
		{"hexadecimal Content-Length", post + "Content-Length: 0x2\r\n\r\n{}" + smuggled, []int{400}, false},
		{"empty Content-Length", post + "Content-Length:\r\n\r\n" + smuggled, []int{400}, false},
		{"Content-Length beyond 64 bits", post + "Content-Length: 18446744073709551616\r\n\r\n" + smuggled, []int{400}, false},
		{"space before the colon of Content-Length", post + "Content-Length : 0\r\n\r\n" + smuggled, []int{400}, false},
		{"Content-Length in a trailer", te + "Trailer: Content-Length\r\n\r\n0\r\nContent-Length: 5\r\n\r\n" + smuggled, []int{400}, false},
		{"body of a GET", get + length(len(smuggled)) + "\r\n" + smuggled, []int{401}, true},
		{"Content-Length behind a folded line", get + "X: y\r\n " + length(0) + length(len(smuggled)) + "\r\n" + smuggled, []int{401}, true},
		{"Content-Length behind a bare LF", get + "X: y\n" + length(len(smuggled)) + "\r\n" + smuggled, []int{401}, true},
		{"Content-Length behind a bare CR", get + "X: y\r" + length(len(smuggled)) + "\r\n" + smuggled, []int{400}, false},
		{"bare LF alone", strings.ReplaceAll(get+length(len(smuggled))+"\r\n", "\r", "") + smuggled, []int{401}, true},
	}
}

func oddRequests() []framing {
	const post, get = postSession, getSession
	length := contentLength
	return []framing{
		{"NUL in a header", get + "X: a\x00b\r\n\r\n" + smuggled, []int{400}, false},
		{"no colon", get + "X\r\n\r\n" + smuggled, []int{400}, false},
		{"space before the first header", "GET /api/session HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n" + smuggled, []int{400}, false},
		{"method in lower case", "get /api/session HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}, true},
		{"method that is no token", "G(T /api/session HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled, []int{400}, false},
		{"HTTP/0.9", "GET /api/session\r\n" + smuggled, []int{400}, false},
		{"HTTP/1.0 kept alive", "GET /api/session HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + smuggled, []int{401}, false},
		{"HTTP/2.0 in words", "GET /api/session HTTP/2.0\r\nHost: x\r\n\r\n" + smuggled, []int{505}, false},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + smuggled, []int{404}, false},
		{"upgrade to HTTP/2 in clear", get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []int{401}, true},
		{"upgrade to WebSocket", get + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", []int{401}, true},
		{"an expectation there is not", post + "Expect: a miracle\r\n" + length(2) + "\r\n{}" + smuggled, []int{417}, false},
		{"100-continue with the body", post + "Expect: 100-continue\r\n" + length(2) + "\r\n{}" + smuggled, []int{401}, false},
	}
}

// TestRequestSmuggling: after a form that can be read in two ways the connection is
// closed. After any other form the next request is answered, and nothing else is.
func TestRequestSmuggling(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	forms := slices.Concat(transferEncodings(), contentLengths(), oddRequests())
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			conn := s.DialRaw(t)
			begun := time.Now()
			if _, err := io.WriteString(conn, form.send+lastRequest); err != nil {
				t.Fatal(err)
			}
			answers := start.ReadAnswers(t, conn)
			want := form.want
			if form.open {
				want = append(slices.Clone(want), 200)
			}
			if got := statuses(answers); !slices.Equal(got, want) {
				t.Fatalf("answers %v, want %v", got, want)
			}
			if form.open && answers[len(answers)-1].Body != lastAnswer {
				t.Errorf("the next request got %q", answers[len(answers)-1].Body)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	if strings.Contains(s.Stdout.String(), `"client_request_id":"smuggled`) {
		t.Error("a request inside of another was taken for one")
	}
	kit.Count(t, "smuggling forms", len(forms))
}

// TestExpectContinue: a client that waits for "100 Continue" is answered at once where
// the answer does not depend on the body. The connection is closed then, since the
// client may send the body or not (RFC 9110 section 10.1.1).
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	conn := s.DialRaw(t)
	if _, err := io.WriteString(conn, "POST /api/esx/attestation/certificate/csr HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 401 || !resp.Close {
		t.Errorf("%s, connection closed: %v", resp.Status, resp.Close)
	}
}

// paths returns paths that are nearly those of routes, with the status that a caller
// with all privileges gets. None may be another spelling of a route: a proxy that
// guards a prefix would not recognise it.
func paths() map[string]int {
	const esx, nsx = "/api/esx/attestation/certificate/csr", "/policy/api/v1/infra/csrs"
	all := map[string]int{
		esx: 200, esx + "?": 200, // the right spellings
		esx + "/": 404, "/" + esx: 404, "/api//esx/attestation/certificate/csr": 404, esx + "//": 404,
		"/." + esx: 404, "/api/./esx/attestation/certificate/csr": 404, esx + "/.": 404, "/api/x/../esx/attestation/certificate/csr": 404,
		"/healthz/.." + esx: 404, esx + "/../csr": 404,
		"/%2e" + esx: 404, "/healthz/%2e%2e" + esx: 404, "/api/%2E/esx/attestation/certificate/csr": 404, "/healthz/..%2f" + esx[1:]: 404,
		"/%61pi/esx/attestation/certificate/csr": 404, "/api%2fesx/attestation/certificate/csr": 404, "/api/esx%2Fattestation/certificate/csr": 404,
		"/API/esx/attestation/certificate/csr": 404, "/api/esx/attestation/certificate/CSR": 404,
		esx + ";x=1": 404, "/api;x=1/esx/attestation/certificate/csr": 404, esx + ";": 404, "/;" + esx: 404, esx + "%3bx=1": 404,
		esx + "%00": 404, "/%00" + esx: 404, esx + "%20": 404, esx + "%09": 404, esx + ".": 404, esx + ".json": 404, esx + "%0d%0aX:%20y": 404,
		"/%c0%af" + esx[1:]: 404, "/healthz/%c0%ae%c0%ae" + esx: 404, "/%ef%bc%8f" + esx[1:]: 404, esx + "#x": 404, `/api\esx\attestation\certificate\csr`: 404,
		"/%252e" + esx: 404, "/api%252fesx/attestation/certificate/csr": 404, esx + "%": 400, esx + "%zz": 400, "*": 404,
		esx + "?_method=DELETE": 400, esx + "?x": 400,

		nsx: 200, nsx + "/": 404, nsx + "//": 404, nsx + "/none": 404, nsx + ";x=1": 404, "/policy//api/v1/infra/csrs": 404,
		"/policy/api/v1/infra/../infra/csrs": 404, "/policy/api/v1/infra/%63srs": 404, "/POLICY/api/v1/infra/csrs": 404, "/policy/api/v1/infra/csrs%2fone": 404,
		nsx + "/one": 200, nsx + "/ONE": 404, nsx + "/%6fne": 200, nsx + "/one/": 404, nsx + "/one;x=1": 404, nsx + "/./one": 404, nsx + "/x/../one": 404,
		nsx + "/.": 400, nsx + "/..": 400, nsx + "/%2e%2e": 400, nsx + "/%2e": 400, nsx + "/one%00": 400, nsx + "/one%0a": 400, nsx + "/%c0%af": 400, nsx + "/..%2fcsrs": 404,
		// Ids are unescaped once: "a/b" and "a%2Fb" are two of them.
		nsx + "/a%2Fb": 200, nsx + "/a%2fb": 200, nsx + "/a%252Fb": 200, nsx + "/a%25252Fb": 404, nsx + "/a/b": 404, nsx + "/a%2Fb/pem-file": 200, nsx + "/a%2Fb%2Fpem-file": 404,
		nsx + "/one/PEM-FILE": 404, nsx + "/one/pem-file/": 404, nsx + "//pem-file": 404, nsx + "/one/%70em-file": 404,

		"/api/session/create/": 404, "/api/session%2fcreate": 404, "/api/session/destroy/..": 404, "/api/session/./create": 404,
		"/healthz/": 404, "//healthz": 404, "/HEALTHZ": 404, "/healthz;x": 404, "/metrics/..": 404, "/debug/pprof/": 404, "/debug/vars": 404, "/.git/config": 404,
		"/" + strings.Repeat("a", 16<<10): 404, "/" + strings.Repeat("a/", 4<<10): 404, "/" + strings.Repeat("%2e%2e/", 2<<10): 404,
	}
	return all
}

// TestPaths: each of paths gets its status, and none gets a redirect or a cookie.
func TestPaths(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	for _, id := range []string{"one", "a%2Fb", "a%252Fb"} {
		s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec("one.example.com"))
	}
	tried := 0
	for path, want := range paths() {
		name := path[:min(len(path), 80)]
		conn := s.DialRaw(t)
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+s.Authorization()+"Connection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answers := start.ReadAnswers(t, conn)
		if got := statuses(answers); !slices.Equal(got, []int{want}) {
			t.Errorf("%s: %v, want %d", name, got, want)
			continue
		}
		a := answers[0]
		if a.Header.Get("Location") != "" || a.Header.Get("Set-Cookie") != "" || strings.Contains(a.Body, "PRIVATE") {
			t.Errorf("%s: %v %s", name, a.Header, a.Body)
		}
		tried++
	}
	kit.Count(t, "paths tried", tried)
}

// TestHostsAndMethods: the host of a request does not change the answer, and neither
// do headers that name another host or method. None of them comes back in it.
func TestHostsAndMethods(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	const get = "GET /api/session HTTP/1.1\r\n"
	credentials := s.Authorization()
	forms := []struct {
		name, send string
		want       int
	}{
		{"another host", get + "Host: evil.example\r\n", 401},
		{"another host and port", get + "Host: evil.example:1\r\n", 401},
		{"no host", get, 400},
		{"empty host", get + "Host:\r\n", 401},
		{"no host in HTTP/1.0", "GET /api/session HTTP/1.0\r\n", 401},
		{"two hosts", get + "Host: x\r\nHost: evil.example\r\n", 400},
		{"two hosts in a line", get + "Host: x, evil.example\r\n", 400},
		{"host with a path", get + "Host: evil.example/healthz\r\n", 400},
		{"host with a user", get + "Host: admin@evil.example\r\n", 400},
		{"host with a fragment", get + "Host: x#evil.example\r\n", 400},
		{"host with a query", get + "Host: evil.example?x\r\n", 400},
		{"folded host", get + "Host:\r\n evil.example\r\n", 401},
		{"space before the colon of the host", get + "Host : evil.example\r\n", 400},
		{"absolute URL", "GET https://evil.example/api/session HTTP/1.1\r\nHost: x\r\n", 401},
		{"absolute URL with a user", "GET https://admin:x@evil.example/api/session HTTP/1.1\r\nHost: x\r\n", 401},
		{"absolute URL of a file", "GET file:///etc/passwd HTTP/1.1\r\nHost: x\r\n", 404},
		{"absolute URL without a path", "GET https://evil.example HTTP/1.1\r\nHost: x\r\n", 404},
		{"URL of another host without a scheme", "GET //evil.example/api/session HTTP/1.1\r\nHost: x\r\n", 404},
		{"the proxy's idea of the host", get + "Host: x\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: http\r\nX-Host: evil.example\r\nForwarded: host=evil.example\r\n", 401},
		{"connect", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n", 404},
		{"connect to a path", "CONNECT /api/session HTTP/1.1\r\nHost: x\r\n", 405},
		{"trace", "TRACE /api/session HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID=evil.example\r\n", 405},
		{"options of the server", "OPTIONS * HTTP/1.1\r\nHost: x\r\n", 404},
		{"origin", get + "Host: x\r\nOrigin: https://evil.example\r\n", 401},
		{"preflight", "OPTIONS /api/session HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: DELETE\r\n", 405},
		{"method override on GET", "GET " + start.CSRPath + " HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n" + credentials, 200},
		{"method override on POST", "POST " + start.CSRPath + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nX-HTTP-Method-Override: DELETE\r\n" + credentials, 400},
		{"credentials named by Connection", "GET " + start.CSRPath + " HTTP/1.1\r\nHost: x\r\nConnection: Authorization\r\n" + credentials, 200},
		{"the CSR is still there", "GET " + start.CSRPath + " HTTP/1.1\r\nHost: x\r\n" + credentials, 200},
	}
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			conn := s.DialRaw(t)
			if _, err := io.WriteString(conn, form.send+"Connection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			answers := start.ReadAnswers(t, conn)
			if got := statuses(answers); !slices.Equal(got, []int{form.want}) {
				t.Fatalf("answers %v, want %d", got, form.want)
			}
			if text := fmt.Sprint(answers); strings.Contains(text, "evil.example") || strings.Contains(text, "Location") || strings.Contains(text, "Access-Control") {
				t.Errorf("the answer takes up what the client says: %s", text)
			}
		})
	}
	kit.Count(t, "forms of hosts and methods", len(forms))
}

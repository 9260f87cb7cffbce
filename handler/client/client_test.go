package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/handler/client"
	"attestcsr/test/kit"
)

// serve starts a server with TLS, and returns what its clients have to know of it.
func serve(t *testing.T, handle http.HandlerFunc) (server *httptest.Server, caFile, fingerprint string) {
	t.Helper()
	server = httptest.NewUnstartedServer(handle)
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	leaf := server.Certificate()
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	return server, kit.Overwrite(t, t.TempDir(), "ca.pem", string(text)), "sha256:" + hex.EncodeToString(sum[:])
}

func newClient(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var get = client.Request{Method: "GET", Path: "/"}

// TestRequest: what is asked for arrives, and the answer comes back, whatever its status.
func TestRequest(t *testing.T) {
	t.Parallel()
	server, ca, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Answer", r.Method+" "+r.URL.EscapedPath()+" "+r.URL.RawQuery+" "+r.Header.Get("X")+" "+r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(body)
	})
	c := newClient(t, client.Options{Server: strings.TrimPrefix(server.URL, "https://"), CAFile: ca})
	answer, err := c.Do(t.Context(), client.Request{
		Method: "PUT", Path: "/a%2Fb", Query: url.Values{"q": {"1 2"}}, Header: http.Header{"X": {"y"}}, Body: map[string]string{"a": "ü"},
	})
	if err != nil || answer.Status != 418 || string(answer.Body) != `{"a":"ü"}` || answer.Header.Get("Answer") != "PUT /a%2Fb q=1+2 y application/json" {
		t.Errorf("%+v, %v", answer, err)
	}
	answer, err = c.Do(t.Context(), client.Request{Method: "POST", Path: "/", Header: http.Header{"Content-Type": {"text/x"}}, Body: []byte("raw")})
	if err != nil || string(answer.Body) != "raw" || answer.Header.Get("Answer") != "POST /   text/x" {
		t.Errorf("%+v, %v", answer, err)
	}
	if c.Server() != server.URL {
		t.Error(c.Server())
	}
}

// TestTrust: a server is believed by a CA of the file or by its very key, and by nothing
// else. Nothing is sent to one that is not.
func TestTrust(t *testing.T) {
	t.Parallel()
	requests := 0
	server, ca, key := serve(t, func(http.ResponseWriter, *http.Request) { requests++ })
	for name, test := range map[string]struct {
		options client.Options
		trusted bool
	}{
		"CA file":           {client.Options{CAFile: ca}, true},
		"fingerprint":       {client.Options{Fingerprint: key}, true},
		"in capitals":       {client.Options{Fingerprint: "SHA256:" + strings.ToUpper(key[7:])}, true},
		"nothing":           {client.Options{}, false},
		"CA of another":     {client.Options{CAFile: kit.Overwrite(t, t.TempDir(), "ca.pem", kit.PEM(kit.NewCA(t, "other", time.Now()).Cert))}, false},
		"CA, another's key": {client.Options{CAFile: ca, Fingerprint: "sha256:" + strings.Repeat("ab", 32)}, false},
		"key of another":    {client.Options{Fingerprint: "sha256:" + strings.Repeat("00", 32)}, false},
	} {
		test.options.Server = server.URL
		before := requests
		_, err := newClient(t, test.options).Do(t.Context(), get)
		switch {
		case test.trusted && err != nil:
			t.Errorf("%s: %v", name, err)
		case !test.trusted && (!errors.Is(err, client.ErrUntrusted) || errors.Is(err, client.ErrUnreachable) || requests != before):
			t.Errorf("%s: %v, %d requests", name, err, requests-before)
		case !test.trusted && test.options.Fingerprint == "" && client.PublicKey(err) != key:
			t.Errorf("%s: the key of %v is %q, not %s", name, err, client.PublicKey(err), key)
		case !test.trusted && test.options.Fingerprint != "" && !strings.Contains(err.Error(), key):
			t.Errorf("%s: %v does not name %s", name, err, key)
		}
	}
	// A certificate for another name is not that server's, unless its key is named.
	other := "https://localhost:" + strconv.Itoa(server.Listener.Addr().(*net.TCPAddr).Port)
	if _, err := newClient(t, client.Options{Server: other, CAFile: ca}).Do(t.Context(), get); !errors.Is(err, client.ErrUntrusted) {
		t.Errorf("another name: %v", err)
	}
	if _, err := newClient(t, client.Options{Server: other, Fingerprint: key}).Do(t.Context(), get); err != nil {
		t.Error(err)
	}
}

// TestOptions: what cannot be meant is refused before anything is sent, and without what
// may be a password.
func TestOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, o := range map[string]client.Options{
		"no server":         {},
		"http":              {Server: "http://host"},
		"a path":            {Server: "https://host/api"},
		"a query":           {Server: "https://host?x"},
		"a password":        {Server: "https://me:secret@host"},
		"no host":           {Server: "https://:1"},
		"short fingerprint": {Server: "host", Fingerprint: "sha256:00"},
		"sha1":              {Server: "host", Fingerprint: "sha1:" + strings.Repeat("00", 32)},
		"no such file":      {Server: "host", CAFile: dir + "/no"},
		"no CA":             {Server: "host", CAFile: kit.Overwrite(t, dir, "empty", "")},
		"a huge file":       {Server: "host", CAFile: kit.Overwrite(t, dir, "huge", strings.Repeat("x", 4<<20+1))},
	} {
		if _, err := client.New(o); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for given, want := range map[string]string{"host": "https://host", "HOST:1": "https://host:1", "https://h/": "https://h", "[::1]:8443": "https://[::1]:8443"} {
		if got, err := client.ServerURL(given); err != nil || got != want {
			t.Errorf("%s: %s, %v", given, got, err)
		}
	}
}

// TestNoAnswer: where none comes, the error says so, and whether the server may have acted.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	block := make(chan struct{})
	server, _, key := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			<-block
		case "/close":
			panic(http.ErrAbortHandler)
		case "/long":
			_, _ = w.Write(make([]byte, 16<<20+1))
		case "/header":
			w.Header().Set("X", strings.Repeat("x", 128<<10))
		}
	})
	defer close(block)
	closed := httptest.NewTLSServer(nil)
	closed.Close()
	plain := httptest.NewServer(nil)
	defer plain.Close()
	for name, test := range map[string]struct {
		server, method, path string
		perhaps              bool
	}{
		"nobody listens": {closed.URL, "POST", "/", false},
		"no TLS":         {strings.Replace(plain.URL, "http:", "https:", 1), "GET", "/", false},
		"time is over":   {server.URL, "POST", "/hang", true},
		"it hangs up":    {server.URL, "POST", "/close", true},
		"a GET":          {server.URL, "GET", "/close", false},
		"long answer":    {server.URL, "GET", "/long", false},
		"long header":    {server.URL, "GET", "/header", false},
	} {
		o := client.Options{Server: test.server, Fingerprint: key}
		if name == "time is over" {
			o.Timeout = 200 * time.Millisecond
		}
		_, err := newClient(t, o).Do(t.Context(), client.Request{Method: test.method, Path: test.path})
		if !errors.Is(err, client.ErrUnreachable) || strings.Contains(err.Error(), "may have done") != test.perhaps || strings.Contains(err.Error(), test.path+`"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, client.Options{Server: server.URL, Fingerprint: key}).Do(ctx, get); !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRedirect: none is followed, so that no session goes to another place.
func TestRedirect(t *testing.T) {
	t.Parallel()
	seen := 0
	server, _, key := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen++
		http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
	})
	answer, err := newClient(t, client.Options{Server: server.URL, Fingerprint: key}).Do(t.Context(), get)
	if err != nil || answer.Status != 307 || seen != 1 {
		t.Errorf("%+v, %v, %d requests", answer, err, seen)
	}
}

// TestRenew: a session that the server does not know is renewed once, and the request is
// sent again with the new one.
func TestRenew(t *testing.T) {
	t.Parallel()
	server, _, key := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Session") != "good" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	renewed := 0
	caller := &client.Caller{
		Client:  newClient(t, client.Options{Server: server.URL, Fingerprint: key}),
		Session: client.Session{ID: "old"},
		Put:     func(h http.Header, s client.Session) { h.Set("Session", s.ID) },
	}
	status := func(want int) {
		t.Helper()
		if answer, err := caller.Do(t.Context(), get); err != nil || answer.Status != want {
			t.Errorf("%+v, %v", answer, err)
		}
	}
	status(401)
	caller.Renew = func(context.Context) (client.Session, error) { renewed++; return client.Session{ID: "bad"}, nil }
	status(401)
	caller.Renew = func(context.Context) (client.Session, error) { renewed++; return client.Session{ID: "good"}, nil }
	status(200)
	status(200)
	if renewed != 2 {
		t.Errorf("renewed %d times", renewed)
	}
	caller.Session, caller.Renew = client.Session{}, func(context.Context) (client.Session, error) { return client.Session{}, io.ErrShortBuffer }
	if _, err := caller.Do(t.Context(), get); !errors.Is(err, io.ErrShortBuffer) {
		t.Error(err)
	}
}

// TestError: text of a server is bounded and fit for a terminal.
func TestError(t *testing.T) {
	t.Parallel()
	many := make([]string, 100)
	for i := range many {
		many[i] = strings.Repeat("\x1b[2J", 1000)
	}
	e := client.NewError(&client.Response{Status: 503, Header: http.Header{"Retry-After": {"7"}}}, "\x1b", many...)
	if len(e.Messages) != 32 || len(e.Error()) > 33_000 || strings.Contains(e.Error()+e.Code, "\x1b") || e.RetryAfter != 7*time.Second || client.Status(e) != 503 {
		t.Errorf("%+v", e)
	}
	for _, text := range []string{"", "x", "-1", "9999999999999", "86400"} {
		if e := client.NewError(&client.Response{Status: 418, Header: http.Header{"Retry-After": {text}}}, ""); e.RetryAfter != 0 || !strings.Contains(e.Error(), "418") {
			t.Errorf("%q: %+v", text, e)
		}
	}
	if client.Status(io.EOF) != 0 || client.PublicKey(io.EOF) != "" {
		t.Error("another error has a status or a key")
	}
}

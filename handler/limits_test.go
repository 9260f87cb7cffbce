package handler_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/handler"
)

// routesWithBodies returns a request to each route that reads a body.
func routesWithBodies() []call {
	const csrs = "/policy/api/v1/infra/csrs"
	return []call{
		{method: "POST", path: csrPath},
		{method: "PUT", path: certificatePath},
		{method: "POST", path: csrs + "/x?action=create"},
		{method: "POST", path: csrs + "/x?action=import"},
		{method: "POST", path: csrs + "/x?action=upload", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}},
		{method: "POST", path: csrs + "?action=self_sign"},
		{method: "POST", path: "/api/session/create", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
	}
}

// TestBodyLimit: a body that is too long gets 413 in the dialect's own document, whether
// it has a Content-Length, comes in chunks, or waits for "100 Continue".
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	const limit = 2000
	s := newStack(t, func(c *handler.Config) { c.BodyBytes = limit })
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
	for _, route := range routesWithBodies() {
		for name, send := range map[string]func(w io.Writer) error{
			"a length": func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Content-Length: %d\r\n\r\n%s", limit+1, strings.Repeat(" ", limit+1))
				return err
			},
			"chunks": func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Transfer-Encoding: chunked\r\n\r\n%s", strings.Repeat("a\r\n          \r\n", limit/10+1))
				return err
			},
			"100-continue": func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", 50<<20)
				return err
			},
		} {
			c, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "https://"))
			if err != nil {
				t.Fatal(err)
			}
			req, err := http.NewRequestWithContext(t.Context(), route.method, s.url+route.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth("admin", adminPassword)
			mediaType := "application/json"
			if other, given := route.header["Content-Type"]; given {
				mediaType = other
			}
			_, err = fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: %s\r\n", route.method, route.path, req.Header.Get("Authorization"), mediaType)
			if err == nil {
				err = send(c)
			}
			if err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(c)
			resp, err := http.ReadResponse(in, nil)
			for err == nil && resp.StatusCode == http.StatusContinue {
				// The client may send, and sends too much.
				if _, err = io.WriteString(c, strings.Repeat(" ", limit+1)); err == nil {
					resp, err = http.ReadResponse(in, nil)
				}
			}
			if err != nil {
				t.Fatalf("%s with %s: %v", route.path, name, err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(body), "larger than 2000 bytes") {
				t.Errorf("%s with %s: %v %s %s", route.path, name, err, resp.Status, body)
			}
			_ = c.Close()
		}
	}
}

// TestContentEncoding: a compressed body is refused for its encoding, and not inflated.
func TestContentEncoding(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, route := range routesWithBodies() {
		for coding, refused := range map[string]bool{"gzip": true, "GZIP": true, "br": true, "gzip, identity": true, "identity": false, "Identity": false} {
			c := route
			c.body = "\x1f\x8b\x08"
			c.header = map[string]string{"Content-Encoding": coding}
			maps.Copy(c.header, route.header)
			a := s.do(c)
			if a.status != 400 || strings.Contains(string(a.body), "Content-Encoding") != refused {
				t.Errorf("%s to %s: %d %s", coding, c.path, a.status, a.body)
			}
			if refused && c.path == csrPath {
				e := a.vapiError(t)
				if e.ErrorType != "INVALID_REQUEST" || e.Messages[0].ID != "vapi.protocol.server.rest.unsupported_media_type" {
					t.Errorf("%+v", e)
				}
			}
		}
	}
}

// TestRequestsAtATime: the requests that one client has in flight are bounded, also
// where they come over many connections of a proxy. A client beyond the bound gets
// 503 with Retry-After. Other clients, health and readiness do not notice.
func TestRequestsAtATime(t *testing.T) {
	t.Parallel()
	const client, other = "192.0.2.1", "192.0.2.2"
	s := newStack(t, trusting("127.0.0.0/8"), func(c *handler.Config) { c.RequestsPerClient = 6 })
	get := func(path, from string) answer {
		return s.do(call{method: "GET", path: path, header: map[string]string{"X-Forwarded-For": from}})
	}
	waitFor := func(inFlight string) {
		t.Helper()
		for range 500 {
			if strings.Contains(string(get("/metrics", client).body), "attestcsr_http_requests_in_flight "+inFlight+"\n") {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("never %s in flight", inFlight)
	}
	var bodies []io.Closer
	var requests sync.WaitGroup
	for range 6 {
		body, sent := io.Pipe()
		bodies = append(bodies, sent)
		requests.Go(func() { s.createFrom(client, body) })
	}
	waitFor("6")
	if a := get(certificatePath, client); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("a seventh request: %d %s", a.status, a.body)
	}
	if a := get(certificatePath, other); a.status != 200 {
		t.Errorf("another client: %d %s", a.status, a.body)
	}
	if a := get("/readyz", client); a.status != 200 {
		t.Errorf("readiness: %d", a.status)
	}
	for _, body := range bodies {
		_ = body.Close() // a pipe's Close returns nil
	}
	requests.Wait()
	waitFor("0")
	if a := get(certificatePath, client); a.status != 200 {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

// createFrom sends a create whose body is empty, for a client behind a proxy.
func (s *stack) createFrom(client string, body io.Reader) {
	req, err := http.NewRequestWithContext(context.Background(), "POST", s.url+csrPath, body)
	if err != nil {
		s.t.Error(err)
		return
	}
	req.SetBasicAuth("admin", adminPassword)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Forwarded-For", client)
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Error(err)
		return
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 400 {
		s.t.Errorf("a create without a body: %s", resp.Status)
	}
}

// TestAnswerNotTaken: a client that does not take its answer within the write timeout
// is cut off, and the log does not call it an error of the service.
func TestAnswerNotTaken(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.WriteTimeout = 300 * time.Millisecond })
	for i := range 200 {
		a := s.do(call{method: "POST", path: fmt.Sprintf("/policy/api/v1/infra/csrs/%d?action=create", i),
			body: `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"EC","key_size":256,"description":"` + strings.Repeat("x", 1000) + `"}`})
		if a.status != 201 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/policy/api/v1/infra/csrs", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", adminPassword)
	for range 40 { // more than the kernel keeps
		if err := req.Write(secured); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		if strings.Contains(s.log.String(), `"error_kind":"answer_not_taken"`) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	log := s.log.String()
	if !strings.Contains(log, `"error_kind":"answer_not_taken"`) {
		t.Error("the client is not cut off")
	}
	if _, faults, is := strings.Cut(log, `"level":"ERROR"`); is {
		t.Errorf("an error of the service: %s", faults)
	}
}

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"attestcsr/keystore/keystoretest"
)

// frames is a connection for HTTP/2 on which headers can be sent that no client
// library would send.
type frames struct {
	*http2.Framer
	conn   *tls.Conn
	stream uint32
}

func (s *instance) dialFrames(t *testing.T) *frames {
	t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &frames{Framer: http2.NewFramer(conn, conn), conn: conn, stream: 1}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.WriteSettings(), f.WriteWindowUpdate(0, 1<<30)); err != nil {
		t.Fatal(err)
	}
	return f
}

// send sends a request as a list of names and values, in that order, with the
// body, and returns the status of its answer: 0 where the stream was reset, -1
// where the connection was closed.
func (f *frames) send(t *testing.T, fields []string, body string) int {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	stream := f.stream
	f.stream += 2
	if err := f.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// A header block may be larger than a frame.
	first := block.Next(16 << 10)
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: block.Len() == 0, EndStream: body == ""})
	for err == nil && block.Len() > 0 {
		next := block.Next(16 << 10)
		err = f.WriteContinuation(stream, block.Len() == 0, next)
	}
	if err == nil && body != "" {
		err = f.WriteData(stream, true, []byte(body))
	}
	if err != nil {
		return -1
	}
	return f.answer(t, stream)
}

func (f *frames) answer(t *testing.T, stream uint32) int {
	t.Helper()
	status := 0
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return -1
		}
		if frame.Header().StreamID != stream && frame.Header().StreamID != 0 {
			continue // the rest of one before
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				if err := f.WriteSettingsAck(); err != nil {
					return -1
				}
			}
		case *http2.GoAwayFrame:
			return -1
		case *http2.RSTStreamFrame:
			return status
		case *http2.MetaHeadersFrame:
			if status, err = strconv.Atoi(frame.PseudoValue("status")); err != nil {
				t.Fatal(err)
			}
			if frame.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status
			}
		}
	}
}

func (f *frames) get(t *testing.T, path, credentials string) int {
	t.Helper()
	return f.send(t, []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", path, "authorization", credentials}, "")
}

// TestFrames: headers of HTTP/2 that would be another request once they are
// written down for HTTP/1.1 are refused, and the next request on the connection
// answers itself.
func TestFrames(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	const refused = 0
	session := func(method string, more ...string) []string {
		return append([]string{":method", method, ":scheme", "https", ":authority", "x", ":path", "/api/session"}, more...)
	}
	forms := []struct {
		name   string
		fields []string
		body   string
		want   []int // one of them
	}{
		{"nothing odd", session("GET"), "", []int{401}},
		{"a body", session("POST"), "{}", []int{401}},
		{"Transfer-Encoding", session("POST", "transfer-encoding", "chunked"), "0\r\n\r\n" + smuggled, []int{refused, 400, 401}},
		{"Connection", session("GET", "connection", "keep-alive"), "", []int{refused, 400}},
		{"Upgrade", session("GET", "upgrade", "h2c"), "", []int{refused, 400}},
		{"Content-Length shorter than the body", session("POST", "content-length", "0"), smuggled, []int{refused, 400, 401}},
		{"Content-Length longer than the body", session("POST", "content-length", "500"), smuggled, []int{refused, 400, 401}},
		{"two Content-Lengths", session("POST", "content-length", "0", "content-length", "2"), "{}", []int{refused, 400, 401}},
		{"line break in a value", session("GET", "x", "y\r\ncontent-length: 5"), "", []int{refused, 400}},
		{"NUL in a value", session("GET", "x", "y\x00"), "", []int{refused, 400}},
		{"upper case in a name", session("GET", "X-Y", "z"), "", []int{refused, 400}},
		{"colon in a name", session("GET", "x: y\r\nz", "z"), "", []int{refused, 400}},
		{"space in the path", append(session("GET")[:6:6], ":path", "/healthz HTTP/1.1\r\n\r\n"+smuggled), "", []int{refused, 400}},
		{"space in the method", session("GET /healthz HTTP/1.1\r\n\r\nGET"), "", []int{refused, 400}},
		{"no path", session("GET")[:6:6], "", []int{refused, 400}},
		{"empty path", append(session("GET")[:6:6], ":path", ""), "", []int{refused, 400}},
		{"path without a slash", append(session("GET")[:6:6], ":path", "api/session"), "", []int{refused, 400, 404}},
		{"absolute URL as path", append(session("GET")[:6:6], ":path", "https://x/api/session"), "", []int{refused, 400, 401, 404}},
		{"two paths", session("GET", ":path", "/healthz"), "", []int{refused, 400}},
		{"path behind a header", append(session("GET")[:6:6], "x", "y", ":path", "/api/session"), "", []int{refused, 400}},
		{"unknown pseudo-header", session("GET", ":x", "y"), "", []int{refused, 400}},
		{"OPTIONS *", []string{":method", "OPTIONS", ":scheme", "https", ":authority", "x", ":path", "*"}, "", []int{404}},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "x:443"}, "", []int{404}},
		{"CONNECT with a path", session("CONNECT"), "", []int{refused, 400}},
		{"extended CONNECT", session("CONNECT", ":protocol", "websocket"), "", []int{refused, 400}},
		{"TRACE", session("TRACE", "cookie", "JSESSIONID=x"), "", []int{405}},
		{"authority that is not the host", session("GET", "host", "y"), "", []int{401}},
		{"authority with a user", []string{":method", "GET", ":scheme", "https", ":authority", "admin:x@x", ":path", "/api/session"}, "", []int{refused, 400, 401}},
		{"another scheme", []string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/api/session"}, "", []int{401}},
	}
	for _, form := range forms {
		t.Run(form.name, func(t *testing.T) {
			f := s.dialFrames(t)
			got := f.send(t, form.fields, form.body)
			if closed := got == -1; !closed && !slices.Contains(form.want, got) {
				t.Errorf("%d, want one of %v", got, form.want)
			} else if closed && !slices.Contains(form.want, refused) {
				t.Error("the connection was closed")
			} else if !closed {
				if next := f.send(t, []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/healthz"}, ""); next != 200 {
					t.Errorf("the next request got %d", next)
				}
			}
		})
	}
	if strings.Contains(s.stdout.String(), `"client_request_id":"smuggled`) {
		t.Error("a request inside of another was taken for one")
	}
	keystoretest.Count(t, "forms of HTTP/2 headers", len(forms))
}

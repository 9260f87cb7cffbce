package start

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// DialRaw opens a connection for HTTP/1.1, which takes 20 seconds at most.
func (s *Instance) DialRaw(t *testing.T) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ReadAnswers reads answers until the server closes the connection. It fails if
// something else comes, or if the connection stays open.
func ReadAnswers(t *testing.T, conn io.Reader) []Answer {
	t.Helper()
	var answers []Answer
	for r := bufio.NewReader(conn); ; {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			return answers
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Errorf("after %v: %v", answers, err)
			return answers
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Errorf("after %v: %v", answers, err)
			return answers
		}
		answers = append(answers, Answer{resp.StatusCode, resp.Header, string(body)})
	}
}

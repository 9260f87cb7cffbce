package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"attestcsr/handler/strict"
)

// Session is what a login returns. Both are secrets.
type Session struct {
	ID   string `json:"id"`
	XSRF string `json:"xsrf,omitzero"` // in the dialects that have one
}

// Caller sends requests that belong to a session.
type Caller struct {
	*Client
	Session Session
	// Put writes a session into the header of a request.
	Put func(http.Header, Session)
	// Renew returns a new session where the server does not know this one any more. nil:
	// the answer is 401 then.
	Renew func(context.Context) (Session, error)
}

// Do sends a request with the session.
func (c *Caller) Do(ctx context.Context, r Request) (*Response, error) {
	send := func() (*Response, error) {
		header := r.Header.Clone()
		if header == nil {
			header = http.Header{}
		}
		c.Put(header, c.Session)
		signed := r
		signed.Header = header
		return c.Client.Do(ctx, signed)
	}
	answer, err := send()
	if err != nil || answer.Status != http.StatusUnauthorized || c.Renew == nil {
		return answer, err
	}
	if c.Session, err = c.Renew(ctx); err != nil {
		return nil, err
	}
	return send()
}

// Error is an error document that a server has answered with.
type Error struct {
	Status     int
	Code       string // as the dialect has it
	Messages   []string
	RetryAfter time.Duration // 0: the server does not say
}

// Bounds of the text of a server that people get to see.
const (
	maxMessages = 32
	maxMessage  = 1000
)

// NewError makes the error of an answer. The texts are those of its document; they are
// made fit for a terminal.
func NewError(r *Response, code string, messages ...string) *Error {
	e := &Error{Status: r.Status, Code: strict.Printable(code, maxMessage)}
	for _, m := range messages[:min(len(messages), maxMessages)] {
		e.Messages = append(e.Messages, strict.Printable(m, maxMessage))
	}
	if seconds, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && seconds > 0 && seconds < int(24*time.Hour/time.Second) {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

// Error has one line for each message.
func (e *Error) Error() string {
	if len(e.Messages) == 0 {
		return fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	}
	return strings.Join(e.Messages, "\n")
}

// Status is the status of the error document that err is, or 0.
func Status(err error) int {
	if e, is := errors.AsType[*Error](err); is {
		return e.Status
	}
	return 0
}

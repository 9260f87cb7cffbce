package vapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
)

const invalidArgument = "INVALID_ARGUMENT"

// document is the error body of vSphere Automation REST. Messages and args are never
// null, since clients fail without lists. They choose their type of error by the HTTP
// status alone.
type document struct {
	ErrorType string         `json:"error_type"`
	Messages  []Message      `json:"messages"`
	Data      map[string]any `json:"data,omitempty"`
}

// Message is one sentence of an answer.
type Message struct {
	ID      string   `json:"id"`
	Default string   `json:"default_message"`
	Args    []string `json:"args"`

	// quotes: the text quotes the client. The log leaves it out, since it may be a
	// secret in the wrong place.
	quotes bool
}

// newMessage makes a message of a format and all of its arguments.
func newMessage(id, format string, args ...string) Message {
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a
	}
	return Message{ID: id, Default: fmt.Sprintf(format, values...), Args: append([]string{}, args...)}
}

// quoting makes a message whose argument is text of the client.
func quoting(id, format, said string) Message {
	m := newMessage(id, format, said)
	m.quotes = true
	return m
}

// logText is the message for the log.
func (m Message) logText() string {
	if m.quotes {
		return m.ID
	}
	return m.ID + ": " + m.Default
}

// badRequest is the error of a request that breaks a rule of the dialect: on JSON,
// media type or parameters. The core has rules of its own (csr.Invalid).
type badRequest struct {
	errorType string
	messages  []Message
}

// Error is for the log.
func (e *badRequest) Error() string {
	var texts []string
	for _, m := range bounded(e.messages) {
		texts = append(texts, m.logText())
	}
	return strings.Join(texts, " ")
}

// maxMessages is how many messages an answer has. A body can have thousands of problems.
const maxMessages = 32

// bounded returns the first messages, and where there are more, one that says how many.
func bounded(all []Message) []Message {
	if len(all) <= maxMessages {
		return all
	}
	more := newMessage("attestcsr.more", "And %s more.", strconv.Itoa(len(all)-maxMessages))
	return append(all[:maxMessages:maxMessages], more)
}

// BadRequest is the error of a request whose member breaks a rule. The text has nothing
// of the client.
func BadRequest(id, text, member string) error {
	return &badRequest{invalidArgument, []Message{{ID: id, Default: text, Args: []string{member}}}}
}

// Unwrap makes it an error of the client for those who know csr.Error only.
func (e *badRequest) Unwrap() error { return &csr.Error{Kind: csr.Invalid} }

// describe returns the status and the document for an error. An error of unknown
// type is an internal error, and its text is not sent.
func describe(requestID string, err error) (int, document) {
	var (
		bad     *badRequest
		tooLong *http.MaxBytesError
		httpErr *echo.HTTPError
		coreErr *csr.Error
	)
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest, document{ErrorType: bad.errorType, Messages: bounded(bad.messages)}
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, one("INVALID_REQUEST", "attestcsr.http.body_too_large", fmt.Sprintf("The request body is larger than %d bytes.", tooLong.Limit))
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusNotFound:
		return http.StatusNotFound, one("NOT_FOUND", "com.vmware.vapi.rest.httpNotFound", "Not found.")
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed:
		return http.StatusMethodNotAllowed, one("INVALID_REQUEST", "com.vmware.vapi.rest.httpMethodNotAllowed", "This path does not have that method: the Allow header lists those it has.")
	case errors.As(err, &coreErr) && coreErr.Kind == csr.Invalid:
		return http.StatusBadRequest, document{ErrorType: invalidArgument, Messages: Messages(coreErr.Violations)}
	case errors.As(err, &coreErr) && coreErr.Kind == csr.Unauthorized:
		return http.StatusForbidden, one("UNAUTHORIZED", "vapi.security.authorization.invalid", fmt.Sprintf("The user does not hold the privilege %s.", coreErr.Privilege))
	case errors.As(err, &coreErr):
		return describeKind(requestID, coreErr.Kind)
	}
	return describeKind(requestID, csr.Internal)
}

func describeKind(requestID string, kind csr.Kind) (int, document) {
	type answer struct {
		status              int
		errorType, id, text string
	}
	const changed = "It was changed by another request at the same time. Read it again before you retry."
	const later = "The service cannot take this request now. Try again after the time that the Retry-After header names."
	a, known := map[csr.Kind]answer{
		csr.Unauthenticated: {http.StatusUnauthorized, "UNAUTHENTICATED", "com.vmware.vapi.endpoint.method.authentication.required", "Authentication required."},
		csr.Forged:          {http.StatusForbidden, "UNAUTHORIZED", "attestcsr.forged", "Another site may have sent this request: its origin is not among the allowed_origins of the service, or the X-XSRF-TOKEN header is not that of the session."},
		csr.NotFound:        {http.StatusNotFound, "NOT_FOUND", "attestcsr.csr.not_found", "There is no CSR. Create one first."},
		csr.Exists:          {http.StatusBadRequest, "ALREADY_EXISTS", "attestcsr.exists", "It exists already."},
		csr.Conflict:        {http.StatusConflict, "CONCURRENT_CHANGE", "attestcsr.concurrent_change", changed},
		csr.Stale:           {http.StatusConflict, "CONCURRENT_CHANGE", "attestcsr.concurrent_change", changed},
		csr.Busy:            {http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "attestcsr.busy", later},
		csr.Unavailable:     {http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "attestcsr.unavailable", later},
		csr.TooMany:         {http.StatusServiceUnavailable, "SERVICE_UNAVAILABLE", "attestcsr.too_many", later},
	}[kind]
	if !known {
		doc := one("ERROR", "attestcsr.internal_error", "Internal error. The service's log tells the cause under this request id.")
		doc.Data = map[string]any{"request_id": requestID}
		return http.StatusInternalServerError, doc
	}
	return a.status, one(a.errorType, a.id, a.text)
}

// Messages makes a message of every broken rule.
func Messages(broken []pkcs10.Violation) []Message {
	messages := make([]Message, 0, len(broken))
	for _, v := range broken {
		name := wireName(v.Field)
		args := []string{name}
		if arg := cmp.Or(v.Value, v.Limit); arg != "" {
			args = append(args, arg)
		}
		messages = append(messages, Message{ID: "attestcsr.csr." + string(v.Rule), Default: v.Describe(name), Args: args})
	}
	return bounded(messages)
}

func one(errorType, id, text string) document {
	return document{ErrorType: errorType, Messages: []Message{newMessage(id, text)}}
}

// WriteError answers err with a vSphere Automation error document.
func WriteError(c echo.Context, requestID string, err error) error {
	status, doc := describe(requestID, err)
	return Reply(c, status, doc)
}

// WriteLegacyError answers err in the form of the older /rest interface.
func WriteLegacyError(c echo.Context, requestID string, err error) error {
	status, doc := describe(requestID, err)
	type value struct {
		Messages []Message      `json:"messages"`
		Data     map[string]any `json:"data,omitempty"`
	}
	return Reply(c, status, struct {
		Type  string `json:"type"`
		Value value  `json:"value"`
	}{"com.vmware.vapi.std.errors." + strings.ToLower(doc.ErrorType), value{doc.Messages, doc.Data}})
}

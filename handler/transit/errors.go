package transit

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

// document is the body of an error. Errors is never null.
type document struct {
	Errors []string `json:"errors"`
}

// badRequest is the error of a request that breaks a rule of the dialect. The core has
// rules of its own (csr.Invalid).
type badRequest struct {
	sentences []string
	more      int  // sentences that were left out
	quotes    bool // the client: the log leaves the sentences out
}

// maxSentences is how many an answer has. A body can have thousands of problems.
const maxSentences = 32

func (e *badRequest) add(sentence string) {
	if len(e.sentences) == maxSentences {
		e.more++
		return
	}
	e.sentences = append(e.sentences, sentence)
}

func (e *badRequest) all() []string {
	if e.more > 0 {
		return append(e.sentences[:maxSentences:maxSentences], "and "+strconv.Itoa(e.more)+" more")
	}
	return e.sentences
}

func invalid(sentence string) error { return &badRequest{sentences: []string{sentence}} }

// Error is for the log.
func (e *badRequest) Error() string {
	if e.quotes {
		return "problems of the body, in text of the client"
	}
	return strings.Join(e.all(), "; ")
}

// Unwrap makes it an error of the client for those who know csr.Error only.
func (e *badRequest) Unwrap() error { return &csr.Error{Kind: csr.Invalid} }

// wrongPassword is the error of a login. Other requests without credentials have another
// status.
type wrongPassword struct{ error }

func (e *wrongPassword) Unwrap() error { return e.error }

var errNamespace = echo.NewHTTPError(http.StatusNotFound, "there are no namespaces here: send no X-Vault-Namespace")

// describe returns the status and the sentences for an error. An error of unknown type is
// an internal error, and its text is not sent.
func describe(requestID string, err error) (status int, sentences []string) {
	var (
		wrong   *wrongPassword
		bad     *badRequest
		tooLong *http.MaxBytesError
		httpErr *echo.HTTPError
		coreErr *csr.Error
	)
	switch {
	case errors.As(err, &wrong):
		return http.StatusBadRequest, []string{"invalid username or password"}
	case errors.As(err, &bad):
		return http.StatusBadRequest, bad.all()
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, []string{fmt.Sprintf("the request body is larger than %d bytes", tooLong.Limit)}
	case errors.Is(err, errNamespace):
		return http.StatusNotFound, []string{fmt.Sprint(errNamespace.Message)}
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusNotFound:
		return http.StatusNotFound, []string{}
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed:
		return http.StatusMethodNotAllowed, []string{"unsupported operation: the Allow header lists the methods that this path has"}
	case errors.As(err, &coreErr) && coreErr.Kind == csr.Invalid:
		return http.StatusBadRequest, violations(coreErr.Violations)
	case errors.As(err, &coreErr) && coreErr.Kind == csr.Unauthorized:
		return http.StatusForbidden, []string{fmt.Sprintf("permission denied: the user does not hold the privilege %s", coreErr.Privilege)}
	case errors.As(err, &coreErr):
		return describeKind(requestID, coreErr.Kind)
	}
	return describeKind(requestID, csr.Internal)
}

func describeKind(requestID string, kind csr.Kind) (status int, sentences []string) {
	const (
		later   = "the service cannot take this request now: try again after the time that the Retry-After header names"
		changed = "it was changed by another request at the same time"
	)
	type one struct {
		status int
		text   string
	}
	a, known := map[csr.Kind]one{
		csr.Unauthenticated: {http.StatusForbidden, "permission denied"},
		csr.Forged:          {http.StatusForbidden, "permission denied: a page of another site sent this request, and its origin is not among the allowed_origins of the service"},
		csr.NotFound:        {http.StatusNotFound, ""},
		csr.Exists:          {http.StatusBadRequest, "it exists already"},
		csr.Conflict:        {http.StatusConflict, changed},
		csr.Stale:           {http.StatusConflict, changed},
		csr.Busy:            {http.StatusServiceUnavailable, later},
		csr.Unavailable:     {http.StatusServiceUnavailable, later},
		csr.TooMany:         {http.StatusTooManyRequests, "more signatures than signing.rate: try again after the time that the Retry-After header names"},
	}[kind]
	switch {
	case !known:
		return http.StatusInternalServerError, []string{"internal error: the service's log tells the cause under the request id " + requestID}
	case a.text == "": // as clients know it: there is nothing
		return a.status, []string{}
	}
	return a.status, []string{a.text}
}

func violations(broken []pkcs10.Violation) []string {
	sentences := make([]string, len(broken))
	for i, v := range broken {
		sentences[i] = v.Describe(wireName(v.Field))
	}
	return sentences
}

// wireName is this dialect's name of a field.
func wireName(f pkcs10.Field) string {
	names := map[pkcs10.Field]string{
		csr.SigningScheme:   "signature_algorithm",
		csr.SigningHash:     "hash_algorithm",
		csr.SigningDigest:   "input, which is prehashed,",
		csr.SigningVersion:  "key_version",
		csr.SigningMessages: "batch_input",
	}
	return cmp.Or(names[f], string(f))
}

// WriteError answers err with a document of this dialect.
func WriteError(c echo.Context, requestID string, err error) error {
	status, sentences := describe(requestID, err)
	return reply(c, status, document{sentences})
}

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// The error codes of this dialect. Every document has one, since a well-known
// client crashes without.
const (
	codeForged          = 98
	codeInternal        = 99
	codeJSON            = 220
	codeValidation      = 255
	codePermission      = 289
	codeUnauthenticated = 403
	codeConflict        = 409
	codeNotFound        = 600
	codeStale           = 604
	codeExists          = 500127
)

const (
	// maxProblems is how many problems an answer tells. A body can have thousands.
	maxProblems = 32
	// maxPathLength is how many characters of a path an answer has. The path of an
	// object is shorter.
	maxPathLength = 300
)

// document is the ApiError of NSX.
type document struct {
	HTTPStatus   string `json:"httpStatus"`
	ErrorCode    int    `json:"error_code"`
	ModuleName   string `json:"module_name"`
	ErrorMessage string `json:"error_message"`
	Details      string `json:"details,omitempty"`
}

// badRequest is the error of a request that breaks a rule of the dialect: on JSON,
// parameters or required members. The core has rules of its own (csr.Invalid).
type badRequest struct {
	code     int
	problems []problem // at least one
}

// problem is a sentence without a full stop, in three parts. The middle part quotes
// the client. The log leaves it out, since it may be a secret in the wrong place.
type problem struct{ before, quoted, after string }

func (p problem) String() string { return p.before + p.quoted + p.after }

// logText is the sentence for the log.
func (p problem) logText() string {
	if p.quoted == "" {
		return p.before
	}
	return p.before + "…" + p.after
}

func refused(problems ...problem) error { return &badRequest{codeValidation, problems} }

func invalid(sentence string) error { return refused(problem{before: sentence}) }

func malformed(what string) error { return &badRequest{codeJSON, []problem{{before: what}}} }

// Error is for the log.
func (e *badRequest) Error() string { return strings.Join(e.sentences(problem.logText), "; ") }

func (e *badRequest) sentences(write func(problem) string) []string {
	sentences := make([]string, len(e.problems))
	for i, p := range e.problems {
		sentences[i] = write(p)
	}
	return sentences
}

// Unwrap makes it an error of the client for those who know csr.Error only.
func (e *badRequest) Unwrap() error { return &csr.Error{Kind: csr.Invalid} }

// WriteError answers err with an NSX error document. An error of unknown type is an
// internal error, and its text is not sent.
func WriteError(c echo.Context, requestID string, err error) error {
	status, doc := describe(c.Request().URL, err)
	doc.HTTPStatus = statusName(status)
	doc.ModuleName = "policy"
	switch status {
	case http.StatusUnauthorized:
		doc.ModuleName = "common-services"
	case http.StatusInternalServerError:
		doc.Details = "request id " + requestID
	}
	return reply(c, status, doc)
}

// describe returns the status and the document for an error. u is the URL of the
// request.
func describe(u *url.URL, err error) (status int, doc document) {
	var (
		bad     *badRequest
		tooLong *http.MaxBytesError
		httpErr *echo.HTTPError
		coreErr *csr.Error
	)
	switch {
	case errors.As(err, &bad) && bad.code == codeJSON:
		return http.StatusBadRequest, document{ErrorCode: codeJSON, ErrorMessage: "Failed to parse the JSON of the request body: " + join(bad.sentences(problem.String)) + "."}
	case errors.As(err, &bad):
		return http.StatusBadRequest, fieldErrors(bad.sentences(problem.String))
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, document{ErrorCode: codeValidation, ErrorMessage: fmt.Sprintf("The request body is larger than %d bytes.", tooLong.Limit)}
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusNotFound:
		return http.StatusNotFound, document{ErrorCode: codeNotFound, ErrorMessage: "The requested path does not exist."}
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed:
		return http.StatusMethodNotAllowed, document{ErrorCode: codeValidation, ErrorMessage: "This path does not have that method: the Allow header lists those it has."}
	case errors.As(err, &coreErr) && coreErr.Kind == csr.Invalid:
		return http.StatusBadRequest, fieldErrors(violations(u, coreErr.Violations))
	case errors.As(err, &coreErr):
		return describeKind(u, coreErr.Kind)
	}
	return describeKind(u, csr.Internal)
}

func describeKind(u *url.URL, kind csr.Kind) (status int, doc document) {
	type answer struct {
		status, code int
		text         string
	}
	const later = "The service cannot take this request now. Try again after the time that the Retry-After header names."
	a, known := map[csr.Kind]answer{
		csr.NotFound:        {http.StatusNotFound, codeNotFound, "The requested object : " + infraPath(u) + " could not be found. Object identifiers are case sensitive."},
		csr.Exists:          {http.StatusBadRequest, codeExists, "Cannot create an object with path=[" + infraPath(u) + "] as it already exists."},
		csr.Conflict:        {http.StatusConflict, codeConflict, "The object was changed by another request at the same time."},
		csr.Stale:           {http.StatusPreconditionFailed, codeStale, "The _revision of the request is not that of the stored object. Read it again before you retry."},
		csr.Unauthenticated: {http.StatusUnauthorized, codeUnauthenticated, "The credentials were incorrect or the account specified has been locked."},
		csr.Forged:          {http.StatusForbidden, codeForged, "Another site may have sent this request: the X-XSRF-TOKEN header is not that of the session, or the origin is not among the allowed_origins of the service."},
		csr.Unauthorized:    {http.StatusForbidden, codePermission, "The user does not have permission for this operation on the feature policy_certificate."},
		csr.Busy:            {http.StatusServiceUnavailable, codeInternal, later},
		csr.TooMany:         {http.StatusServiceUnavailable, codeInternal, later},
		csr.Unavailable:     {http.StatusServiceUnavailable, codeInternal, later},
	}[kind]
	if !known {
		a = answer{http.StatusInternalServerError, codeInternal, "Internal error. The service's log tells the cause under this request id."}
	}
	return a.status, document{ErrorCode: a.code, ErrorMessage: a.text}
}

// fieldErrors lists problems as NSX does: in braces, in the message and in details.
func fieldErrors(problems []string) document {
	text := "Field level validation errors: {" + join(problems) + "}"
	return document{ErrorCode: codeValidation, ErrorMessage: text, Details: text}
}

func join(problems []string) string {
	if more := len(problems) - maxProblems; more > 0 {
		problems = append(problems[:maxProblems:maxProblems], "and "+strconv.Itoa(more)+" more")
	}
	return strings.Join(problems, "; ")
}

func violations(u *url.URL, broken []pkcs10.Violation) []string {
	sentences := make([]string, len(broken))
	for i, v := range broken {
		name := wireName(v.Field)
		if v.Field == pkcs10.CertificateChain && u.Query().Get("action") == "upload" {
			name = uploadField
		}
		sentences[i] = v.Describe(name)
	}
	return sentences
}

// wireName is this dialect's name of a field.
func wireName(f pkcs10.Field) string {
	switch f {
	case pkcs10.CommonName, pkcs10.Organization, pkcs10.OrganizationalUnit, pkcs10.Locality, pkcs10.StateOrProvince, pkcs10.Country:
		return "subject.attributes " + string(f)
	}
	names := map[pkcs10.Field]string{
		pkcs10.KeySize:            "key_size",
		pkcs10.KeyAlgorithm:       "algorithm",
		pkcs10.SubjectAltName:     "extensions.subject_alt_names",
		pkcs10.CertificateChain:   "pem_encoded",
		pkcs10.DaysValid:          "days_valid",
		csr.ObjectID:              "id",
		csr.DisplayName:           "display_name",
		csr.Description:           "description",
		csr.Tags:                  "tags",
		csr.Collection:            "csrs",
		csr.CertificateCollection: "certificates",
	}
	return cmp.Or(names[f], string(f))
}

// infraPath is the policy path of the object with this URL.
func infraPath(u *url.URL) string {
	segments := strings.Split(u.EscapedPath(), "/")
	escaped := strings.Join(segments[:min(len(segments), idSegment+1)], "/") // up to the id
	path, err := url.PathUnescape(strings.TrimPrefix(escaped, apiPath))
	if err != nil {
		path = escaped
	}
	return strict.Printable(path, maxPathLength)
}

// statusName is NSX's name of an HTTP status.
func statusName(status int) string {
	if status == http.StatusRequestEntityTooLarge {
		return "PAYLOAD_TOO_LARGE"
	}
	return strings.ReplaceAll(strings.ToUpper(http.StatusText(status)), " ", "_")
}

// reply writes v as JSON.
func reply(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, body)
}

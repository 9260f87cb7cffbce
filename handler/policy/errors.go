// Package policy is the NSX dialect: the JSON shapes and error documents of the
// NSX policy API under /policy/api/v1.
package policy

import (
	"errors"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// The error codes of this dialect. A well-known client dereferences error_code
// unchecked, so that every document carries one.
const (
	codeInternal        = 99
	codeValidation      = 255
	codePermission      = 289
	codeUnauthenticated = 403
	codeConflict        = 409
	codeNotFound        = 600
	codeExists          = 500127
)

// document is the ApiError of NSX.
type document struct {
	HTTPStatus   string `json:"httpStatus"`
	ErrorCode    int    `json:"error_code"`
	ModuleName   string `json:"module_name"`
	ErrorMessage string `json:"error_message"`
	Details      string `json:"details,omitempty"`
}

// describe chooses status, code and words for an error. What it does not know is
// an internal error, whose text stays here.
func describe(err error) (status, code int, text string) {
	var (
		tooLong *http.MaxBytesError
		httpErr *echo.HTTPError
		coreErr *csr.Error
	)
	switch {
	case errors.As(err, &tooLong):
		return http.StatusRequestEntityTooLarge, codeValidation, "The request body is larger than 65536 bytes."
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusNotFound:
		return http.StatusNotFound, codeNotFound, "The requested path does not exist."
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed:
		return http.StatusMethodNotAllowed, codeValidation, "This path does not have that method: the Allow header lists those it has."
	case errors.As(err, &coreErr):
		switch coreErr.Kind {
		case csr.Invalid:
			return http.StatusBadRequest, codeValidation, "Field level validation errors: " + violations(coreErr.Violations)
		case csr.NotFound:
			return http.StatusNotFound, codeNotFound, "The requested object does not exist."
		case csr.Exists:
			return http.StatusBadRequest, codeExists, "Cannot create an object that already exists."
		case csr.Conflict:
			return http.StatusConflict, codeConflict, "The object was changed by another request at the same time."
		case csr.Unauthenticated:
			return http.StatusUnauthorized, codeUnauthenticated, "The credentials were incorrect or the account specified has been locked."
		case csr.Unauthorized:
			return http.StatusForbidden, codePermission, "The user does not have permission for this operation on the feature policy_certificate."
		case csr.Busy, csr.Unavailable:
			return http.StatusServiceUnavailable, codeInternal, "The service cannot take this request now. Try again after the time that the Retry-After header names."
		}
	}
	return http.StatusInternalServerError, codeInternal, "Internal error. The service's log tells the cause under this request id."
}

// violations lists the broken rules as NSX does, in braces.
func violations(broken []csr.Violation) string {
	sentences := make([]string, len(broken))
	for i, v := range broken {
		sentences[i] = v.Describe(string(v.Field))
	}
	return "{" + strings.Join(sentences, ". ") + "}"
}

// statusName is the spelling of an HTTP status in NSX's httpStatus member.
func statusName(status int) string {
	if status == http.StatusRequestEntityTooLarge {
		return "PAYLOAD_TOO_LARGE"
	}
	return strings.ReplaceAll(strings.ToUpper(http.StatusText(status)), " ", "_")
}

// WriteError answers err with an NSX error document.
func WriteError(c echo.Context, requestID string, err error) error {
	status, code, text := describe(err)
	doc := document{HTTPStatus: statusName(status), ErrorCode: code, ModuleName: "policy", ErrorMessage: text}
	switch {
	case code == codeUnauthenticated:
		doc.ModuleName = "common-services"
	case status == http.StatusInternalServerError:
		doc.Details = "request id " + requestID
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, body)
}

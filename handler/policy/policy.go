// Package policy is the NSX dialect: the paths, JSON shapes and error documents
// of the NSX policy API under /policy/api/v1, for certification requests
// (TlsCsr) and the certificates that answer them (TlsCertificate).
//
// Sources: the vendor's page "Generate a New Certificate Signing Request" and
// what its SDKs send and accept; docs/divergences.md lists where we knowingly
// differ.
package policy

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

const (
	apiPath          = "/policy/api/v1"
	csrsPath         = apiPath + csrsParent
	certificatesPath = apiPath + certificatesParent
	pemFile          = "/pem-file"
)

// Roots are the first parts of the paths of the real product, in front of a slash or
// alone. Official clients look under the last two as well, and read an error document of
// this dialect that says that nothing is there.
func Roots() []string { return []string{"/policy", "/api/v1", "/global-manager"} }

// Handle answers one request. The grant is nil where the route has no operation.
type Handle func(c echo.Context, grant *csr.Grant) error

// Operation returns the operation of a request. One path and method can have
// several, and the query parameter "action" says which. With an error, which says
// that the request names no operation, it returns the operation that a caller must
// be allowed in order to see that error. It does not read the body.
type Operation func(r *http.Request) (csr.Operation, error)

// Add registers a route. A route with a nil operation checks no credentials or
// does so itself: a login, or, with echo.RouteNotFound as the method, a path that
// does not exist.
type Add func(method, path string, operation Operation, handle Handle)

// Register hands every route of the dialect to add.
func Register(s Sessions, add Add) {
	limit := newListLimit()
	collection := actions{
		"self_sign": {csr.SelfSignNew, answer(http.StatusCreated, replyCertificate, withBody(selfSignNew))},
	}
	object := actions{
		"create":    {csr.CreateNamedCSR, answer(http.StatusCreated, replyCSR, withBody(createCSR))},
		"import":    {csr.ImportCertificate, answer(http.StatusCreated, replyCertificate, withBody(importCertificate))},
		"upload":    {csr.ImportCertificate, answer(http.StatusCreated, replyCertificate, uploadCertificate)},
		"self_sign": {csr.SelfSign, answer(http.StatusCreated, replyCertificate, selfSign)},
	}
	add(http.MethodGet, csrsPath, fixed(csr.ListNamedCSRs), list(limit, (*csr.Grant).ListNamedCSRs, newCSRView))
	add(http.MethodPost, csrsPath, collection.operation, collection.handle)
	add(http.MethodGet, csrsPath+"/:id", fixed(csr.GetNamedCSR), get((*csr.Grant).NamedCSR, replyCSR))
	add(http.MethodPost, csrsPath+"/:id", object.operation, object.handle)
	add(http.MethodDelete, csrsPath+"/:id", fixed(csr.DeleteNamedCSR), remove((*csr.Grant).DeleteNamedCSR))
	add(http.MethodGet, csrsPath+"/:id"+pemFile, fixed(csr.GetNamedCSR), get((*csr.Grant).NamedCSR, replyPEM))

	add(http.MethodGet, certificatesPath, fixed(csr.ListNamedCertificates), list(limit, (*csr.Grant).ListNamedCertificates, newCertificateView))
	add(http.MethodGet, certificatesPath+"/:id", fixed(csr.GetNamedCertificate), getCertificate)
	add(http.MethodDelete, certificatesPath+"/:id", fixed(csr.DeleteNamedCertificate), remove((*csr.Grant).DeleteNamedCertificate))
	// An id has no slashes and is not empty. In Echo, a parameter at the end of a route
	// matches slashes unless a longer route exists, and one inside of a route matches
	// the empty string.
	unknownPath := func(echo.Context, *csr.Grant) error { return echo.ErrNotFound }
	add(echo.RouteNotFound, certificatesPath+"/:id/*", nil, unknownPath)
	add(echo.RouteNotFound, csrsPath+"/"+pemFile, nil, unknownPath)

	add(http.MethodPost, LoginPath, nil, login(s))
	add(http.MethodGet, LogoutPath, nil, logout(s))
}

// fixed is for a path and a method with one operation.
func fixed(o csr.Operation) Operation {
	return func(*http.Request) (csr.Operation, error) { return o, nil }
}

// actions are what a POST to one path can do, by the value of the parameter
// "action".
type actions map[string]struct {
	operation csr.Operation
	handle    Handle
}

// operation implements Operation. A request without a known action needs the
// privilege for creating, so that the answer tells nothing to those who may not
// change anything.
func (a actions) operation(r *http.Request) (csr.Operation, error) {
	q := readQuery(r)
	name := q.get("action")
	action, known := a[name]
	switch {
	case q.err() != nil:
		return csr.CreateNamedCSR, q.err()
	case name == "":
		return csr.CreateNamedCSR, invalid("action is required")
	case !known:
		return csr.CreateNamedCSR, refused(problem{"action ", quote(name), " does not exist here"})
	}
	return action.operation, nil
}

func (a actions) handle(c echo.Context, grant *csr.Grant) error {
	return a[readQuery(c.Request()).get("action")].handle(c, grant) // operation found it
}

// action does what a request asks for. The id is that of the path, or "".
type action[T any] func(r *http.Request, grant *csr.Grant, id string) (T, error)

// withBody is an action that reads the JSON body of the request first.
func withBody[Body, T any](do func(ctx context.Context, grant *csr.Grant, id string, body Body) (T, error)) action[T] {
	in := strict.New[Body]()
	return func(r *http.Request, grant *csr.Grant, id string) (none T, _ error) {
		body, err := decode(r, in)
		if err != nil {
			return none, err
		}
		return do(r.Context(), grant, id, body)
	}
}

// answer replies with what an action returns.
func answer[T any](status int, reply func(echo.Context, int, T) error, do action[T]) Handle {
	return func(c echo.Context, grant *csr.Grant) error {
		id, err := objectID(c)
		if err != nil {
			return err
		}
		result, err := do(c.Request(), grant, id)
		if err != nil {
			return err
		}
		return reply(c, status, result)
	}
}

func get[T any](fetch func(*csr.Grant, context.Context, string) (T, error), reply func(echo.Context, int, T) error) Handle {
	return answer(http.StatusOK, reply, func(r *http.Request, grant *csr.Grant, id string) (T, error) {
		return fetch(grant, r.Context(), id)
	})
}

func remove(do func(*csr.Grant, context.Context, string) error) Handle {
	noBody := func(c echo.Context, status int, _ struct{}) error { return c.NoContent(status) }
	return answer(http.StatusOK, noBody, func(r *http.Request, grant *csr.Grant, id string) (struct{}, error) {
		return struct{}{}, do(grant, r.Context(), id)
	})
}

func replyCSR(c echo.Context, status int, r csr.NamedRequest) error {
	return reply(c, status, newTLSCSR(r))
}

func replyPEM(c echo.Context, status int, r csr.NamedRequest) error {
	return c.Blob(status, "text/plain;charset=UTF-8", []byte(r.PEM))
}

// replyCertificate answers with a certificate that was just made.
func replyCertificate(c echo.Context, status int, n csr.NamedCertificate) error {
	return reply(c, status, newTLSCertificate(n, true))
}

// idSegment is the position of the id in a path split at its slashes: after "",
// "policy", "api", "v1", "infra" and the collection.
const idSegment = 6

// objectID returns the id in the path, or "" if it has none. It does not use Echo's
// parameter, which is sometimes unescaped and sometimes not.
func objectID(c echo.Context) (string, error) {
	segments := strings.Split(c.Request().URL.EscapedPath(), "/")
	if len(segments) <= idSegment {
		return "", nil
	}
	id, err := url.PathUnescape(segments[idSegment])
	if err != nil {
		return "", echo.ErrNotFound
	}
	return id, nil
}

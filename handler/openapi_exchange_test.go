package handler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"attestcsr/test/kit"
)

// exchange is a request and its answer.
type exchange struct {
	request *http.Request // its body is body
	body    []byte
	answer  answer
}

// refuses is why the document does not have the request of an exchange, or nil.
func (d *description) refuses(e exchange) error {
	in, err := d.operation(e.request)
	if err != nil {
		return err
	}
	return errors.Join(openapi3filter.ValidateRequest(context.Background(), in), d.judgeBody(in, e.body))
}

// deniesAnswer is why the document does not have the answer of an exchange, or nil.
func (d *description) deniesAnswer(e exchange) error {
	in, err := d.operation(e.request)
	if err != nil {
		return d.judgeError(familyOf(e.request.URL.Path), e)
	}
	status := strconv.Itoa(e.answer.status)
	responses := in.Route.Operation.Responses
	ref := responses.Value(status)
	if ref == nil {
		status, ref = "default", responses.Default()
	}
	if ref == nil {
		return errors.New("it has no such status")
	}
	return d.judgeAnswer(placeOf(ref.Ref, pointer("#/paths", in.Route.Path, strings.ToLower(in.Route.Method), "responses", status)), ref.Value, e)
}

// operation finds the operation of a request.
func (d *description) operation(r *http.Request) (*openapi3filter.RequestValidationInput, error) {
	r = described(r)
	route, parameters, err := d.router.FindRoute(r)
	return &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: route, Options: &openapi3filter.Options{
		ExcludeRequestBody: true, SkipSettingDefaults: true, AuthenticationFunc: carries,
	}}, err
}

// described is the request in the words of the document, which cannot have the method
// LIST, and has HEAD in words alone.
func described(r *http.Request) *http.Request {
	r = r.Clone(context.Background())
	r.Body = http.NoBody
	switch {
	case r.Method == http.MethodHead:
		r.Method = http.MethodGet
	case r.Method == "LIST" && r.URL.Path == transitKeys:
		r.Method = http.MethodGet
		r.URL.RawQuery = "list=true"
	}
	return r
}

// carries is whether a request has the credentials of a scheme, right or wrong. The
// session of the console stands for all of them.
func carries(_ context.Context, in *openapi3filter.AuthenticationInput) error {
	r, scheme := in.RequestValidationInput.Request, in.SecurityScheme
	present := r.Header.Get("X-Attestcsr-Console") != ""
	switch {
	case scheme.Type == "http":
		kind, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		present = present || strings.EqualFold(kind, scheme.Scheme)
	case scheme.In == "header":
		present = present || r.Header.Get(scheme.Name) != ""
	default:
		present = present || len(r.CookiesNamed(scheme.Name)) > 0
	}
	if !present {
		return errors.New(in.SecuritySchemeName + " is not there")
	}
	return nil
}

// familyOf is what the names of the errors begin with that a path has.
func familyOf(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case first == "v1":
		return "Vault"
	case first == "rest":
		return "Legacy"
	case first == "policy", first == "global-manager", path == "/api/v1", strings.HasPrefix(path, "/api/v1/"), path == loginPath, path == logoutPath:
		return "Nsx"
	}
	return "Esx"
}

// judgeError checks an error whose operation is not known: paths and methods that do not
// exist have none.
func (d *description) judgeError(family string, e exchange) (err error) {
	status := strconv.Itoa(e.answer.status)
	names := map[string][]string{
		"400": {"BadRequest"}, "401": {"Unauthenticated"}, "403": {"Forbidden"}, "404": {"NoPath", "NotFound", "NoCsr"}, "405": {"NoMethod"}, "409": {"Conflict"},
		"412": {"Stale"}, "413": {"TooLarge"}, "429": {"TooMany"}, "500": {"Internal"}, "503": {"Unavailable"},
	}[status]
	for _, name := range names {
		if ref := d.Components.Responses[family+name]; ref != nil {
			return d.judgeAnswer(pointer("#/components/responses", family+name), ref.Value, e)
		}
	}
	return errors.New("it has no such status")
}

// judgeAnswer checks headers and body of an answer.
func (d *description) judgeAnswer(place string, response *openapi3.Response, e exchange) error {
	for name, h := range response.Headers {
		value := e.answer.header.Get(name)
		if value == "" && h.Value.Required {
			return fmt.Errorf("without %s", name)
		}
		if value != "" && !d.hasHeader(h, value) {
			return fmt.Errorf("%s is %q", name, value)
		}
	}
	a := e.answer
	if e.request.Method == http.MethodHead {
		return nil
	}
	if len(response.Content) == 0 {
		if len(a.body) > 0 {
			return fmt.Errorf("a body where there is none: %.100s", a.body)
		}
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || response.Content[mediaType] == nil {
		return fmt.Errorf("media type %q", a.header.Get("Content-Type"))
	}
	var value any = string(a.body)
	if strings.HasSuffix(mediaType, "json") {
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(a.body)); err != nil {
			return err
		}
	}
	return d.schemas[pointer(place, "content", mediaType)].Validate(value)
}

// hasHeader checks the value of a header, which is a text or a number.
func (d *description) hasHeader(h *openapi3.HeaderRef, text string) bool {
	schema := h.Value.Schema.Value
	if schema.Type.Is("integer") {
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && (schema.Min == nil || float64(n) >= *schema.Min)
	}
	return d.patterns[schema.Pattern].MatchString(text)
}

// judgeBody checks the body of a request. WIRE.md says where bodies are ignored, and where
// the Content-Type is.
func (d *description) judgeBody(in *openapi3filter.RequestValidationInput, body []byte) error {
	route, ref := in.Route, in.Route.Operation.RequestBody
	action := in.Request.URL.Query().Get("action")
	if ref == nil || action == "self_sign" && strings.HasSuffix(route.Path, "{id}") {
		return nil
	}
	given := in.Request.Header.Get("Content-Type")
	mediaType, parameters, err := mime.ParseMediaType(given)
	checked := strings.HasPrefix(route.Path, "/api/") || action == "upload"
	if !checked {
		mediaType, err = asJSON, nil
	}
	if err != nil || ref.Value.Content[mediaType] == nil {
		return fmt.Errorf("media type %q", given)
	}
	value, err := decodeBody(mediaType, parameters["boundary"], body)
	if err != nil {
		return err
	}
	place := pointer("#/paths", route.Path, strings.ToLower(route.Method)) + "/requestBody"
	return d.schemas[pointer(placeOf(ref.Ref, place), "content", mediaType)].Validate(value)
}

// decodeBody makes what a schema sees of a body.
func decodeBody(mediaType, boundary string, body []byte) (any, error) {
	switch mediaType {
	case formType:
		form, err := url.ParseQuery(string(body))
		fields := map[string]any{}
		for name := range form {
			fields[name] = form.Get(name)
		}
		return fields, err
	case "multipart/form-data":
		fields := map[string]any{}
		for parts := multipart.NewReader(bytes.NewReader(body), boundary); ; {
			part, err := parts.NextRawPart()
			if errors.Is(err, io.EOF) {
				return fields, nil
			}
			if err != nil {
				return nil, err
			}
			text, err := io.ReadAll(part)
			if err != nil {
				return nil, err
			}
			fields[part.FormName()] = string(text)
		}
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(body))
}

// witness holds every exchange of a test against the document: what the service accepts is
// as described, and so is every answer.
type witness struct {
	*description
	seen     atomic.Int64
	mu       sync.Mutex
	problems []string
}

func newWitness(t testing.TB) *witness {
	t.Helper()
	w := &witness{description: theDescription(t)}
	t.Cleanup(func() { w.report(t) })
	return w
}

// report fails the test for what was seen since the last report.
func (w *witness) report(t testing.TB) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, problem := range w.problems {
		t.Error(problem)
	}
	w.problems = nil
}

// isDescribed reports whether the document is to have a path: the console is for our own
// pages.
func isDescribed(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return !slices.Contains([]string{"", "console", "apiexplorer", "assets", "openapi.json", "openapi.yaml", "*"}, first)
}

func (w *witness) see(e exchange) {
	if !isDescribed(e.request.URL.Path) {
		return
	}
	w.seen.Add(1)
	var problem string
	if status := e.answer.status; status >= 200 && status < 400 {
		if err := w.refuses(e); err != nil {
			problem = fmt.Sprintf("accepted, and the document refuses it: %v", err)
		}
	}
	if err := w.deniesAnswer(e); err != nil {
		problem += fmt.Sprintf("the document has no such answer: %v", err)
	}
	if problem == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 10 {
		return
	}
	w.problems = append(w.problems, fmt.Sprintf("%s %s %.300q → %d %.300q: %s", e.request.Method, e.request.URL, e.body, e.answer.status, e.answer.body, problem))
}

// recorder is the transport of a client whose exchanges are witnessed.
type recorder struct {
	*http.Transport
	*witness
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent kit.Buffer
	if req.Body != nil && req.GetBody == nil { // read as it is sent, perhaps longer than until the answer
		recorded := req.Clone(req.Context())
		recorded.Body = readCloser{io.TeeReader(req.Body, &sent), req.Body}
		req = recorded
	} else if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		if _, err := io.Copy(&sent, body); err != nil {
			return nil, err
		}
	}
	resp, err := r.Transport.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	resp.Body = readCloser{bytes.NewReader(body), resp.Body}
	r.see(exchange{req, []byte(sent.String()), answer{resp.StatusCode, resp.Header, body}})
	return resp, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

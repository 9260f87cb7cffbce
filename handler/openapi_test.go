package handler_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"

	"attestcsr/handler"
	"attestcsr/handler/console/openapi"
	"attestcsr/test/kit"
)

// The document has every route of the service, apart from those of the console, and no
// other.
func TestDescribedRoutes(t *testing.T) {
	t.Parallel()
	d := theDescription(t)
	var routes, written []string
	api, _ := newStack(t).handler.Routes()
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, route := range api {
		method, path, _ := strings.Cut(route, " ")
		inWords := method == http.MethodHead || method == http.MethodOptions || method == "LIST"
		if isDescribed(path) && !inWords && method != handler.NotFoundMethod {
			routes = append(routes, method+" "+parameter.ReplaceAllString(path, "{$1}"))
		}
	}
	for path, item := range d.Paths.Map() {
		for method := range item.Operations() {
			written = append(written, method+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(written)
	if !slices.Equal(routes, written) {
		t.Errorf("routes\n%s\nthe document has\n%s", strings.Join(routes, "\n"), strings.Join(written, "\n"))
	}
	for _, word := range []string{"`HEAD`", "`LIST /v1/transit/keys`"} {
		if !strings.Contains(d.Info.Description, word) {
			t.Errorf("the document does not tell of %s", word)
		}
	}
}

// The document says the same in YAML and in JSON. Every operation says what it does, and
// every answer with a body has an example.
func TestDocument(t *testing.T) {
	t.Parallel()
	d := theDescription(t)
	again, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	if err != nil {
		t.Fatal(err)
	}
	if kit.JSON(again) != kit.JSON(d.T) {
		t.Error("YAML and JSON differ")
	}
	if !strings.HasPrefix(d.OpenAPI, "3.1.") {
		t.Errorf("OpenAPI %s", d.OpenAPI)
	}
	for path, item := range d.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.Summary == "" || len(operation.Tags) != 1 || d.Tags.Get(operation.Tags[0]) == nil || operation.Security == nil {
				t.Errorf("%s %s lacks a summary, a tag or who may", method, path)
			}
			if body := operation.RequestBody; body != nil {
				for mediaType, content := range body.Value.Content {
					if !hasExample(content) && mediaType != "multipart/form-data" {
						t.Errorf("%s %s has no example of a body", method, path)
					}
				}
			}
			for status, r := range operation.Responses.Map() {
				for _, content := range r.Value.Content {
					if !hasExample(content) && status != "default" && path != "/metrics" {
						t.Errorf("%s %s %s has no example", method, path, status)
					}
				}
			}
		}
	}
}

func hasExample(m *openapi3.MediaType) bool { return m.Example != nil || len(m.Examples) > 0 }

// Both documents are there for everybody.
func TestDocumentServed(t *testing.T) {
	t.Parallel()
	d, s := theDescription(t), newStack(t)
	for path, want := range map[string]want{
		"/openapi.json": {contentType: asJSON, body: string(d.text)}, "/openapi.yaml": {contentType: "application/yaml", body: string(openapi.YAML())},
	} {
		if a := s.anonymous("GET", path); a.status != http.StatusOK || a.header.Get("Content-Type") != want.contentType || string(a.body) != want.body {
			t.Errorf("%s: %d %v", path, a.status, a.header)
		}
	}
}

// example is a body that the document shows.
type example struct {
	operation *openapi3.Operation
	method    string
	path      string
	mediaType string
	name      string
	value     any
}

func (d *description) examples() []example {
	var all []example
	for path, item := range d.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.RequestBody == nil {
				continue
			}
			for mediaType, content := range operation.RequestBody.Value.Content {
				e := example{operation, method, path, mediaType, "", content.Example}
				if content.Example != nil {
					all = append(all, e)
				}
				for name, shown := range content.Examples {
					e.name, e.value = name, shown.Value.Value
					all = append(all, e)
				}
			}
		}
	}
	return all
}

// TestExamples: the service accepts every request that the document shows. A certificate
// and a signature that belong to a key of another service are replaced by such of this one.
func TestExamples(t *testing.T) {
	t.Parallel()
	d, s := theDescription(t), newStack(t)
	v := s.vault("admin", adminPassword)
	all := d.examples()
	for _, e := range all {
		path := strings.NewReplacer("{id}", "site-1%2F"+url.PathEscape(e.name), "{name}", "attestation", "{hash}", "sha2-256", "{user}", "admin").Replace(e.path)
		c := call{method: e.method, path: path, raw: true, header: map[string]string{"Content-Type": e.mediaType}}
		members, _ := e.value.(map[string]any)
		members = maps.Clone(members)
		switch id := e.operation.OperationID; {
		case id == "setCertificate":
			members["certificate"] = chainFor(t, s.createCSR(validSpec), 0)
		case id == "postNsxCsrs":
			c.path += "?action=self_sign"
		case id == "postNsxCsr":
			action, _, _ := strings.Cut(e.name, " ")
			c.path += "?action=" + action
			if action != "create" {
				made := s.do(call{method: "POST", path: path + "?action=create", body: quickSpec})
				if action == "import" {
					members["pem_encoded"] = chainFor(t, *decode[nsxCSR](t, made).PEMEncoded, 0)
				}
			}
		case strings.HasPrefix(id, "verify"):
			members["signature"] = data[signed](t, v, "POST", transitSign+"attestation", kit.JSON(map[string]any{"input": members["input"]})).Signature
		}
		c.body = kit.JSON(members)
		if e.mediaType == formType {
			form := url.Values{}
			for name, value := range members {
				form.Set(name, fmt.Sprint(value))
			}
			c.body = form.Encode()
		}
		if strings.HasPrefix(path, "/v1/") {
			c.anonymous, c.lines = true, tokenHeader(v.token)
		}
		if a := s.do(c); a.status >= 300 {
			t.Errorf("%s, example %q: %d %s", e.operation.OperationID, e.name, a.status, a.body)
		}
	}
	kit.Count(t, "examples sent", len(all))
}

// TestWitness: what is not as the document says is found, by our use of it and by
// kin-openapi's own.
func TestWitness(t *testing.T) {
	t.Parallel()
	d, s := theDescription(t), newStack(t)
	good := func(method, path, body string) exchange {
		c := call{method: method, path: path, body: body}
		r, err := c.request(s.url)
		if err != nil {
			t.Fatal(err)
		}
		return exchange{r, []byte(body), s.do(c)}
	}
	created := good("POST", csrPath, validSpec)
	missing := good("GET", nsxPath("none"), "")
	for _, e := range []exchange{created, missing} {
		if d.refuses(e) != nil || d.deniesAnswer(e) != nil || kinDenies(t, d, e) {
			t.Fatalf("%s: %v %v", e.request.URL, d.refuses(e), d.deniesAnswer(e))
		}
	}
	for name, change := range map[string]func(e *exchange){
		"another status":   func(e *exchange) { e.answer.status = http.StatusTeapot },
		"no request id":    func(e *exchange) { e.answer.header = http.Header{"Content-Type": {asJSON}} },
		"a bad request id": func(e *exchange) { e.answer.header = http.Header{"Content-Type": {asJSON}, "X-Request-Id": {"x"}} },
		"another media type": func(e *exchange) {
			e.answer.header = http.Header{"Content-Type": {"text/html"}, "X-Request-Id": {strings.Repeat("0", 32)}}
		},
		"no body":              func(e *exchange) { e.answer.body = nil },
		"another document":     func(e *exchange) { e.answer.body = []byte(`{"error_type":"NOT_FOUND"}`) },
		"a member of a number": func(e *exchange) { e.answer.body = []byte(`{"csr":7}`) },
	} {
		e := created
		change(&e)
		if d.deniesAnswer(e) == nil || !kinDenies(t, d, e) {
			t.Errorf("%s is not found", name)
		}
	}
	more := missing
	more.answer.body = []byte(strings.Replace(string(missing.answer.body), "{", `{"more":1,`, 1))
	if d.deniesAnswer(more) == nil {
		t.Error("a member that the document does not have is not found")
	}
	for name, c := range map[string]call{
		"a member is missing":    {method: "POST", path: csrPath, body: strings.Replace(validSpec, `"country":"us",`, "", 1)},
		"an unknown member":      {method: "POST", path: csrPath, body: strings.Replace(validSpec, "{", `{"keysize":4096,`, 1)},
		"no credentials":         {method: "POST", path: csrPath, body: validSpec, anonymous: true},
		"another media type":     {method: "POST", path: csrPath, body: validSpec, header: map[string]string{"Content-Type": "text/json"}},
		"an unknown action":      {method: "POST", path: nsxPath("a", "action=steal"), body: quickSpec},
		"a page that is too big": {method: "GET", path: nsxCSRs + "?page_size=1001"},
		"a path without an id":   {method: "GET", path: nsxCSRs + "/"},
	} {
		r, err := c.request(s.url)
		if err != nil {
			t.Fatal(err)
		}
		a := s.do(c)
		if err := d.refuses(exchange{r, []byte(c.body), a}); err == nil || a.status < 400 {
			t.Errorf("%s: %d, the document says %v", name, a.status, err)
		}
	}
}

// kinDenies is what kin-openapi says of an answer, with its own way to check bodies.
func kinDenies(t *testing.T, d *description, e exchange) bool {
	t.Helper()
	in, err := d.operation(e.request)
	if err != nil {
		t.Fatal(err)
	}
	input := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: e.answer.status, Header: e.answer.header, Options: &openapi3filter.Options{IncludeResponseStatus: true}}
	return openapi3filter.ValidateResponse(t.Context(), input.SetBodyBytes(e.answer.body)) != nil
}

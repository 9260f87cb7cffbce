package handler_test

import (
	"bytes"
	"context"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"attestcsr/handler/console/openapi"
)

// description is the OpenAPI document, ready to hold exchanges against it. Kin-openapi
// reads it, finds the operation of a request, and checks parameters, credentials and
// headers. It would compile the schema of a body for each body, so that the bodies are
// checked by the library below it, with schemas that are compiled once.
type description struct {
	*openapi3.T
	text     []byte // in JSON
	router   routers.Router
	schemas  map[string]*jsonschema.Schema // of bodies, by the place of their media type in the document
	patterns map[string]*regexp.Regexp     // of headers
}

var describe = sync.OnceValues(func() (*description, error) {
	text, err := openapi.JSON()
	if err != nil {
		return nil, err
	}
	d := &description{text: text, schemas: map[string]*jsonschema.Schema{}, patterns: map[string]*regexp.Regexp{}}
	if d.T, err = openapi3.NewLoader().LoadFromData(text); err != nil {
		return nil, err
	}
	if err := d.Validate(context.Background()); err != nil {
		return nil, err
	}
	if d.router, err = gorillamux.NewRouter(d.T); err != nil {
		return nil, err
	}
	return d, d.compile()
})

func theDescription(t testing.TB) *description {
	t.Helper()
	d, err := describe()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// compile makes the schemas of all bodies. Those of answers take no member that the
// document does not have, though clients must: a new member is to be written down.
func (d *description) compile() error {
	compiler := jsonschema.NewCompiler()
	for name, closed := range map[string]bool{"requests.json": false, "answers.json": true} {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(d.text))
		if err != nil {
			return err
		}
		if closed {
			closeSchemas(document)
		}
		if err := compiler.AddResource(name, document); err != nil {
			return err
		}
	}
	add := func(resource, place string, content openapi3.Content) (err error) {
		for mediaType := range content {
			at := pointer(place, "content", mediaType)
			if d.schemas[at], err = compiler.Compile(resource + at + "/schema"); err != nil {
				return err
			}
		}
		return nil
	}
	for path, item := range d.Paths.Map() {
		for method, operation := range item.Operations() {
			place := pointer("#/paths", path, strings.ToLower(method))
			if operation.RequestBody != nil {
				if err := add("requests.json", placeOf(operation.RequestBody.Ref, place+"/requestBody"), operation.RequestBody.Value.Content); err != nil {
					return err
				}
			}
			for status, r := range operation.Responses.Map() {
				if err := add("answers.json", placeOf(r.Ref, pointer(place, "responses", status)), r.Value.Content); err != nil {
					return err
				}
			}
		}
	}
	for _, h := range d.Components.Headers { // no answer has one of its own
		d.patterns[h.Value.Schema.Value.Pattern] = regexp.MustCompile(h.Value.Schema.Value.Pattern)
	}
	for name, r := range d.Components.Responses {
		if err := add("answers.json", pointer("#/components/responses", name), r.Value.Content); err != nil {
			return err
		}
	}
	return nil
}

// pointer is a JSON pointer (RFC 6901) as a fragment of a URL.
func pointer(base string, names ...string) string {
	for _, name := range names {
		base += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return base
}

func placeOf(ref, inline string) string {
	if ref != "" {
		return ref
	}
	return inline
}

// closeSchemas refuses other members than those that a schema has. The parts of an allOf
// do not see each other's, so that the whole is closed in their place.
func closeSchemas(document any) {
	const isPart = "x-part"
	schemas := document.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	eachObject(document, func(schema map[string]any) {
		parts, _ := schema["allOf"].([]any)
		for _, part := range parts {
			part := part.(map[string]any)
			if ref, is := part["$ref"].(string); is {
				part = schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any)
			}
			part[isPart] = true
		}
	})
	eachObject(document, func(schema map[string]any) {
		_, open := schema["additionalProperties"]
		_, members := schema["properties"].(map[string]any)
		switch {
		case schema[isPart] != nil:
		case schema["allOf"] != nil:
			schema["unevaluatedProperties"] = false
		case members && !open:
			schema["additionalProperties"] = false
		}
	})
}

// eachObject calls do for every object in node.
func eachObject(node any, do func(map[string]any)) {
	switch node := node.(type) {
	case map[string]any:
		do(node)
		for _, v := range node {
			eachObject(v, do)
		}
	case []any:
		for _, v := range node {
			eachObject(v, do)
		}
	}
}

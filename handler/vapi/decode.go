package vapi

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/go-playground/validator/v10"
	"github.com/labstack/echo/v4"
)

// decoder reads request bodies. It refuses whatever it does not fully
// understand: a misspelt key_size must not make a weaker key in silence.
type decoder struct{ validate *validator.Validate }

func newDecoder() *decoder {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(func(f reflect.StructField) string { return f.Tag.Get("json") })
	return &decoder{v}
}

// decode reads the JSON object of the request's body into the struct into. The
// body's size is bounded by whoever made the request's Body.
func (d *decoder) decode(c echo.Context, into any) error {
	if err := checkQuery(c); err != nil {
		return err
	}
	r := c.Request()
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType)); err != nil || mediaType != echo.MIMEApplicationJSON {
		return &badRequest{errorType: "INVALID_REQUEST", messages: []message{{
			ID:      "vapi.protocol.server.rest.unsupported_media_type",
			Default: "Unsupported media type: the Content-Type must be application/json.",
			Args:    []string{shorten(r.Header.Get(echo.HeaderContentType))},
		}}}
	}
	// Nothing is inflated: a body is as long as what was sent.
	if coding := r.Header.Get(echo.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return &badRequest{errorType: "INVALID_REQUEST", messages: []message{{
			ID:      "vapi.protocol.server.rest.unsupported_media_type",
			Default: "Unsupported media type: a Content-Encoding is not supported; send the body without one.",
			Args:    []string{shorten(coding)},
		}}}
	}
	body, err := io.ReadAll(r.Body)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return err
	}
	if err != nil {
		return malformed("the body ended early")
	}
	if value := jsontext.Value(body); value.Kind() != '{' {
		return malformed("the body is not a JSON object")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return explain(err)
	}
	return d.checkRequired(into)
}

func (d *decoder) checkRequired(body any) error {
	err := d.validate.Struct(body)
	if err == nil {
		return nil
	}
	var missing validator.ValidationErrors
	if !errors.As(err, &missing) {
		return err
	}
	bad := &badRequest{errorType: invalidArgument}
	for _, field := range missing {
		bad.messages = append(bad.messages, message{
			ID:      "vapi.bindings.typeconverter.struct.field.missing",
			Default: fmt.Sprintf("Required field %q is missing.", field.Field()),
			Args:    []string{field.Field()},
		})
	}
	return bad
}

// explain turns the JSON library's error into one that names the field.
func explain(err error) error {
	var (
		syntactic *jsontext.SyntacticError
		semantic  *json.SemanticError
	)
	switch {
	case errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName):
		name := fieldOf(syntactic.JSONPointer)
		return &badRequest{errorType: invalidArgument, messages: []message{{
			ID:      "attestcsr.json.duplicate_field",
			Default: fmt.Sprintf("Field %q occurs more than once.", name),
			Args:    []string{name},
			quotes:  true,
		}}}
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		name := fieldOf(semantic.JSONPointer)
		return &badRequest{errorType: invalidArgument, messages: []message{{
			ID:      "attestcsr.json.unknown_field",
			Default: fmt.Sprintf("Unknown field %q. Names are case-sensitive.", name),
			Args:    []string{name},
			quotes:  true,
		}}}
	case errors.As(err, &semantic):
		name, expected := fieldOf(semantic.JSONPointer), expectedType(semantic.GoType)
		return &badRequest{errorType: invalidArgument, messages: []message{{
			ID:      "vapi.protocol.server.rest.param.body.unexpected",
			Default: fmt.Sprintf("Field %q must be %s.", name, expected),
			Args:    []string{name, expected},
		}}}
	case errors.As(err, &syntactic):
		return malformed("malformed at byte " + strconv.FormatInt(syntactic.ByteOffset, 10))
	}
	return malformed("it cannot be parsed")
}

func malformed(what string) error {
	return &badRequest{errorType: invalidArgument, messages: []message{{
		ID:      "vapi.protocol.server.rest.invalid_json_content",
		Default: "Invalid JSON content: " + what + ".",
		Args:    []string{what},
	}}}
}

// fieldOf writes a JSON pointer (RFC 6901) as name[index].
func fieldOf(p jsontext.Pointer) string {
	var name strings.Builder
	for token := range p.Tokens() {
		if name.Len() == 0 {
			name.WriteString(token)
		} else {
			name.WriteString("[" + token + "]")
		}
	}
	return shorten(name.String())
}

func expectedType(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return expectedType(t.Elem())
	case reflect.Int64:
		return "an integer of 64 bits"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list of strings"
	}
	return "of another type"
}

// checkQuery refuses query parameters: no operation of this dialect has any.
func checkQuery(c echo.Context) error {
	raw := c.Request().URL.RawQuery
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		query = url.Values{raw: nil}
	}
	if len(query) == 0 { // "?&" names nothing
		return nil
	}
	name := shorten(slices.Min(slices.Collect(maps.Keys(query))))
	return &badRequest{errorType: invalidArgument, messages: []message{{
		ID:      "vapi.protocol.server.rest.unsupported_property",
		Default: "Unsupported property with name: " + name + ".",
		Args:    []string{name},
		quotes:  true,
	}}}
}

// shorten cuts a client's own words before they are sent back, to 64 characters
// that are printable.
func shorten(s string) string {
	printable := []rune(strings.ToValidUTF8(s, "."))
	if len(printable) > 64 {
		printable = append(printable[:64], '…')
	}
	for i, r := range printable {
		if !strconv.IsPrint(r) {
			printable[i] = '.'
		}
	}
	return string(printable)
}

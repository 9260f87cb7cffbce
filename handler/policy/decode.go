package policy

import (
	"errors"
	"io"
	"net/http"
	"reflect"
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
	v.RegisterTagNameFunc(memberTag)
	return &decoder{v}
}

// memberTag is the JSON name of a struct's field, or "".
func memberTag(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// decode reads the JSON object of the request's body into the struct into,
// whatever its Content-Type. The body's size is bounded by whoever made the
// request's Body.
func (d *decoder) decode(c echo.Context, into any) error {
	body, err := readBody(c.Request())
	if err != nil {
		return err
	}
	if jsontext.Value(body).Kind() != '{' {
		return malformed("it is not a JSON object")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return explain(err)
	}
	return d.checkShape(into)
}

// readBody returns the whole body, or the *http.MaxBytesError of one too long.
// Nothing is inflated: a body is as long as what was sent.
func readBody(r *http.Request) ([]byte, error) {
	if coding := r.Header.Get(echo.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, invalid("the Content-Encoding " + quote(coding) + " is not supported; send the body without one")
	}
	body, err := io.ReadAll(r.Body)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return nil, err
	}
	if err != nil {
		return nil, malformed("the body ended early")
	}
	return body, nil
}

// checkShape checks what must be there and how often; what values may say is
// the core's.
func (d *decoder) checkShape(body any) error {
	err := d.validate.Struct(body)
	var broken validator.ValidationErrors
	if !errors.As(err, &broken) {
		return err
	}
	problems := make([]string, len(broken))
	for i, field := range broken {
		problems[i] = shapeProblem(field)
	}
	return invalid(problems...)
}

func shapeProblem(field validator.FieldError) string {
	_, name, _ := strings.Cut(field.Namespace(), ".")
	name = strings.TrimPrefix(name, "csrBody.") // embedded: its members are those of the body
	switch field.Tag() {
	case "required":
		return name + " is required"
	case "min":
		return name + " must have at least " + field.Param() + " entry"
	case "max":
		return name + " must have at most " + field.Param() + " entries"
	case "oneof":
		return name + " must be one of " + strings.ReplaceAll(field.Param(), " ", ", ")
	}
	return name + " is invalid"
}

// explain turns the JSON library's error into one that names the member.
func explain(err error) error {
	var (
		syntactic *jsontext.SyntacticError
		semantic  *json.SemanticError
	)
	switch {
	case errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName):
		return refused(problem{"", memberName(syntactic.JSONPointer), " occurs more than once"})
	case errors.As(err, &syntactic):
		return malformed("malformed at byte " + strconv.FormatInt(syntactic.ByteOffset, 10))
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return refused(problem{"", memberName(semantic.JSONPointer), " is not a member; names are case-sensitive"})
	case errors.As(err, &semantic):
		return invalid(memberName(semantic.JSONPointer) + " must be " + expectedType(semantic.GoType))
	}
	return malformed("it cannot be parsed")
}

// memberName writes a JSON pointer (RFC 6901) as subject.attributes[0].key, and a
// member that has no name as "".
func memberName(p jsontext.Pointer) string {
	var name strings.Builder
	for token := range p.Tokens() {
		_, isIndex := parseDecimal(token)
		switch {
		case name.Len() == 0:
			name.WriteString(token)
		case isIndex:
			name.WriteString("[" + token + "]")
		default:
			name.WriteString("." + token)
		}
	}
	if name.Len() == 0 {
		return `""`
	}
	return shorten(name.String(), 64)
}

func expectedType(t reflect.Type) string {
	if t == nil {
		return "of another type"
	}
	if t == reflect.TypeFor[keySize]() {
		return "an integer, as a number or as a string"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return expectedType(t.Elem())
	case reflect.Int64:
		return "an integer of 64 bits"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct:
		return "an object"
	}
	return "of another type"
}

// keySize is a number that clients write as one or as a string: the vendor's
// own example has "2048".
type keySize int64

// UnmarshalJSON implements json.Unmarshaler.
func (k *keySize) UnmarshalJSON(b []byte) error {
	text := string(b)
	if jsontext.Value(b).Kind() == '"' {
		var err error
		if text, err = unquote(b); err != nil {
			return err
		}
	}
	n, ok := parseDecimal(text)
	if !ok {
		return errors.New("not a decimal integer of 64 bits")
	}
	*k = keySize(n)
	return nil
}

func unquote(b []byte) (string, error) {
	text, err := jsontext.AppendUnquote(nil, b)
	return string(text), err
}

// memberNames lists the JSON names of a struct, those of embedded ones included.
func memberNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if name := memberTag(f); name != "" {
			names = append(names, name)
		}
	}
	return names
}

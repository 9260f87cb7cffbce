package policy

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/strict"
)

// decode reads the JSON object of the request's body, whatever its Content-Type.
// The body's size is bounded by whoever made the request's Body.
func decode[T any](r *http.Request, in *strict.Decoder[T]) (body T, err error) {
	text, err := readBody(r)
	if err != nil {
		return body, err
	}
	body, problems := in.Decode(text)
	if problems != nil {
		return body, explain(problems)
	}
	return body, nil
}

// readBody returns the body, or an *http.MaxBytesError. It decompresses nothing, so
// that the limit holds for the bytes that were sent.
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

// explain makes the error of a body. Its code says whether the body is JSON at all.
func explain(found strict.Problems) error {
	bad := &badRequest{code: codeValidation}
	for _, p := range found {
		if p.OfEncoding() {
			bad.code = codeJSON
		}
		bad.problems = append(bad.problems, describeProblem(p))
	}
	return bad
}

func describeProblem(p strict.Problem) problem {
	name := strict.Printable(p.Name, 64)
	if name == "" {
		name = `""`
	}
	switch p.Kind {
	case strict.NotUTF8, strict.LoneSurrogate:
		return problem{"", name, " " + p.Encoding()}
	case strict.Duplicate:
		return problem{"", name, " occurs more than once"}
	case strict.Unknown:
		return problem{"", name, " is not a member; names are case-sensitive"}
	case strict.WrongType:
		sentence := name + " must be " + p.Expected + ", not " + p.Found
		if p.Hint != "" {
			sentence += ": " + p.Hint
		}
		return problem{before: sentence}
	case strict.Missing:
		return problem{before: name + " is required"}
	case strict.Broken:
		return problem{before: name + " " + describeRule(p.Rule, p.Limit)}
	}
	return problem{before: p.Encoding()}
}

// describeRule says what a tag of the validator asks for.
func describeRule(rule, limit string) string {
	switch rule {
	case "min":
		return "must have at least " + limit + " entry"
	case "max":
		return "must have at most " + limit + " entries"
	case "isdefault":
		return "must not be sent: keys are made here and not taken"
	case "oneof":
		return "must be one of " + strings.ReplaceAll(limit, " ", ", ")
	}
	return "is invalid"
}

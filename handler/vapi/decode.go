package vapi

import (
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/strict"
)

// Decode reads the request's body, which is a JSON object. Package handler has
// bounded its size.
func Decode[T any](c echo.Context, in *strict.Decoder[T]) (body T, err error) {
	if err := checkQuery(c); err != nil {
		return body, err
	}
	r := c.Request()
	if err := checkMedia(r.Header.Get(echo.HeaderContentType)); err != nil {
		return body, err
	}
	// We decompress nothing, so that the limit holds for the bytes that were sent.
	if coding := r.Header.Get(echo.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return body, unsupportedMedia("a Content-Encoding is not supported; send the body without one", coding)
	}
	text, err := io.ReadAll(r.Body)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return body, err
	}
	if err != nil {
		return body, &badRequest{invalidArgument, []Message{malformed("the body ended early")}}
	}
	body, problems := in.Decode(text)
	if problems != nil {
		return body, explain(problems)
	}
	return body, nil
}

// checkMedia refuses what is not JSON in UTF-8. US-ASCII is a part of UTF-8.
func checkMedia(given string) error {
	mediaType, parameters, err := mime.ParseMediaType(given)
	if err != nil || mediaType != echo.MIMEApplicationJSON {
		return unsupportedMedia("the Content-Type must be application/json", given)
	}
	charset, has := parameters["charset"]
	if has && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		bad := unsupportedMedia("the charset "+strconv.Quote(shorten(charset))+" is not supported; send UTF-8, as charset=utf-8 or without a charset", given)
		bad.messages[0].quotes = true
		return bad
	}
	return nil
}

func unsupportedMedia(what, given string) *badRequest {
	return &badRequest{errorType: "INVALID_REQUEST", messages: []Message{{
		ID:      "vapi.protocol.server.rest.unsupported_media_type",
		Default: "Unsupported media type: " + what + ".",
		Args:    []string{shorten(given)},
	}}}
}

// explain makes the error of a body.
func explain(problems strict.Problems) error {
	bad := &badRequest{errorType: invalidArgument}
	for _, p := range problems {
		bad.messages = append(bad.messages, describeProblem(p))
	}
	return bad
}

func describeProblem(p strict.Problem) Message {
	name := shorten(p.Name)
	switch p.Kind {
	case strict.NotUTF8, strict.LoneSurrogate:
		return quoting(invalidJSON, "Invalid JSON content: %q "+p.Encoding()+".", name)
	case strict.Duplicate:
		return quoting("attestcsr.json.duplicate_field", "Field %q occurs more than once.", name)
	case strict.Unknown:
		return quoting("attestcsr.json.unknown_field", "Unknown field %q. Names are case-sensitive.", name)
	case strict.WrongType:
		return wrongType(name, p)
	case strict.Missing:
		return newMessage("vapi.bindings.typeconverter.struct.field.missing", "Required field %q is missing.", name)
	}
	return malformed(p.Encoding())
}

func wrongType(name string, p strict.Problem) Message {
	const id = "vapi.protocol.server.rest.param.body.unexpected"
	expected := p.Expected
	if expected == strict.List {
		expected = "a list of strings"
	}
	if p.Hint != "" {
		return newMessage(id, "Field %q must be %s, not %s: %s.", name, expected, p.Found, p.Hint)
	}
	return newMessage(id, "Field %q must be %s, not %s.", name, expected, p.Found)
}

const invalidJSON = "vapi.protocol.server.rest.invalid_json_content"

func malformed(what string) Message {
	return newMessage(invalidJSON, "Invalid JSON content: %s.", what)
}

// checkQuery refuses query parameters, which no operation of this dialect has.
func checkQuery(c echo.Context) error {
	raw := c.Request().URL.RawQuery
	query, err := url.ParseQuery(raw)
	if err != nil {
		query = url.Values{raw: nil}
	}
	if len(query) == 0 { // "?&" has no parameter
		return nil
	}
	name := shorten(slices.Min(slices.Collect(maps.Keys(query))))
	return &badRequest{invalidArgument, []Message{
		quoting("vapi.protocol.server.rest.unsupported_property", "Unsupported property with name: %s.", name),
	}}
}

// shorten makes text of a client fit for an answer.
func shorten(s string) string { return strict.Printable(s, 64) }

package console

import (
	"maps"
	"net/url"
	"slices"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/strict"
	"attestcsr/handler/vapi"
)

// maxParameter is how many characters a parameter may have; a cursor has more.
const (
	maxParameter = 255
	maxCursor    = 4096
)

// readQuery returns the query parameters of a request, which are some of those with the
// names, each at most once.
func readQuery(c echo.Context, names []string) (map[string]string, error) {
	values, err := url.ParseQuery(c.Request().URL.RawQuery)
	if err != nil {
		return nil, vapi.BadRequest("attestcsr.console.query", "The query parameters must be name=value, percent-encoded, with & between them.", "")
	}
	parameters := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		limit := maxParameter
		if name == "cursor" {
			limit = maxCursor
		}
		switch value := values.Get(name); {
		case !slices.Contains(names, name):
			return nil, vapi.BadRequest("vapi.protocol.server.rest.unsupported_property", "There is a query parameter that this path does not have.", strict.Printable(name, 64))
		case len(values[name]) > 1:
			return nil, vapi.BadRequest("attestcsr.console.query", "A query parameter is given twice.", name)
		case utf8.RuneCountInString(value) > limit || !utf8.ValidString(value):
			return nil, vapi.BadRequest("attestcsr.console.query", "A query parameter is too long, or is not UTF-8.", name)
		default:
			parameters[name] = value
		}
	}
	return parameters, nil
}

// limitOf reads the parameter "limit".
func limitOf(parameters map[string]string, absent, most int) (int, error) {
	text, given := parameters["limit"]
	if !given {
		return absent, nil
	}
	n, ok := strict.ParseInteger(text)
	if !ok || n < 1 || n > int64(most) {
		return 0, vapi.BadRequest("attestcsr.console.limit", "The parameter limit must be a number from 1 to the most that this path gives.", "limit")
	}
	return int(n), nil
}

// errCursor is for a cursor that no answer had.
func errCursor() error {
	return vapi.BadRequest("attestcsr.console.cursor", "The parameter cursor is not one that this path has given.", "cursor")
}

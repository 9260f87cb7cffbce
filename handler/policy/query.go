package policy

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"attestcsr/handler/strict"
)

// query reads the query parameters of a request and collects what is wrong with
// them. It ignores unknown parameters, as NSX does. An empty one counts as absent.
type query struct {
	values   url.Values
	problems []problem
}

func readQuery(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.refuse(problem{before: "the query parameters must be name=value, percent-encoded, with & between them"})
	}
	return q
}

func (q *query) refuse(p problem) { q.problems = append(q.problems, p) }

// err returns what is wrong with the parameters that were read so far.
func (q *query) err() error {
	if len(q.problems) == 0 {
		return nil
	}
	return refused(q.problems...)
}

// get returns the parameter, or "". It refuses one that is given twice, since a
// proxy could take the other one.
func (q *query) get(name string) string {
	given := q.values[name]
	if len(given) > 1 {
		q.refuse(problem{before: name + " must be given once"})
		return ""
	}
	return q.values.Get(name)
}

// integer returns the parameter as a decimal number, or nil if it is absent.
func (q *query) integer(name string) *int64 {
	text := q.get(name)
	if text == "" {
		return nil
	}
	n, ok := strict.ParseInteger(text)
	if !ok {
		q.refuse(problem{name + " ", quote(text), " must be an integer"})
		return nil
	}
	return &n
}

// boolean returns the parameter, or absent if there is none.
func (q *query) boolean(name string, absent bool) bool {
	switch text := q.get(name); text {
	case "":
		return absent
	case "true", "false":
		return text == "true"
	default:
		q.refuse(problem{name + " ", quote(text), " must be true or false"})
		return absent
	}
}

// oneOf returns the parameter, or "" if it is absent or none of these.
func (q *query) oneOf(name string, choices ...string) string {
	text := q.get(name)
	if text != "" && !slices.Contains(choices, text) {
		q.refuse(problem{name + " ", quote(text), " must be one of " + strings.Join(choices, ", ")})
		return ""
	}
	return text
}

// quote quotes text of a client.
func quote(text string) string { return strconv.Quote(strict.Printable(text, 64)) }

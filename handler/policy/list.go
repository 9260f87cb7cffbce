package policy

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

// UnreadableHeader says how many objects a page leaves out, because their records are
// damaged or were not written by this service.
const UnreadableHeader = "X-Attestcsr-Unreadable"

// maxPageSize is also the page size of a request without one.
const maxPageSize = 1000

// sortKey is a value of sort_by. Its letter is what cursors have.
type sortKey struct {
	name   string
	sort   csr.Sort
	letter byte
}

// sortKeys are all values of sort_by, the default first.
func sortKeys() []sortKey {
	return []sortKey{
		{"id", csr.SortByID, 'i'},
		{"display_name", csr.SortByDisplayName, 'n'},
		{"_create_time", csr.SortByCreated, 'c'},
		{"_last_modified_time", csr.SortByModified, 'm'},
	}
}

// listQuery is what a request for a page asks for.
type listQuery struct {
	page     csr.Page
	sortBy   string
	included []string // names of members; nil is all
}

// readListQuery reads the parameters of every list. members are those of its results.
func readListQuery(q *query, members []string) listQuery {
	key := readSortKey(q)
	l := listQuery{
		page:   csr.Page{Sort: key.sort, Descending: !q.boolean("sort_ascending", true), Limit: maxPageSize},
		sortBy: key.name,
	}
	if size := q.integer("page_size"); size != nil {
		if *size < 1 || *size > maxPageSize {
			q.refuse(problem{before: "page_size must be from 1 to " + strconv.Itoa(maxPageSize)})
		} else {
			l.page.Limit = int(*size)
		}
	}
	if text := q.get("cursor"); text != "" {
		after, err := parseCursor(text, l.page)
		if err != nil {
			q.refuse(problem{before: "cursor " + err.Error()})
		}
		l.page.After = after
	}
	if text := q.get("included_fields"); text != "" {
		l.included = readMembers(q, text, members)
	}
	return l
}

// readMembers splits a list of names of members. It returns each name once, in the
// order of members.
func readMembers(q *query, text string, members []string) []string {
	names := strings.SplitN(text, ",", len(members)+1)
	if len(names) > len(members) {
		q.refuse(problem{before: "included_fields must name a member once"})
		return nil
	}
	for _, name := range names {
		if !slices.Contains(members, name) {
			q.refuse(problem{"included_fields ", quote(name), " is not a member of the results"})
		}
	}
	return slices.DeleteFunc(slices.Clone(members), func(member string) bool { return !slices.Contains(names, member) })
}

func readSortKey(q *query) sortKey {
	keys := sortKeys()
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	return keys[max(0, slices.Index(names, q.oneOf("sort_by", names...)))]
}

const (
	cursorVersion = 1
	cursorHeader  = 3 // bytes: version, letter of the sort key, direction
	// maxCursor is enough for a position with the longest display name and id.
	maxCursor = 4096
)

// newCursor encodes the position at which a page ended, and the order of the list:
// a position is of use in that order only.
func newCursor(p csr.Page, position []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(cursorOrder(p), position...))
}

// parseCursor returns the position in a cursor of a list with the order of p. A
// client can make up any position. The list then begins there, which does no harm.
func parseCursor(text string, p csr.Page) ([]byte, error) {
	if len(text) > maxCursor {
		return nil, errors.New("is too long")
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	// The decoder ignores line breaks and unused bits of the last letter. Encoding
	// again finds them.
	if err != nil || base64.RawURLEncoding.EncodeToString(b) != text || len(b) <= cursorHeader || b[0] != cursorVersion {
		return nil, errors.New("is not one that a list has returned")
	}
	order, position := b[:cursorHeader], b[cursorHeader:]
	if !bytes.Equal(order, cursorOrder(p)) {
		return nil, errors.New("is of a list with another sort_by or sort_ascending")
	}
	return position, nil
}

func cursorOrder(p csr.Page) []byte {
	order := []byte{cursorVersion, 0, 'a'}
	for _, k := range sortKeys() {
		if k.sort == p.Sort {
			order[1] = k.letter
		}
	}
	if p.Descending {
		order[2] = 'd'
	}
	return order
}

// listResult is ListResult of NSX. Only the first page has the count, and the last
// has no cursor.
type listResult struct {
	Results       []any  `json:"results"`
	ResultCount   *int   `json:"result_count,omitempty"`
	SortBy        string `json:"sort_by"`
	SortAscending bool   `json:"sort_ascending"`
	Cursor        string `json:"cursor,omitempty"`
}

// view is what the parameters of one collection ask for.
type view[Object, Document any] struct {
	document func(Object) Document // the JSON struct of an object
	none     bool                  // no object passes the filters
}

// list answers with a page of a collection. fetch reads the objects, and newView reads the
// parameters that are the collection's own.
func list[Object, Document any](
	limit *listLimit,
	fetch func(*csr.Grant, context.Context, csr.Page) (csr.Listing[Object], error),
	newView func(*query) view[Object, Document],
) Handle {
	members := memberNames(reflect.TypeFor[Document]())
	return func(c echo.Context, grant *csr.Grant) error {
		params := readQuery(c.Request())
		view, q := newView(params), readListQuery(params, members)
		if err := params.err(); err != nil {
			return err
		}
		ctx := c.Request().Context()
		var listing csr.Listing[Object]
		body, release, err := limit.build(ctx, func() (_ []byte, err error) {
			if !view.none {
				if listing, err = fetch(grant, ctx, q.page); err != nil {
					return nil, err
				}
			}
			result := listResult{Results: make([]any, len(listing.Items)), SortBy: q.sortBy, SortAscending: !q.page.Descending}
			for i, o := range listing.Items {
				if result.Results[i], err = include(q.included, view.document(o)); err != nil {
					return nil, err
				}
			}
			if q.page.After == nil {
				result.ResultCount = &listing.Total
			}
			if listing.Next != nil {
				result.Cursor = newCursor(q.page, listing.Next)
			}
			return json.Marshal(result)
		})
		if err != nil {
			return err
		}
		defer release()
		if listing.Unreadable > 0 {
			c.Response().Header().Set(UnreadableHeader, strconv.Itoa(listing.Unreadable))
		}
		return c.JSONBlob(http.StatusOK, body)
	}
}

// include returns document with only the members of these names. Without names it
// returns all of it.
func include(names []string, document any) (any, error) {
	if names == nil {
		return document, nil
	}
	text, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := jsontext.NewEncoder(&out)
	err = encoder.WriteToken(jsontext.BeginObject)
	for _, name := range names {
		if member, present := members[name]; present {
			err = errors.Join(err, encoder.WriteToken(jsontext.String(name)), encoder.WriteValue(member))
		}
	}
	err = errors.Join(err, encoder.WriteToken(jsontext.EndObject))
	return jsontext.Value(out.Bytes()), err
}

// memberNames lists the JSON names of a struct's fields, those of embedded structs
// included.
func memberNames(t reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if name := strict.Member(f); name != "" {
			names = append(names, name)
		}
	}
	return names
}

package console

import (
	"context"
	"encoding/base64"
	"net/http"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/vapi"
)

const (
	objectRows    = 50 // of a page that does not say how many
	maxObjectRows = 100
)

// object is a row of the tables of named objects.
type object struct {
	ID           string `json:"id"`
	DisplayName  string `json:"display_name"`
	Description  string `json:"description,omitzero"`
	Tags         []tag  `json:"tags,omitzero"`
	Created      string `json:"created"`
	CreatedBy    string `json:"created_by"`
	Subject      string `json:"subject"`
	KeyAlgorithm string `json:"key_algorithm"`
	KeyBits      int    `json:"key_bits"`
	CA           bool   `json:"ca"`
	// Of a certificate.
	Issuer    string `json:"issuer,omitzero"`
	NotBefore string `json:"not_before,omitzero"`
	NotAfter  string `json:"not_after,omitzero"`
	SHA256    string `json:"sha256,omitzero"`
}

type tag struct {
	Scope string `json:"scope"`
	Tag   string `json:"tag"`
}

// objectsReply is a page of them. A page of a search may have few, or none, though the
// cursor goes on.
type objectsReply struct {
	Objects    []object `json:"objects"`
	Cursor     string   `json:"cursor,omitzero"`
	Total      int      `json:"total"` // in the collection, not of the search
	Unreadable int      `json:"unreadable,omitzero"`
}

// list answers with a page of a collection.
func list[T any](o csr.Operation, fetch func(*csr.Grant, context.Context, csr.Page) (csr.Listing[T], error), row func(T) object) Handle {
	return func(c echo.Context, _ csr.Caller, authorise Authorise) error {
		grant, err := authorise(o)
		if err != nil {
			return err
		}
		page, err := readPage(c)
		if err != nil {
			return err
		}
		found, err := fetch(grant, c.Request().Context(), page)
		if err != nil {
			return err
		}
		reply := objectsReply{Objects: make([]object, len(found.Items)), Total: found.Total, Unreadable: found.Unreadable}
		for i, item := range found.Items {
			reply.Objects[i] = row(item)
		}
		if found.Next != nil {
			reply.Cursor = base64.RawURLEncoding.EncodeToString(found.Next)
		}
		return vapi.Reply(c, http.StatusOK, reply)
	}
}

// readPage reads which part of a collection is asked for.
func readPage(c echo.Context) (csr.Page, error) {
	parameters, err := readQuery(c, []string{"prefix", "sort", "descending", "cursor", "limit"})
	if err != nil {
		return csr.Page{}, err
	}
	limit, err := limitOf(parameters, objectRows, maxObjectRows)
	if err != nil {
		return csr.Page{}, err
	}
	sorts := map[string]csr.Sort{"": csr.SortByID, "id": csr.SortByID, "display_name": csr.SortByDisplayName, "created": csr.SortByCreated, "not_after": csr.SortByNotAfter}
	sort, known := sorts[parameters["sort"]]
	if !known {
		return csr.Page{}, vapi.BadRequest("attestcsr.console.sort", "The parameter sort must be id, display_name, created or not_after.", "sort")
	}
	descending := parameters["descending"]
	if descending != "" && descending != "true" && descending != "false" {
		return csr.Page{}, vapi.BadRequest("attestcsr.console.descending", "The parameter descending must be true or false.", "descending")
	}
	after, err := base64.RawURLEncoding.DecodeString(parameters["cursor"])
	if err != nil {
		return csr.Page{}, errCursor()
	}
	return csr.Page{Sort: sort, Descending: descending == "true", After: after, Limit: limit, Prefix: parameters["prefix"]}, nil
}

func newObject(o csr.Object) object {
	row := object{ID: o.ID, DisplayName: o.DisplayName, Description: o.Description, Created: formatTime(o.Created), CreatedBy: o.CreatedBy}
	for _, t := range o.Tags {
		row.Tags = append(row.Tags, tag(t))
	}
	return row
}

// requestRow is a certification request. One that cannot be described any more keeps its
// row.
func requestRow(r csr.NamedRequest) object {
	row := newObject(r.Object)
	d, _ := pkcs10.Describe(r.PEM)
	row.Subject, row.KeyAlgorithm, row.KeyBits, row.CA = d.Subject, d.KeyAlgorithm, d.KeyBits, r.Spec.CA
	return row
}

func certificateRow(n csr.NamedCertificate) object {
	row, f := newObject(n.Object), n.Facts[0]
	row.Subject, row.KeyAlgorithm, row.KeyBits, row.CA = f.Subject, f.KeyAlgorithm, f.KeyBits, f.CA
	row.Issuer, row.NotBefore, row.NotAfter, row.SHA256 = f.Issuer, formatTime(f.NotBefore), formatTime(f.NotAfter), f.SHA256
	return row
}

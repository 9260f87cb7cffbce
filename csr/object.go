package csr

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// Bounds of what a caller may write on an object, in characters unless they say
// otherwise.
const (
	maxObjectID    = 255 // bytes
	maxDisplayName = 255
	maxDescription = 1024
	maxTags        = 30 // entries
	maxTagScope    = 128
	maxTag         = 256
)

// The fields of named objects and of pages of them, beside those of certification
// requests.
const (
	ObjectID              pkcs10.Field = "id"
	DisplayName           pkcs10.Field = "display name"
	Description           pkcs10.Field = "description"
	Tags                  pkcs10.Field = "tags"
	Collection            pkcs10.Field = "collection" // of named certification requests
	CertificateCollection pkcs10.Field = "certificate_collection"
	PageLimit             pkcs10.Field = "page limit"
	SortOrder             pkcs10.Field = "sort order"
)

// Labels is what a caller may write on an object. They may not have control and text
// direction characters, but line breaks and tabs in the description.
type Labels struct {
	DisplayName string `json:"display_name,omitzero"` // at most 255 characters; empty is the object's id
	Description string `json:"description,omitzero"`  // at most 1,024 characters
	Tags        []Tag  `json:"tags,omitempty"`        // at most 30
}

// Tag is a label that machines read. Scope has at most 128 characters, Tag at
// most 256; both may be empty.
type Tag struct {
	Scope string `json:"scope"`
	Tag   string `json:"tag"`
}

// Object is what named certification requests and named certificates have in
// common. The names of its members in JSON are part of the stored format.
type Object struct {
	ID       string `json:"-"`                  // in its collection: 1 to 255 bytes
	UniqueID string `json:"unique_id,omitzero"` // among all objects that ever were: a UUID (RFC 9562)
	Labels
	CreatedBy  string    `json:"created_by,omitzero"` // a user
	ModifiedBy string    `json:"modified_by,omitzero"`
	Created    time.Time `json:"created,omitzero"` // UTC, whole milliseconds
	Modified   time.Time `json:"modified,omitzero"`
	Revision   int64     `json:"revision,omitzero"` // counts the changes of the object, from 0
}

// collection is a collection of named objects.
type collection struct {
	name  string       // in the key store
	field pkcs10.Field // names the collection in an error
	limit int          // how many objects it may have
}

// hasRoom returns an Invalid error when the collection is full. It counts before the
// change and outside of its commit. Changes that run at the same time can all find the
// last place: n of them exceed the limit by at most n-1.
func (c collection) hasRoom(ctx context.Context, keys *keystore.Keystore) error {
	n, err := keys.Count(ctx, c.name)
	if err != nil {
		return err
	}
	if n >= c.limit {
		return pkcs10.Violations{{Field: c.field, Rule: pkcs10.Full, Limit: strconv.Itoa(c.limit)}}.Err()
	}
	return nil
}

// checkID checks the id of an object. It may have slashes, but not be "." or "..",
// which clients remove from a URL.
func checkID(id string, broken *pkcs10.Violations) {
	if id == "" || len(id) > maxObjectID || !utf8.ValidString(id) || id == "." || id == ".." ||
		strings.ContainsFunc(id, unicode.IsControl) {
		broken.Add(pkcs10.Violation{Field: ObjectID, Rule: pkcs10.NotAnID, Value: id, Limit: "1 to " + strconv.Itoa(maxObjectID)})
	}
}

// validID is checkID where the id is all there is to check.
func validID(id string) error {
	var broken pkcs10.Violations
	checkID(id, &broken)
	return broken.Err()
}

// check reports the rules that the labels break.
func (l Labels) check(broken *pkcs10.Violations) {
	checkText(DisplayName, l.DisplayName, maxDisplayName, pkcs10.IsControlOrBidi, broken)
	checkText(Description, l.Description, maxDescription, func(r rune) bool {
		return pkcs10.IsControlOrBidi(r) && r != '\n' && r != '\r' && r != '\t'
	}, broken)
	if len(l.Tags) > maxTags {
		broken.Add(pkcs10.Violation{Field: Tags, Rule: pkcs10.TooMany, Limit: strconv.Itoa(maxTags)})
		return
	}
	for _, t := range l.Tags {
		checkText(Tags, t.Scope, maxTagScope, pkcs10.IsControlOrBidi, broken)
		checkText(Tags, t.Tag, maxTag, pkcs10.IsControlOrBidi, broken)
	}
}

// checkText reports the rules that a text breaks. The violations do not quote it: it
// is long, or has characters that cannot be shown.
func checkText(f pkcs10.Field, value string, upperBound int, refused func(rune) bool, broken *pkcs10.Violations) {
	if !utf8.ValidString(value) {
		broken.Add(pkcs10.Violation{Field: f, Rule: pkcs10.InvalidUTF8})
		return
	}
	if utf8.RuneCountInString(value) > upperBound {
		broken.Add(pkcs10.Violation{Field: f, Rule: pkcs10.TooLong, Limit: strconv.Itoa(upperBound)})
	}
	if strings.ContainsFunc(value, refused) {
		broken.Add(pkcs10.Violation{Field: f, Rule: pkcs10.ControlCharacter})
	}
}

// newObject is an object of the caller's as its first commit stores it.
func (g *Grant) newObject(id, uniqueID string, l Labels) Object {
	now := g.service.now().UTC().Truncate(time.Millisecond)
	return Object{
		ID:       id,
		UniqueID: uniqueID,
		Labels: Labels{
			DisplayName: cmp.Or(l.DisplayName, id),
			Description: l.Description,
			Tags:        slices.Clone(l.Tags),
		},
		CreatedBy: g.caller.User, ModifiedBy: g.caller.User,
		Created: now, Modified: now,
	}
}

// checkRevision returns a Stale error if the caller claims another revision than the
// stored one. nil claims none.
func checkRevision(claimed *int64, stored int64) error {
	if claimed != nil && *claimed != stored {
		return &Error{Kind: Stale}
	}
	return nil
}

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
	Prefix                pkcs10.Field = "prefix"
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

const (
	// maxPage is how many items a page may have.
	maxPage = 1000
	// maxPageBytes bounds the payloads of a page. Most have 3 to 6 kB, the longest chains
	// 90 kB: a list of a thousand of those would take 100 MB of memory.
	maxPageBytes = 6 << 20
	// pageChunk is how many records are read at a time.
	pageChunk = 100
)

// Sort says what a list is sorted by. Objects that are equal in it are sorted by
// their ids.
type Sort string

// The orders of a list. Names compare byte by byte.
const (
	SortByID          Sort = "id"
	SortByDisplayName Sort = "display name"
	SortByCreated     Sort = "created"
	SortByModified    Sort = "modified"
	SortByNotAfter    Sort = "not after" // of certificates alone
)

// index is the name of the index that keeps the order in a collection; the ids need none.
func (s Sort) index(collection string) (name string, ok bool) {
	switch s {
	case SortByNotAfter:
		return indexNotAfter, collection == collectionCertificates
	case SortByID:
		return "", true
	case SortByDisplayName:
		return indexDisplayName, true
	case SortByCreated, SortByModified:
		return indexCreated, true
	}
	return "", false
}

// Page asks for a part of a list.
type Page struct {
	Sort       Sort
	Descending bool
	// After is where the previous page ended, as it was returned with that page, for
	// the same order. nil is the beginning. Any bytes are a position, also where there
	// is no object, and it does not move when objects come and go.
	After []byte
	// Limit is how many items, 1 to 1,000. A page of long items has fewer.
	Limit int
	// Prefix, where it is not empty, leaves the objects whose ids begin with it, sorted by
	// id, and after them those of which only the display names do, sorted by these. Sort
	// and Descending mean nothing then, and a page may have few items though others follow.
	Prefix string
}

func (p Page) query(collection string) (keystore.Query, error) {
	var broken pkcs10.Violations
	index, ok := p.Sort.index(collection)
	if !ok {
		broken.Add(pkcs10.Violation{Field: SortOrder, Rule: pkcs10.NotAllowed, Value: string(p.Sort), Limit: "the sort orders"})
	}
	if p.Limit < 1 || p.Limit > maxPage {
		broken.Add(pkcs10.Violation{Field: PageLimit, Rule: pkcs10.OutOfRange, Value: strconv.Itoa(p.Limit), Limit: "1 to " + strconv.Itoa(maxPage)})
	}
	if len(p.Prefix) > maxObjectID {
		broken.Add(pkcs10.Violation{Field: Prefix, Rule: pkcs10.TooLong, Limit: strconv.Itoa(maxObjectID)})
	}
	if p.Prefix != "" {
		return keystore.Query{Collection: collection, Prefix: []byte(p.Prefix)}, broken.Err()
	}
	return keystore.Query{Collection: collection, Index: index, After: p.After, Descending: p.Descending}, broken.Err()
}

// Listing is a page of a list. A record that cannot be read is not in it, but counts
// for the limit of the page: a thousand of them cost no more than a thousand objects.
type Listing[T any] struct {
	Items      []T
	Next       []byte // the position that the next page starts after; nil: there is none
	Total      int    // objects in all, without those that this page leaves out
	Unreadable int    // records that this page leaves out; the log names them
}

// list is an operation that reads a page of a collection.
func list[T any](ctx context.Context, g *Grant, o Operation, collection string, p Page, read func(keystore.Record) (T, error)) (Listing[T], error) {
	if err := g.permits(o); err != nil {
		return Listing[T]{}, err
	}
	l, err := listPage(ctx, g.service, collection, p, read)
	return l, classify(err)
}

// listPage reads a page of a collection, and the total after the items: a change in
// between may be in the total alone.
func listPage[T any](ctx context.Context, s *Service, collection string, p Page, read func(keystore.Record) (T, error)) (Listing[T], error) {
	query, err := p.query(collection)
	if err != nil {
		return Listing[T]{}, err
	}
	w := walk[T]{service: s, read: read, places: p.Limit, looks: p.Limit}
	if p.Prefix != "" {
		w.looks = max(w.looks, maxSearched)
		err = w.search(ctx, query, p.After)
	} else if after, whole, failed := w.page(ctx, query, nil); !whole {
		w.Next, err = after, failed
	}
	if err != nil {
		return Listing[T]{}, err
	}
	total, err := s.keys.Count(ctx, collection)
	if err != nil {
		return Listing[T]{}, err
	}
	w.Total = total - w.Unreadable
	return w.Listing, nil
}

// walk makes a Listing.
type walk[T any] struct {
	Listing[T]
	service *Service
	read    func(keystore.Record) (T, error)
	size    int // bytes of payloads on the page
	places  int // left on the page
	looks   int // records that may still be read
}

// page puts what a query finds on the page, without the objects that skip names. It reads
// in chunks. It returns where it ended, and whether that is the end of the query.
func (w *walk[T]) page(ctx context.Context, query keystore.Query, skip func(id string) bool) (after []byte, whole bool, err error) {
	for more := true; more; {
		query.Limit = min(pageChunk, w.looks+1) // one more says whether there is a next page
		records, err := w.service.keys.List(ctx, query)
		if err != nil {
			return nil, false, err
		}
		more = len(records) == query.Limit
		for _, r := range records {
			w.size += len(r.Payload)
			if w.places == 0 || w.looks == 0 || len(w.Items) > 0 && w.size > maxPageBytes {
				return query.After, false, nil
			}
			w.looks, query.After = w.looks-1, r.Position
			if skip != nil && skip(r.Slot.ID) {
				continue
			}
			w.places--
			item, err := w.read(r.Record)
			if err = cmp.Or(r.Err, err); err != nil {
				w.service.log.ErrorContext(ctx, "a list leaves out an object that cannot be read: delete it, or restore a backup", "slot", r.Slot.String(), "err", err)
				w.Unreadable++
				continue
			}
			w.Items = append(w.Items, item)
		}
	}
	return nil, true, nil
}

// maxSearched is how many records are read for a page of a search: those of which the
// name and the id begin alike are met twice.
const maxSearched = 1000

// The first byte of a position in a search says which order it is in.
const (
	searchesIDs   = 'i'
	searchesNames = 'n'
)

// search puts the objects on the page whose ids begin with the prefix, and then the others
// whose display names do.
func (w *walk[T]) search(ctx context.Context, query keystore.Query, after []byte) error {
	prefix, byID := string(query.Prefix), len(after) == 0 || after[0] == searchesIDs
	if len(after) > 0 {
		query.After = after[1:]
	}
	if byID {
		position, whole, err := w.page(ctx, query, nil)
		if !whole {
			w.Next = append([]byte{searchesIDs}, position...)
			return err
		}
		query.After = nil
	}
	query.Index = indexDisplayName
	position, whole, err := w.page(ctx, query, func(id string) bool { return strings.HasPrefix(id, prefix) })
	if !whole {
		w.Next = append([]byte{searchesNames}, position...)
	}
	return err
}

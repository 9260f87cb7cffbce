package csr

import (
	"cmp"
	"context"
	"strconv"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

const (
	// maxPage is how many items a page may have.
	maxPage = 1000
	// maxPageBytes bounds the payloads of a page. Most have 2 kB, the longest chains
	// 70 kB: a list of a thousand of those would take 100 MB of memory.
	maxPageBytes = 4 << 20
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
)

// index is the name of the index that keeps the order; the ids need none.
func (s Sort) index() (name string, ok bool) {
	switch s {
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
}

func (p Page) query(collection string) (keystore.Query, error) {
	var broken pkcs10.Violations
	index, ok := p.Sort.index()
	if !ok {
		broken.Add(pkcs10.Violation{Field: SortOrder, Rule: pkcs10.NotAllowed, Value: string(p.Sort), Limit: "the sort orders"})
	}
	if p.Limit < 1 || p.Limit > maxPage {
		broken.Add(pkcs10.Violation{Field: PageLimit, Rule: pkcs10.OutOfRange, Value: strconv.Itoa(p.Limit), Limit: "1 to " + strconv.Itoa(maxPage)})
	}
	return keystore.Query{Collection: collection, Index: index, After: p.After, Descending: p.Descending, Limit: p.Limit}, broken.Err()
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

// listPage reads a page of a collection. It reads in chunks, and the total after the
// items: a change in between may be in the total alone.
func listPage[T any](ctx context.Context, s *Service, collection string, p Page, read func(keystore.Record) (T, error)) (l Listing[T], err error) {
	query, err := p.query(collection)
	if err != nil {
		return Listing[T]{}, err
	}
	size, places := 0, p.Limit
	for more := true; more; {
		query.Limit = min(pageChunk, places+1) // one more says whether there is a next page
		records, err := s.keys.List(ctx, query)
		if err != nil {
			return Listing[T]{}, err
		}
		more = len(records) == query.Limit
		for _, r := range records {
			size += len(r.Payload)
			if places == 0 || len(l.Items) > 0 && size > maxPageBytes {
				l.Next, more = query.After, false
				break
			}
			places, query.After = places-1, r.Position
			item, err := read(r.Record)
			if err = cmp.Or(r.Err, err); err != nil {
				s.log.ErrorContext(ctx, "a list leaves out an object that cannot be read: delete it, or restore a backup", "slot", r.Slot.String(), "err", err)
				l.Unreadable++
				continue
			}
			l.Items = append(l.Items, item)
		}
	}
	total, err := s.keys.Count(ctx, collection)
	if err != nil {
		return Listing[T]{}, err
	}
	l.Total = total - l.Unreadable
	return l, nil
}

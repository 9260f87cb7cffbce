package csr

import (
	"context"
	"strconv"

	"attestcsr/keystore"
)

// maxPage is how many items a page may have.
const maxPage = 1000

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
	// After is where the page before ended, as it was returned with that page,
	// for the same order; nil is the beginning. Any bytes are a position, whether
	// or not an object is or was there, and what comes and goes elsewhere does
	// not move it.
	After []byte
	Limit int // items, 1 to 1,000
}

func (p Page) query(collection string) (keystore.Query, error) {
	var broken violations
	index, ok := p.Sort.index()
	if !ok {
		broken.add(Violation{SortOrder, NotAllowed, string(p.Sort), "the sort orders"})
	}
	if p.Limit < 1 || p.Limit > maxPage {
		broken.add(Violation{PageLimit, OutOfRange, strconv.Itoa(p.Limit), "1 to " + strconv.Itoa(maxPage)})
	}
	return keystore.Query{Collection: collection, Index: index, After: p.After, Descending: p.Descending, Limit: p.Limit}, broken.err()
}

// listPage reads a page of a collection. Items and total are read one after the
// other, so that a change between may count in one of them alone.
func listPage[T any](ctx context.Context, s *Service, collection string, p Page, read func(keystore.Record) (T, error)) (items []T, next []byte, total int, err error) {
	query, err := p.query(collection)
	if err != nil {
		return nil, nil, 0, err
	}
	query.Limit++ // one more says whether there is a next page
	records, err := s.keys.List(ctx, query)
	if err != nil {
		return nil, nil, 0, err
	}
	if len(records) > p.Limit {
		records = records[:p.Limit]
		next = records[p.Limit-1].Position
	}
	items = make([]T, 0, len(records))
	for _, r := range records {
		item, err := read(r.Record)
		if err != nil {
			return nil, nil, 0, err
		}
		items = append(items, item)
	}
	total, err = s.keys.Count(ctx, collection)
	if err != nil {
		return nil, nil, 0, err
	}
	return items, next, total, nil
}

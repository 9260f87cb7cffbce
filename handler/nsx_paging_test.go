package handler_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// newPaged is a stack with 25 requests, and their ids in the order in which they were
// made. That is neither the order of the ids nor that of the names.
func newPaged(t *testing.T) (s *stack, created []string) {
	t.Helper()
	s = newStack(t)
	for i := range 25 {
		id := fmt.Sprintf("csr-%02d", i*7%25)
		s.nsxMake(id, strings.Replace(quickSpec, "{", fmt.Sprintf(`{"display_name":"name %d",`, i%3), 1))
		created = append(created, id)
		time.Sleep(time.Millisecond) // so that the times differ
	}
	return s, created
}

// walk lists all requests in pages of four and returns their ids.
func (s *stack) walk(params ...string) []string {
	s.t.Helper()
	var ids []string
	cursor := ""
	for page := 0; ; page++ {
		query := append([]string{"page_size=4"}, params...)
		if cursor != "" {
			query = slices.Insert(query, page%2, "cursor="+cursor)
		}
		got := decode[nsxList[nsxCSR]](s.t, s.do(call{method: "GET", path: nsxPath("", query...)}))
		if (got.ResultCount != nil) != (page == 0) {
			s.t.Errorf("result_count on page %d: %v", page, got.ResultCount)
		}
		for _, r := range got.Results {
			ids = append(ids, *r.ID)
		}
		if got.Cursor == nil {
			return ids
		}
		if len(got.Results) != 4 || !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(*got.Cursor) {
			s.t.Fatalf("page %d: %d results, cursor %q", page, len(got.Results), *got.Cursor)
		}
		cursor = *got.Cursor
	}
}

func TestNSXPaging(t *testing.T) {
	t.Parallel()
	s, created := newPaged(t)
	byID := slices.Sorted(slices.Values(created))
	byName := slices.Clone(created)
	slices.SortFunc(byName, func(a, b string) int {
		name := func(id string) int { return slices.Index(created, id) % 3 }
		return strings.Compare(fmt.Sprint(name(a), a), fmt.Sprint(name(b), b))
	})
	for params, want := range map[string][]string{
		"x=1": byID, "sort_by=id": byID, "sort_by=display_name": byName, "sort_by=_create_time": created, "sort_by=_last_modified_time": created,
	} {
		if got := s.walk(params); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", params, got, want)
		}
		got := s.walk("sort_ascending=false", params)
		if slices.Reverse(got); !slices.Equal(got, want) {
			t.Errorf("%s descending, read backwards: %q, want %q", params, got, want)
		}
	}

	first := decode[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxPath("", "page_size=4")}))
	for _, params := range []string{"sort_by=display_name", "sort_ascending=false"} {
		if a := s.do(call{method: "GET", path: nsxPath("", params, "cursor="+*first.Cursor)}); a.status != http.StatusBadRequest || *a.nsxError(t).Code != 255 {
			t.Errorf("cursor of another order: %d %s", a.status, a.body)
		}
	}
	a := s.do(call{method: "GET", path: nsxPath("", "included_fields=_revision,id", "page_size=2")})
	if want := `{"results":[{"id":"csr-00","_revision":0},{"id":"csr-01","_revision":0}],"result_count":25,"sort_by":"id","sort_ascending":true,"cursor":"`; !strings.HasPrefix(string(a.body), want) {
		t.Errorf("included_fields: %s", a.body)
	}
}

// The longest position that there can be fits into a cursor.
func TestNSXLongestCursor(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, letter := range []string{"a", "b"} {
		s.nsxMake(strings.Repeat(letter, 255), strings.Replace(quickSpec, "{", `{"display_name":"`+strings.Repeat("𝄞", 255)+`",`, 1))
	}
	page := func(params ...string) nsxList[nsxCSR] {
		return decode[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxPath("", append(params, "page_size=1", "sort_by=display_name")...)}))
	}
	first := page()
	if first.Cursor == nil {
		t.Fatal("no second page")
	}
	if second := page("cursor=" + *first.Cursor); second.Cursor != nil || len(second.Results) != 1 {
		t.Errorf("the second page: %+v", second)
	}
}

func TestNSXFullCollection(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{requests: 3})
	for i := range 3 {
		s.nsxMake(fmt.Sprint(i), quickSpec)
	}
	if message := s.nsxCreate("more", quickSpec).wantNSXError(t, http.StatusBadRequest, 255); !strings.Contains(message, "{csrs is full: it takes 3 objects}") {
		t.Errorf("one more: %s", message)
	}
	s.nsxCreate("0", quickSpec).wantNSXError(t, http.StatusBadRequest, 500127)
	if a := s.do(call{method: "POST", path: nsxPath("0", "action=self_sign")}); a.status != http.StatusCreated {
		t.Errorf("self_sign: %d %s", a.status, a.body)
	}
	s.nsxMake("more", quickSpec)
}

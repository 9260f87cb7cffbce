package policy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/handler/policy"
)

func withQuery(query string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/policy/api/v1/infra/csrs", nil)
	r.URL.RawQuery = query
	return r
}

// FuzzListQuery: the parameters of a list are refused with a reason, or the page is
// within its bounds. Its parameters in their plainest spelling give the same page.
func FuzzListQuery(f *testing.F) {
	cursor := policy.NewCursor(csr.Page{Sort: csr.SortByDisplayName, Descending: true}, []byte("x\x00y"))
	for _, seed := range []string{
		"", "page_size=1000", "page_size=1001", "page_size=0", "page_size=01", "page_size=+1", "page_size=%31", "page_size=1&page_size=1", "page_size=",
		"sort_by=display_name&sort_ascending=false&cursor=" + cursor, "sort_by=display_name&cursor=" + cursor, "cursor=" + cursor, "cursor=%0A", "sort_by=ID", "sort_by=_create_time;",
		"included_fields=id,display_name", "included_fields=id,id", "included_fields=,", "included_fields=Id", "included_fields=id%2Cpath", "included_fields=" + strings.Repeat("id,", 40),
		"sort_ascending=True", "sort_ascending=1", "%zz", "a=%zz&page_size=7", "page_size=9;sort_by=x", "&&=&page_size=3", "\x00=\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, err := policy.ReadListQuery(withQuery(query))
		if err != nil {
			if !isInvalid(err) || err.Error() == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if got.Page.Limit < 1 || got.Page.Limit > 1000 || !slices.Contains([]string{"id", "display_name", "_create_time", "_last_modified_time"}, got.SortBy) {
			t.Fatalf("%q gave %+v", query, got)
		}
		again := url.Values{
			"page_size": {fmt.Sprint(got.Page.Limit)}, "sort_by": {got.SortBy}, "sort_ascending": {fmt.Sprint(!got.Page.Descending)},
			"included_fields": {strings.Join(got.Included, ",")},
		}
		if got.Page.After != nil {
			again.Set("cursor", policy.NewCursor(got.Page, got.Page.After))
		}
		if same, err := policy.ReadListQuery(withQuery(again.Encode())); err != nil || !reflect.DeepEqual(same, got) {
			t.Fatalf("%q gave %+v, and written as %s it gives %+v, %v", query, got, again.Encode(), same, err)
		}
		whole := withQuery(query).URL.Query()
		for name, value := range map[string]string{"page_size": fmt.Sprint(got.Page.Limit), "sort_by": got.SortBy, "sort_ascending": fmt.Sprint(!got.Page.Descending)} {
			if given := whole[name]; len(given) > 1 || len(given) == 1 && given[0] != "" && given[0] != value {
				t.Fatalf("%q gave %s %s", query, name, value)
			}
		}
	})
}

// FuzzActionQuery: a request is refused unless it names one action that exists, and
// days_valid is a decimal number.
func FuzzActionQuery(f *testing.F) {
	for _, seed := range []string{"action=create", "action=import&days_valid=825", "action=create&action=import", "action=", "", "action=Create", "action=%63reate", "days_valid=1e3", "days_valid=-1", "days_valid=+1",
		"days_valid=9223372036854775808", "days_valid=1&days_valid=2", "action=create;days_valid=1", "%", "days_valid=%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		whole, parseErr := url.ParseQuery(query)
		operation, err := policy.ActionOf(withQuery(query))
		wanted := map[string]csr.Operation{"create": csr.CreateNamedCSR, "import": csr.ImportCertificate}
		switch {
		case err != nil && !isInvalid(err):
			t.Fatal(err)
		case err == nil && (parseErr != nil || len(whole["action"]) != 1 || wanted[whole.Get("action")] != operation):
			t.Fatalf("%q is %s", query, operation)
		}
		days, err := policy.DaysValid(withQuery(query))
		switch {
		case err != nil && (!isInvalid(err) || err.Error() == ""):
			t.Fatal(err)
		case err == nil && days == nil && whole.Get("days_valid") != "":
			t.Fatalf("%q: the days are lost", query)
		case err == nil && days != nil:
			text, err := json.Marshal(*days)
			if err != nil || string(text) != whole.Get("days_valid") {
				t.Fatalf("%q gave %d days", query, *days)
			}
		}
	})
}

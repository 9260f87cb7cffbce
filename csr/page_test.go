package csr_test

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// compareBy is the order of a list, as it is documented.
func compareBy(sort csr.Sort, a, b csr.Object) int {
	c := 0
	switch sort {
	case csr.SortByDisplayName:
		c = strings.Compare(a.DisplayName, b.DisplayName)
	case csr.SortByCreated:
		c = a.Created.Compare(b.Created)
	case csr.SortByModified:
		c = a.Modified.Compare(b.Modified)
	}
	return cmp.Or(c, strings.Compare(a.ID, b.ID))
}

func orders() []csr.Sort {
	return []csr.Sort{csr.SortByID, csr.SortByDisplayName, csr.SortByCreated, csr.SortByModified}
}

// What is there for the whole of a listing comes exactly once, whatever comes
// and goes between its pages, the object of a page's end included.
func TestPagesUnderChange(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i := range 20 {
		b.createNamed(t, csr.NewRequest{ID: fmt.Sprintf("stays %02d", i), Spec: commonName("x")})
		b.createNamed(t, csr.NewRequest{ID: fmt.Sprintf("stays %02d, goes", i), Spec: commonName("x")})
	}
	for _, sort := range orders() {
		page, round := csr.Page{Sort: sort, Limit: 3}, 0
		var stayed []string
		for {
			l, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), page)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range l.Items {
				if !strings.HasSuffix(item.ID, "goes") {
					stayed = append(stayed, item.ID)
				}
			}
			if l.Next == nil {
				break
			}
			page.After = l.Next
			round++
			if last := l.Items[len(l.Items)-1].ID; strings.HasSuffix(last, "goes") {
				if err := b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), last); err != nil {
					t.Fatal(err)
				}
			}
			b.createNamed(t, csr.NewRequest{ID: fmt.Sprintf("new %s %d, goes", sort, round), Spec: commonName("x")})
		}
		if len(stayed) != 20 || !slices.IsSorted(stayed) {
			t.Errorf("by %s: %q", sort, stayed)
		}
	}
}

func TestPageRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, c := range []struct {
		name string
		page csr.Page
		want []string
	}{
		{"one", csr.Page{Sort: csr.SortByID, Limit: 1}, nil},
		{"a thousand", csr.Page{Sort: csr.SortByID, Limit: 1000}, nil},
		{"none", csr.Page{Sort: csr.SortByID}, []string{"page limit: out_of_range"}},
		{"negative", csr.Page{Sort: csr.SortByID, Limit: -1}, []string{"page limit: out_of_range"}},
		{"more", csr.Page{Sort: csr.SortByID, Limit: 1001}, []string{"page limit: out_of_range"}},
		{"no order", csr.Page{Limit: 1}, []string{"sort order: not_allowed"}},
		{"unknown order", csr.Page{Sort: "not_after", Limit: 0}, []string{"sort order: not_allowed", "page limit: out_of_range"}},
	} {
		_, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), c.page)
		_, err2 := b.namedGrant(t, csr.ListNamedCertificates).ListNamedCertificates(t.Context(), c.page)
		for _, err := range []error{err, err2} {
			vs := violationsOf(t, err)
			if got := kit.Rules(vs); !slices.Equal(got, c.want) {
				t.Errorf("%s: violations %q, want %q", c.name, got, c.want)
			}
			kit.CheckSentences(t, vs)
		}
	}
}

// Any bytes are a position.
func FuzzPageAfter(f *testing.F) {
	b := newBench(f)
	var all []csr.NamedRequest
	for i := range 5 {
		all = append(all, b.createNamed(f, csr.NewRequest{ID: fmt.Sprint(i), Labels: csr.Labels{DisplayName: "n" + fmt.Sprint(i%2)}, Spec: commonName("x")}))
	}
	for i, sort := range orders() {
		l, err := b.namedGrant(f, csr.ListNamedCSRs).ListNamedCSRs(f.Context(), csr.Page{Sort: sort, Limit: 2})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, false, l.Next)
		f.Add(i, true, l.Next)
	}
	f.Add(0, true, []byte{})
	f.Add(1, false, []byte{0})
	f.Add(2, true, bytes.Repeat([]byte{0xff}, 2000))
	f.Fuzz(func(t *testing.T, order int, descending bool, after []byte) {
		sort := orders()[uint(order)%4]
		l, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), csr.Page{Sort: sort, Descending: descending, After: after, Limit: 1000})
		if err != nil || l.Next != nil || l.Total != len(all) {
			t.Fatalf("total %d, next %q, error %v", l.Total, l.Next, err)
		}
		// The page is the end of the whole list.
		want := slices.Clone(all)
		slices.SortFunc(want, func(x, y csr.NamedRequest) int { return compareBy(sort, x.Object, y.Object) })
		if descending {
			slices.Reverse(want)
		}
		if want = want[len(want)-len(l.Items):]; len(l.Items) > 0 && !reflect.DeepEqual(l.Items, want) {
			t.Fatalf("a page after %q has %d items that are not the end of the list", after, len(l.Items))
		}
	})
}

// A page of long objects ends before its bytes are too many, and the ones after
// it go on where it ended.
func TestPagesOfLongObjects(t *testing.T) {
	t.Parallel()
	const objects, mostBytes = 170, 7 << 20
	b := newBench(t)
	spec := commonName("x")
	for i := range 100 {
		label := strings.Repeat(string(rune('a'+i%26)), 60)
		spec.AltNames = append(spec.AltNames, pkcs10.AltName{Value: fmt.Sprintf("%s.%s.%s.x%d.example", label, label, label, i)})
	}
	for i := range objects {
		b.createNamed(t, csr.NewRequest{ID: fmt.Sprintf("%03d", i), Spec: spec})
	}
	g := b.namedGrant(t, csr.ListNamedCSRs)
	for _, sort := range orders() {
		page, pages, seen := csr.Page{Sort: sort, Limit: 1000}, 0, map[string]bool{}
		for {
			l, err := g.ListNamedCSRs(t.Context(), page)
			if err != nil || l.Total != objects || len(l.Items) == 0 {
				t.Fatalf("%d items of %d, error %v", len(l.Items), l.Total, err)
			}
			size := 0
			for _, item := range l.Items {
				size += len(item.PEM)
				for _, name := range item.Spec.AltNames {
					size += len(name.Value)
				}
				if seen[item.ID] {
					t.Errorf("%s is there twice", item.ID)
				}
				seen[item.ID] = true
			}
			if size > mostBytes {
				t.Errorf("a page of %d bytes", size)
			}
			if pages++; l.Next == nil {
				break
			}
			page.After = l.Next
		}
		if pages < 2 || len(seen) != objects {
			t.Errorf("by %s: %d objects on %d pages", sort, len(seen), pages)
		}
	}
}

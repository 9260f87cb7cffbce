package csr_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// search returns the ids that a search finds, in pages of a size.
func (b bench) search(t testing.TB, prefix string, limit int) []string {
	t.Helper()
	page, found := csr.Page{Sort: csr.SortByID, Limit: limit, Prefix: prefix}, []string{}
	for {
		l, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), page)
		if err != nil || len(l.Items) > limit {
			t.Fatalf("%q: %d items, %v", prefix, len(l.Items), err)
		}
		for _, item := range l.Items {
			found = append(found, item.ID)
		}
		if page.After = l.Next; page.After == nil {
			return found
		}
	}
}

// A search finds the objects whose ids begin with a text, and then those whose names do,
// each once, whatever the size of a page.
func TestSearch(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, name := range []string{"", "web server", "web", "mail", "", "wéb", "x", "Web"} {
		id := []string{"web-1", "a", "web-2", "web/3", "wec", "b", "web", "c"}[i]
		b.createNamed(t, csr.NewRequest{ID: id, Labels: csr.Labels{DisplayName: name}, Spec: commonName("x")})
	}
	for prefix, want := range map[string][]string{
		"web":        {"web", "web-1", "web-2", "web/3", "a"},
		"web ":       {"a"},
		"we":         {"web", "web-1", "web-2", "web/3", "wec", "a"},
		"Web":        {"c"},
		"w\u00e9":    {"b"},
		"w\xc3":      {"b"}, // half a character
		"mail":       {"web/3"},
		"x":          {"web"},
		"zzz":        {},
		"\xff\xff":   {},
		"web\x00":    {},
		"web server": {"a"},
	} {
		for _, limit := range []int{1, 2, 4, 5, 1000} {
			if got := b.search(t, prefix, limit); !slices.Equal(got, want) {
				t.Errorf("%q in pages of %d: %q, want %q", prefix, limit, got, want)
			}
		}
	}
	_, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), csr.Page{Sort: csr.SortByID, Limit: 1, Prefix: string(make([]byte, 256))})
	if got := kit.Rules(violationsOf(t, err)); !slices.Equal(got, []string{"prefix: too_long"}) {
		t.Errorf("a long prefix: %q", got)
	}
	for _, after := range [][]byte{{}, {0}, {'i'}, {'n'}, {'i', 0xff}, []byte("nweb")} {
		if _, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), csr.Page{Sort: csr.SortByID, Limit: 1, Prefix: "web", After: after}); err != nil {
			t.Errorf("position %q: %v", after, err)
		}
	}
}

// Certificates can be sorted by when they end. Requests end never.
func TestSortByNotAfter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var names []string
	for _, days := range []int64{30, 400, 7, 90} {
		id := fmt.Sprint("r", days)
		b.createNamed(t, csr.NewRequest{ID: id, Spec: commonName(id)})
		if _, err := b.selfSign(t, id, &days); err != nil {
			t.Fatal(err)
		}
	}
	l, err := b.namedGrant(t, csr.ListNamedCertificates).ListNamedCertificates(t.Context(), csr.Page{Sort: csr.SortByNotAfter, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range l.Items {
		names = append(names, c.DisplayName)
	}
	if !slices.Equal(names, []string{"r7", "r30", "r90", "r400"}) {
		t.Errorf("%q", names)
	}
	_, err = b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), csr.Page{Sort: csr.SortByNotAfter, Limit: 10})
	if got := kit.Rules(violationsOf(t, err)); !slices.Equal(got, []string{"sort order: not_allowed"}) {
		t.Errorf("requests: %q", got)
	}
}

// What is pending and what is installed, as people look at it. The checks of the installed
// certificate are made at the time of the question.
func TestHeld(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if _, err := b.grant(t, csr.GetCSR).Pending(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("nothing is pending: %v", err)
	}
	text := b.create(t, commonName("esx-01"))
	p, err := b.grant(t, csr.GetCSR).Pending(t.Context())
	if sum, _ := pkcs10.Digest(text); err != nil || p.PEM != text || p.SHA256 != sum || p.Subject != "CN=esx-01" || p.CreatedBy != "admin" || !p.Created.Equal(noon()) {
		t.Errorf("%+v, %v", p, err)
	}
	key, err := pkcs10.PublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	ca := kit.NewCA(t, "CA", noon())
	if err := b.set(t, ca.Issue(t, "esx-01", key, func(c *x509.Certificate) { c.NotAfter = noon().Add(time.Hour) }), ca.Cert); err != nil {
		t.Fatal(err)
	}
	held, err := b.grant(t, csr.GetCertificate).Installed(t.Context())
	if err != nil || held.PEM != b.certificate(t) || !held.Accepted || !held.Unchanged || held.Key != csr.InstalledKey || len(held.Certificates) != 2 || !held.Created.Equal(noon()) {
		t.Errorf("%+v, %v", held, err)
	}
	late := b.with(t, func(c *csr.Config) { c.Now = func() time.Time { return noon().Add(2 * time.Hour) } })
	if held, err := late.grant(t, csr.GetCertificate).Installed(t.Context()); err != nil || held.Accepted || len(held.Certificates) != 2 {
		t.Errorf("it has ended: %+v, %v", held, err)
	}
	if _, err := b.grant(t, csr.GetCSR).Installed(t.Context()); err == nil {
		t.Error("a grant for another operation")
	}
}

package audit_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// written is a trail with lines in all streams, of several files each, and its lines in
// the order in which Read has to return them.
func written(t testing.TB) (*trail, []parsed) {
	t.Helper()
	tr := newTrail(t, func(o *audit.Options) { o.MaxFileSize, o.MaxRefusalsSize, o.MaxSignaturesSize = 4000, 1<<20, 1<<20 })
	for i := range 12 {
		tr.changes(3)
		tr.log.Refuse(refusal(fmt.Sprint("Ünnamed ", i), "198.51.100.7", "unauthenticated"))
		tr.signatures(2)
		if i%4 == 3 {
			tr.flush()
			kit.Eventually(t, "the refusals have lines", func() bool { return len(tr.refusals()) == i+1 })
		}
	}
	tr.flush()
	all := tr.newestFirst()
	return tr, all
}

// newestFirst merges the streams: of the last lines that are left, the newest comes next.
func (tr *trail) newestFirst() (all []parsed) {
	tr.t.Helper()
	left := map[string][]parsed{}
	for _, stream := range audit.Streams() {
		left[stream] = tr.lines(stream)
	}
	if files := tr.files(audit.Changes); len(files) < 3 {
		tr.t.Fatalf("%d files of changes", len(files))
	}
	for {
		newest := ""
		for _, stream := range audit.Streams() {
			if lines := left[stream]; len(lines) > 0 && (newest == "" || lines[len(lines)-1].Time.After(left[newest][len(left[newest])-1].Time)) {
				newest = stream
			}
		}
		if newest == "" {
			return all
		}
		last := len(left[newest]) - 1
		all, left[newest] = append(all, left[newest][last]), left[newest][:last]
	}
}

// readAll reads the whole trail in pages.
func readAll(t testing.TB, tr *trail, q audit.Query) (all []audit.Line, pages int) {
	t.Helper()
	for {
		page, err := tr.log.Read(t.Context(), q)
		if err != nil || len(page.Lines) > q.Limit || page.Unreadable > 0 {
			t.Fatalf("%+v, %v", page, err)
		}
		all = append(all, page.Lines...)
		pages++
		if q.After = page.Next; q.After == "" {
			return all, pages
		}
	}
}

// Pages have every line once, the newest first, whatever their size.
func TestRead(t *testing.T) {
	t.Parallel()
	tr, want := written(t)
	for _, limit := range []int{1, 7, 1000} {
		got, pages := readAll(t, tr, audit.Query{Limit: limit})
		if len(got) != len(want) || limit == 7 && pages < len(want)/7 {
			t.Fatalf("limit %d: %d lines in %d pages, want %d", limit, len(got), pages, len(want))
		}
		for i, l := range got {
			if l.Stream != want[i].Stream || l.Seq != want[i].Seq || !l.Time.Equal(want[i].Time) || l.User != want[i].User {
				t.Errorf("limit %d: line %d is %+v, want %+v", limit, i, l, want[i])
			}
		}
	}
}

func TestReadFilters(t *testing.T) {
	t.Parallel()
	tr, all := written(t)
	for _, c := range []struct {
		q    audit.Query
		want func(l parsed) bool
	}{
		{audit.Query{Who: "ADMIN"}, func(l parsed) bool { return l.User == "admin" }},
		{audit.Query{Who: "ünnamed 1"}, func(l parsed) bool { return strings.HasPrefix(l.User, "Ünnamed 1") }},
		{audit.Query{Who: "198.51."}, func(l parsed) bool { return l.Address == "198.51.100.7" }},
		{audit.Query{Who: "uid=1000"}, func(l parsed) bool { return l.Peer != "" }},
		{audit.Query{What: "signature"}, func(l parsed) bool { return l.Event == "signature" }},
		{audit.Query{What: "csr.create", Object: "C/A"}, func(l parsed) bool { return l.Operation == "csr.create" }},
		{audit.Query{What: "unauthenticated", Who: "ünnamed 3"}, func(l parsed) bool { return l.User == "Ünnamed 3" }},
		{audit.Query{Object: "nothing has this"}, func(parsed) bool { return false }},
	} {
		want := 0
		for _, l := range all {
			if c.want(l) {
				want++
			}
		}
		c.q.Limit = 5
		if got, _ := readAll(t, tr, c.q); len(got) != want {
			t.Errorf("%+v: %d lines, want %d", c.q, len(got), want)
		}
	}
}

// A page costs no more than a bound, goes on where it ended, passes over what is no line,
// and does not see a line that is being written.
func TestReadBounds(t *testing.T) {
	t.Parallel()
	tr, _ := written(t)
	tr.close()
	all := slices.Concat(tr.lines(audit.Changes), tr.lines(audit.Refusals), tr.lines(audit.Signatures))
	files := tr.files(audit.Changes)
	newest := files[len(files)-1]
	content := append(kit.Read(t, "", newest), strings.Repeat(strings.Repeat("x", 1000)+"\n", 9000)...)
	content = append(content, strings.Repeat("y", 200_000)+"\n"+`{"v":2,"stream":"changes","seq":99`...)
	write(t, newest, content)
	log := audit.Reader(tr.o.Dir)

	lines, unreadable, empty, q := 0, 0, 0, audit.Query{Limit: 100}
	for {
		page, err := log.Read(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		lines, unreadable = lines+len(page.Lines), unreadable+page.Unreadable
		if len(page.Lines) == 0 {
			empty++
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	if lines != len(all) || unreadable < 9001 || empty < 2 {
		t.Errorf("%d lines, want %d; %d unreadable; %d empty pages", lines, len(all), unreadable, empty)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Read(t.Context(), audit.Query{Limit: 1000}); err != nil {
		t.Errorf("a file is gone: %v", err)
	}
}

// Any position is read or refused.
func FuzzReadAfter(f *testing.F) {
	tr := newTrail(f)
	tr.changes(20)
	tr.flush()
	log := audit.Reader(tr.o.Dir)
	page, err := log.Read(f.Context(), audit.Query{Limit: 3})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page.Next)
	f.Add("AAAAAAAA")
	f.Add("_____w8A_____w8A_____w8A")
	f.Fuzz(func(t *testing.T, after string) {
		page, err := log.Read(t.Context(), audit.Query{Limit: 10, After: after})
		if err != nil && !errors.Is(err, audit.ErrPosition) || len(page.Lines) > 10 {
			t.Errorf("%q: %d lines, %v", after, len(page.Lines), err)
		}
	})
}

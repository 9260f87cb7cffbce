package start_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestTrailIsRead: what callers do is in GET /console/trail within a second, newest first,
// by who, what and object, for those with the privilege.
func TestTrailIsRead(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	for i := range 5 {
		s.Must(201, "POST", fmt.Sprintf("%s/host-%d?action=create", start.NSXCSRs, i), start.ECSpec("x"))
	}
	s.Must(401, "GET", start.CSRPath, "", start.As(start.User, "wrong"))
	s.WaitForLines()

	type page struct {
		Lines []struct {
			Stream, Event, Operation, Slot, User, Subject, Time string
			Seq                                                 uint64
		}
		Cursor string
	}
	read := func(query string) (p page) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.Must(200, "GET", "/console/trail"+query, "")), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	kit.Eventually(t, "the refusal has a line", func() bool { return len(read("?what=refusal").Lines) == 1 })
	all := read("?limit=200")
	if len(all.Lines) < 9 || all.Cursor != "" {
		t.Errorf("%+v", all)
	}
	for query, want := range map[string]string{
		"?object=nsx/csrs&limit=2":              "nsx/csrs/host-4 nsx/csrs/host-3",
		"?object=HOST-2":                        "nsx/csrs/host-2",
		"?who=admin&what=csr.create&object=esx": "esx/attestation/csr",
		"?who=nobody":                           "",
	} {
		var slots []string
		for _, l := range read(query).Lines {
			slots = append(slots, l.Slot)
		}
		if got := strings.Join(slots, " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	first := read("?object=nsx/csrs&limit=4")
	if rest := read("?object=nsx/csrs&cursor=" + first.Cursor); len(first.Lines) != 4 || len(rest.Lines) != 1 || rest.Lines[0].Slot != "nsx/csrs/host-0" || rest.Cursor != "" {
		t.Errorf("%+v, then %+v", first, rest)
	}
	for _, bad := range []string{"?cursor=x", "?cursor=AAAA", "?limit=201", "?whom=x", "?who=" + strings.Repeat("x", 256)} {
		s.Must(400, "GET", "/console/trail"+bad, "")
	}
	// Logins and logouts of pages are lines as those of other callers are.
	ofPage := start.Header("X-Attestcsr-Console", "1")
	login, err := s.Do("POST", "/console/session", `{"user":"`+start.User+`","password":"`+start.Password+`"}`, start.Anonymous, ofPage)
	if err != nil || login.Status != 200 {
		t.Fatalf("%v %d %s", err, login.Status, login.Body)
	}
	cookie, _, _ := strings.Cut(login.Header.Get("Set-Cookie"), ";")
	s.Must(204, "DELETE", "/console/session", "", start.Anonymous, ofPage, start.Header("Cookie", cookie))
	kit.Eventually(t, "login and logout have lines", func() bool {
		return len(read("?what=login&who="+start.User).Lines) == 1 && len(read("?what=logout&who="+start.User).Lines) == 1
	})
}

// TestSeriesWithoutMetrics: the charts have figures also where metrics are on another
// listener.
func TestSeriesWithoutMetrics(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Args: []string{"--ops-listen", "127.0.0.1:0"}})
	s.Must(404, "GET", "/metrics", "")
	var charts struct {
		Series []struct {
			Name   string
			Points []*float64
		}
	}
	if err := json.Unmarshal([]byte(s.Must(200, "GET", "/console/series", "")), &charts); err != nil {
		t.Fatal(err)
	}
	for _, one := range charts.Series {
		known := len(one.Points) == 360 && one.Points[359] != nil
		if gauge := one.Name == "memory" || one.Name == "connections" || one.Name == "in_flight" || one.Name == "keys_ready"; gauge != known {
			t.Errorf("%s: %d points, the last is known: %t", one.Name, len(one.Points), known)
		}
	}
	if len(charts.Series) != 12 {
		t.Errorf("%d series", len(charts.Series))
	}
}

package handler_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler"
	"attestcsr/handler/auth"
)

// consoleState is the answer of GET /console/state.
type consoleState struct {
	User       string   `json:"user"`
	Privileges []string `json:"privileges"`
	Now        string   `json:"now"`
	Started    string   `json:"started"`
	Version    string   `json:"version"`
	Hostname   string   `json:"hostname"`
	KeySizes   []int    `json:"key_sizes"`
	Parts      []struct {
		Name string `json:"name"`
		Why  string `json:"why"`
		OK   bool   `json:"ok"`
	} `json:"parts"`
	Pool []struct {
		Bits, Ready, Target int
	} `json:"pool"`
	Counts struct {
		Sessions     int  `json:"sessions"`
		Connections  int  `json:"connections"`
		WaitingLines int  `json:"waiting_lines"`
		CSRs         *int `json:"csrs"`
		Certificates *int `json:"certificates"`
	} `json:"counts"`
	Publishing bool `json:"publishing"`
	Published  []struct {
		Kid       string `json:"kid"`
		State     string `json:"state"`
		Since     string `json:"since"`
		Algorithm string `json:"key_algorithm"`
		Bits      int    `json:"key_bits"`
	} `json:"published"`
	Installed *struct {
		Certificate string `json:"certificate"`
		Since       string `json:"since"`
		checkReport
	} `json:"installed"`
	Pending *struct {
		CSR       string   `json:"csr"`
		SHA256    string   `json:"sha256"`
		Subject   string   `json:"subject"`
		Names     []string `json:"names"`
		Created   string   `json:"created"`
		CreatedBy string   `json:"created_by"`
		Algorithm string   `json:"key_algorithm"`
		KeyBits   int      `json:"key_bits"`
	} `json:"pending"`
	Last       []struct{} `json:"last"`
	Unreadable []string   `json:"unreadable"`
}

func (s *stack) state(user string) consoleState {
	s.t.Helper()
	a := s.do(call{method: "GET", path: "/console/state", anonymous: true, lines: basicHeader(user, passwordOf(user))})
	if a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", user, a.status, a.body)
	}
	return decode[consoleState](s.t, a)
}

// newConsole is a stack with the users of the matrix.
func newConsole(t *testing.T, edit ...option) *stack {
	t.Helper()
	var all []string
	for user := range accessPrivileges {
		all = append(all, user, passwordOf(user))
	}
	users := newAuth(auth.Config{
		Users: parseUsers(t, usersFile(t, all...)), Failures: 1 << 20,
		Privileges: func(user string) []csr.Privilege { return accessPrivileges[user] },
	})
	return newStackOf(t, setup{freshKeys: true}, append([]option{func(c *handler.Config) { c.Auth = users }}, edit...)...)
}

// The state has what the page shows first, and nothing that the caller may not read.
func TestConsoleState(t *testing.T) {
	t.Parallel()
	s := newConsole(t)
	pem := s.createCSR(validSpec)
	s.nsxMake("one", quickSpec)

	all := s.state("admin")
	sum, _ := pkcs10.Digest(pem)
	if p := all.Pending; p == nil || p.CSR != pem || p.SHA256 != sum || p.CreatedBy != "admin" || p.KeyBits != 2048 || !strings.HasSuffix(p.Subject, "C=US") {
		t.Errorf("pending: %+v", p)
	}
	if i := all.Installed; i == nil || i.Certificate != s.installed() || !i.Accepted || len(i.Certificates) != 1 || i.Since == "" || len(i.Checks) != len(pkcs10.Checks()) {
		t.Errorf("installed: %+v", i)
	}
	if n := all.Counts.CSRs; n == nil || *n != 1 || all.Version != "v1.2.3" || all.Hostname == "" || !slices.Equal(all.KeySizes, []int{2048, 3072, 4096}) || all.Unreadable != nil {
		t.Errorf("%+v", all)
	}
	if len(all.Published) != 2 || all.Published[0].State != "pending" || all.Published[1].State != "installed" || all.Published[0].Since == "" {
		t.Errorf("published: %+v", all.Published)
	}
	var parts []string
	for _, p := range all.Parts {
		parts = append(parts, fmt.Sprint(p.Name, p.OK, p.Why))
	}
	if !slices.Equal(parts, []string{"storetrue", "trailtrue", "custodytrue", "pooltrue"}) {
		t.Errorf("parts %q", parts)
	}

	for user, sees := range map[string]struct{ attestation, nsx bool }{
		"nobody": {}, "auditor": {}, "signer": {}, "hosts": {attestation: true}, "onlooker": {attestation: true}, "viewer": {nsx: true}, "editor": {nsx: true},
	} {
		st := s.state(user)
		if (st.Installed != nil) != sees.attestation || (st.Pending != nil) != sees.attestation || (st.Counts.CSRs != nil) != sees.nsx || (st.Last != nil) != (user == "auditor") || st.User != user || len(st.Privileges) != len(accessPrivileges[user]) {
			t.Errorf("%s: %+v", user, st)
		}
	}
}

// Why a part does not work is for those who may read the trail. The others see that it
// does not.
func TestConsoleStateWhy(t *testing.T) {
	t.Parallel()
	s := newConsole(t, func(c *handler.Config) { c.Pool = func() error { return fmt.Errorf("2 of 8 keys") } })
	for user, why := range map[string]string{"admin": "2 of 8 keys", "auditor": "2 of 8 keys", "hosts": "", "nobody": ""} {
		parts := s.state(user).Parts
		if p := parts[len(parts)-1]; p.Name != "pool" || p.OK || p.Why != why {
			t.Errorf("%s: %+v", user, p)
		}
	}
}

// The tables of named objects are sorted, searched and paged here.
func TestConsoleObjects(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for i := range 7 {
		s.nsxMake(fmt.Sprintf("web-%d", i), quickSpec)
	}
	s.nsxMake("mail", strings.Replace(quickSpec, "{", `{"display_name":"web mail",`, 1))
	type page struct {
		Objects []struct {
			ID        string `json:"id"`
			Name      string `json:"display_name"`
			Subject   string `json:"subject"`
			Created   string `json:"created"`
			CreatedBy string `json:"created_by"`
			Algorithm string `json:"key_algorithm"`
			Bits      int    `json:"key_bits"`
			CA        bool   `json:"ca"`
		} `json:"objects"`
		Cursor string `json:"cursor"`
		Total  int    `json:"total"`
	}
	const path = "/console/nsx/csrs"
	for query, want := range map[string]string{
		"?limit=3":                                 "mail web-0 web-1 web-2 web-3 web-4 web-5 web-6",
		"?limit=3&sort=id&descending=true":         "web-6 web-5 web-4 web-3 web-2 web-1 web-0 mail",
		"?limit=5&sort=display_name":               "mail web-0 web-1 web-2 web-3 web-4 web-5 web-6",
		"?limit=2&prefix=web":                      "web-0 web-1 web-2 web-3 web-4 web-5 web-6 mail",
		"?prefix=web-3":                            "web-3",
		"?prefix=none":                             "",
		"?limit=100&sort=created&descending=false": "web-0 web-1 web-2 web-3 web-4 web-5 web-6 mail",
	} {
		var ids []string
		for cursor := ""; ; {
			p := decode[page](t, s.do(call{method: "GET", path: path + query + cursor}))
			for _, o := range p.Objects {
				ids = append(ids, o.ID)
				if o.Subject == "" || o.Created == "" {
					t.Errorf("%+v", o)
				}
			}
			if p.Total != 8 {
				t.Errorf("total %d", p.Total)
			}
			if p.Cursor == "" {
				break
			}
			cursor = "&cursor=" + p.Cursor
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, bad := range []string{"?limit=0", "?limit=101", "?limit=x", "?sort=size", "?descending=yes", "?cursor=%2B", "?page_size=3", "?limit=1&limit=1", "?prefix=" + strings.Repeat("x", 256), "?%zz", "?sort=not_after"} {
		if a := s.do(call{method: "GET", path: path + bad}); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "INVALID_ARGUMENT") {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
}

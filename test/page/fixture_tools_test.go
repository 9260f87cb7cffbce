//go:build tools

// Package page_test has a real browser use the page as people do.
package page_test

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"attestcsr/test/browser"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

//go:embed script.js
var script string

// viewer may read everything but the trail.
const (
	viewer         = "víewer<b>"
	viewerPassword = "tunafish!"
)

// site is a service and a browser that looks at it.
type site struct {
	*browser.Page
	t *testing.T
	s *start.Instance
}

func open(t *testing.T) *site {
	t.Helper()
	users := kit.Overwrite(t, t.TempDir(), "users", start.UserLine(t, start.User, start.Password)+start.UserLine(t, viewer, viewerPassword))
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: "publish:\n  enabled: true\nauth:\n  users_file: " + users + "\n  privileges:\n" +
		"    " + start.User + ": [SECURITY_MGMT, \"policy_certificate:crud\", \"attestation:sign\", \"policy_certificate:sign\", \"audit:read\"]\n" +
		"    \"" + viewer + "\": [SECURITY_READ, \"policy_certificate:read\"]\n"})
	p := &site{browser.New(t), t, s}
	p.Watch(s.URL)
	return p
}

// load opens the page anew.
func (p *site) load(hash string) {
	p.t.Helper()
	p.Open(p.s.URL + "/favicon.none") // a change of the hash alone loads nothing
	p.Open(p.s.URL + "/" + hash)
	browser.Evaluate[bool](p.Page, script)
}

// do calls a function of script.js with texts.
func (p *site) do(function string, texts ...string) {
	p.t.Helper()
	browser.Evaluate[any](p.Page, call(function, texts))
}

func (p *site) ask(function string, texts ...string) string {
	p.t.Helper()
	return browser.Evaluate[string](p.Page, call(function, texts))
}

func call(function string, texts []string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, quote(text))
	}
	return "t." + function + "(" + strings.Join(quoted, ", ") + ")"
}

func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a text: never
	}
	return string(b)
}

// sees waits until a text is to be seen in the dialog on top, or on the page.
func (p *site) sees(text string) {
	p.t.Helper()
	p.Wait("t.text().includes(" + quote(text) + ")")
}

func (p *site) misses(text string) {
	p.t.Helper()
	p.Wait("!t.text().includes(" + quote(text) + ")")
}

// click waits until something with that label can be clicked, and clicks it.
func (p *site) click(label string) {
	p.t.Helper()
	p.Wait("t.find(" + quote(label) + ") && !t.find(" + quote(label) + ").disabled")
	p.do("click", label)
}

// fill waits until there is a field with that label, and writes into it.
func (p *site) fill(label, value string) {
	p.t.Helper()
	p.Wait("t.has(" + quote(label) + ")")
	p.do("fill", label, value)
}

func (p *site) signIn(user, password string) {
	p.t.Helper()
	p.Wait("t.find('Sign in')")
	p.fill("User", user)
	p.fill("Password", password)
	p.click("Sign in")
}

// picture takes a screenshot, for whoever wants to look.
func (p *site) picture(name string) {
	p.t.Helper()
	p.Screenshot(filepath.Join("screenshots", name+".png"))
}

// rows are the cells of the table.
func (p *site) rows() [][]string {
	p.t.Helper()
	return browser.Evaluate[[][]string](p.Page, "t.rows()")
}

// seed makes NSX CSRs beside each other.
func (p *site) seed(n int) {
	p.t.Helper()
	ids := make(chan int)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for i := range ids {
				a, err := p.s.Do(http.MethodPost, fmt.Sprintf("%s/host-%04d?action=create", start.NSXCSRs, i), start.ECSpec(fmt.Sprintf("host-%04d.example.com", i)))
				if err != nil || a.Status != http.StatusCreated {
					p.t.Errorf("%d: %v %d %s", i, err, a.Status, a.Body)
				}
			}
		})
	}
	for i := range n {
		ids <- i
	}
	close(ids)
	workers.Wait()
}

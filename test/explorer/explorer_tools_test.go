//go:build tools

// Package explorer_test uses the API explorer as people do, in a real browser.
package explorer_test

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"attestcsr/test/browser"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

//go:embed tryit.js
var tryIt string

// explorer is the page, and what was tried in it.
type explorer struct {
	*browser.Page
	t     *testing.T
	tried int
}

// how says what is filled in for an operation. The zero value leaves everything as the
// explorer suggests it.
type how struct {
	Parameters map[string]string `json:"parameters,omitempty"`
	Body       any               `json:"body,omitempty"` // text, or the fields of a form
	File       string            `json:"file,omitempty"`
	MediaType  string            `json:"mediaType,omitempty"`
}

// shown is what the explorer says of a request and its answer.
type shown struct {
	Status string `json:"status"`
	Curl   string `json:"curl"`
	Body   string `json:"body"`
}

// try executes an operation, and leaves the answer to answered.
func (e *explorer) try(operation string, with how) {
	e.t.Helper()
	text, err := json.Marshal(with)
	if err != nil {
		e.t.Fatal(err)
	}
	browser.Evaluate[bool](e.Page, fmt.Sprintf("window.answer = tryIt('operations-%s', %s), window.answer.catch(() => {}), true", operation, text))
}

// answered waits for the answer, which has to have the status and the text.
func (e *explorer) answered(status int, text string) {
	e.t.Helper()
	a := browser.Evaluate[shown](e.Page, "window.answer")
	if a.Status != fmt.Sprint(status) || !strings.Contains(a.Body, text) {
		e.t.Errorf("%s: %s %s, want %d and %s", a.Curl, a.Status, a.Body, status, text)
	}
	if strings.Contains(a.Curl, "X-Attestcsr-Console") {
		e.t.Errorf("the header of the page is in what people copy: %s", a.Curl)
	}
	e.tried++
}

// signIn fills in the form that is open, by the keyboard alone.
func (e *explorer) signIn(password string) {
	e.t.Helper()
	e.Wait(`document.getElementById('sign-in').open && document.activeElement.id === 'sign-in-user'`)
	e.Do(chromedp.KeyEvent(start.User), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(password), chromedp.KeyEvent(kb.Enter))
}

const signedIn = `!document.getElementById('sign-in').open && document.getElementById('user').textContent === '` + start.User + `'`

// open starts a service and opens the explorer of it.
func open(t *testing.T) (*start.Instance, *explorer) {
	t.Helper()
	s := start.Serve(t, start.Options{})
	e := &explorer{Page: browser.New(t), t: t}
	e.Watch(s.URL)
	e.Open(s.URL + "/apiexplorer")
	e.Wait(`document.querySelectorAll('.opblock').length > 40`)
	browser.Evaluate[any](e.Page, tryIt)
	return s, e
}

// TestExplorer signs in, which the first request that needs a session asks for, and tries
// operations of every dialect. The page loads nothing from elsewhere, its policy stops
// nothing, and no password box of the browser opens: the browser of this test notices all
// that, as it shows in the end.
func TestExplorer(t *testing.T) {
	t.Parallel()
	s, e := open(t)
	const spec = `{"subject":{"attributes":[{"key":"CN","value":"web"}]},"algorithm":"EC","key_size":256}`

	// Nothing but the document was asked for. The wrong password is told in the page.
	e.try("ESX-createCsr", how{Body: start.ValidSpec})
	e.signIn("wrong")
	e.Wait(`document.getElementById('sign-in-wrong').textContent === 'The user name or the password is wrong.'`)
	e.Do(chromedp.KeyEvent(start.Password), chromedp.KeyEvent(kb.Enter)) // over the wrong one, which is selected
	e.answered(http.StatusCreated, "BEGIN CERTIFICATE REQUEST")
	e.Wait(signedIn)

	id := map[string]string{"id": "rack 1/web%2F"}
	with := func(name, value string) map[string]string { return map[string]string{"id": id["id"], name: value} }
	e.try("NSX-postNsxCsr", how{Parameters: with("action", "create"), Body: spec})
	e.answered(http.StatusCreated, `"id": "rack 1/web%2F"`)
	// A login leaves cookies of another user's session. The explorer's own decides.
	e.try("NSX_sessions-createNsxSession", how{Body: map[string]string{"j_username": start.User, "j_password": start.Password}})
	e.answered(http.StatusOK, "")
	e.try("NSX-getNsxCsr", how{Parameters: id})
	e.answered(http.StatusOK, `"resource_type": "TlsCsr"`)
	e.try("NSX-postNsxCsr", how{Parameters: with("action", "upload"), MediaType: "multipart/form-data", File: issued(t, s, id["id"])})
	e.answered(http.StatusCreated, `"resource_type": "TlsCertificate"`)
	e.try("NSX-deleteNsxCsr", how{Parameters: id})
	e.answered(http.StatusNotFound, "rack 1/web%2F")
	e.try("Signing-sign", how{Parameters: map[string]string{"name": "attestation"}, Body: `{"input":"aGVsbG8="}`})
	e.answered(http.StatusOK, "vault:v1:")
	e.try("Published_keys-getKeySet", how{})
	e.answered(http.StatusOK, `"kid"`)

	// The session ends. The next request asks for another one, and is sent when it is there.
	e.try("ESX_sessions-deleteSession", how{})
	e.answered(http.StatusNoContent, "")
	e.Wait(`document.getElementById('user').textContent === ''`)
	e.try("Signing-listKeys", how{Parameters: map[string]string{"list": "true"}})
	e.signIn(start.Password)
	e.answered(http.StatusOK, "attestation")
	e.Wait(signedIn)

	if n := e.Requests(); n < e.tried+8 {
		t.Errorf("%d requests were watched: those of the page are not among them", n)
	}
	noticed(t, e.Page)
	kit.Count(t, "operations tried in the explorer", e.tried)
}

// issued is the certificate of a CA for a CSR of the NSX dialect.
func issued(t *testing.T, s *start.Instance, id string) string {
	t.Helper()
	request, err := kit.ParseCSR(s.Must(http.StatusOK, http.MethodGet, start.NSXCSRs+"/"+strings.NewReplacer("%", "%25", "/", "%2F", " ", "%20").Replace(id)+"/pem-file", ""))
	if err != nil {
		t.Fatal(err)
	}
	return kit.PEM(kit.NewCA(t, "CA", time.Now()).Issue(t, "web", request.PublicKey))
}

// noticed plants what the browser is there to notice.
func noticed(t *testing.T, p *browser.Page) {
	t.Helper()
	for _, each := range p.Wrong() {
		t.Error(each)
	}
	for _, test := range []struct{ script, says string }{
		{`fetch('/api/esx/attestation/certificate/csr')`, "the browser asks for a password"},
		{`document.body.setAttribute('style', 'color: red')`, "the policy stops style-src-attr"},
		{`document.body.insertAdjacentHTML('beforeend', '<img src="https://127.0.0.1:1/x">')`, "the policy stops img-src"},
		{`setTimeout(() => { throw new Error('planted') })`, "a script throws: Error: planted"},
		{`location.assign('https://127.0.0.1:1/')`, "a request to https://127.0.0.1:1/"},
	} {
		browser.Evaluate[bool](p, "void "+test.script+", true")
		found := ""
		if !kit.Until(func() bool { found += strings.Join(p.Wrong(), "\n"); return strings.Contains(found, test.says) }) {
			t.Errorf("%s: %q, want %q", test.script, found, test.says)
		}
	}
}

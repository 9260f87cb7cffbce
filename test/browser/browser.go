// Package browser has a real browser for tests.
package browser

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Page is the only page of a browser that has a profile of its own.
type Page struct {
	Context context.Context // of chromedp
	t       *testing.T

	mu       sync.Mutex
	origin   string // of Watch
	requests int
	wrong    []string
}

// New starts Chromium, which believes every certificate.
func New(t *testing.T) *Page {
	t.Helper()
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.IgnoreCertErrors, chromedp.Flag("disable-gpu", true))...)
	t.Cleanup(cancel)
	page, closePage := chromedp.NewContext(allocator)
	t.Cleanup(closePage)
	return &Page{Context: page, t: t}
}

// Do runs actions of chromedp.
func (p *Page) Do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.Context, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// Open goes to an address and waits until it is loaded.
func (p *Page) Open(address string) {
	p.t.Helper()
	if err := chromedp.Do(p.Context, chromedp.Navigate(address)); err != nil {
		p.t.Fatalf("%s: %v", address, err)
	}
}

// Evaluate runs a script, which may be a promise, in the page that is open.
func Evaluate[T any](p *Page, script string) T {
	p.t.Helper()
	result, err := chromedp.Run(p.Context, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	return result
}

// Wait waits until an expression is true in the page.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if Evaluate[bool](p, "Boolean("+expression+")") {
			return
		}
	}
	p.t.Fatalf("it never becomes true: %s\n%s", expression, Evaluate[string](p, "document.body.innerText"))
}

// Screenshot writes a picture of what is to be seen.
func (p *Page) Screenshot(file string) {
	p.t.Helper()
	picture, err := chromedp.Run(p.Context, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o750)
	}
	if err == nil {
		err = os.WriteFile(file, picture, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Watch has the test fail where, from now on, the page asks any other origin for
// something, the browser wants to ask for a password by itself, the policy of the page
// stops something, or a script throws.
func (p *Page) Watch(origin string) {
	p.t.Helper()
	p.origin = origin
	p.Do() // opens the page, so that there is something to listen to
	err := chromedp.Listen(p.Context, p.see)
	if err == nil {
		_, err = chromedp.Call(p.Context, audits.Enable, cdp.Empty{})
	}
	if err == nil {
		handle := true
		_, err = chromedp.Call(p.Context, fetch.Enable, fetch.EnableParams{HandleAuthRequests: &handle})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		for _, each := range p.Wrong() {
			p.t.Error(each)
		}
	})
}

// Wrong is what the watched page did wrong since the last call.
func (p *Page) Wrong() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	wrong := p.wrong
	p.wrong = nil
	return wrong
}

// Requests is how many requests the watched page has sent.
func (p *Page) Requests() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// see must not wait: the answers to paused requests go out on goroutines of their own.
func (p *Page) see(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *fetch.EventRequestPaused:
		p.requests++
		if url := e.Request.URL; !strings.HasPrefix(url, p.origin+"/") && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "blob:"+p.origin+"/") {
			p.wrong = append(p.wrong, "a request to "+url)
		}
		go func() {
			_, _ = chromedp.Call(p.Context, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID}) // the page may be gone
		}()
	case *fetch.EventAuthRequired:
		p.wrong = append(p.wrong, "the browser asks for a password for "+e.Request.URL)
		go func() {
			_, _ = chromedp.Call(p.Context, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{
				RequestID: e.RequestID, AuthChallengeResponse: &fetch.AuthChallengeResponse{Response: fetch.AuthChallengeResponseResponseCancelAuth},
			})
		}()
	case *audits.EventIssueAdded:
		if d := e.Issue.Details.ContentSecurityPolicyIssueDetails; d != nil {
			p.wrong = append(p.wrong, fmt.Sprintf("the policy stops %s: %+v", d.ViolatedDirective, d))
		}
	case *runtime.EventExceptionThrown:
		p.wrong = append(p.wrong, "a script throws: "+thrown(e.ExceptionDetails))
	}
}

func thrown(d *runtime.ExceptionDetails) string {
	if d.Exception != nil {
		return d.Exception.Description
	}
	return d.Text
}

//go:build tools

package page_test

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/browser"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

//go:embed vendor/axe.min.js.gz
var axe []byte

// TestPage is what people do with the page, one after the other in one browser.
func TestPage(t *testing.T) {
	t.Parallel()
	p := open(t)
	p.Do(chromedp.EmulateViewport(1280, 1000))
	views := 0
	for _, step := range []struct {
		name string
		do   func(*site)
	}{
		{"sign in", signIn},
		{"first view", firstView},
		{"each error at its field", errorsAtFields},
		{"a certificate by paste", setByPaste},
		{"a certificate by drop", setByDrop},
		{"objects of NSX", objects},
		{"a table of many", manyObjects},
		{"trail", trail},
		{"charts", charts},
		{"hostile texts", hostile},
		{"an expired session in a form", expired},
		{"who may read only", readOnly},
		{"dark, and on a phone", darkAndSmall},
		{"by keyboard alone", keyboard},
	} {
		ok := t.Run(step.name, func(t *testing.T) { //nolint:paralleltest // one browser
			p.t = t
			step.do(p)
			views++
		})
		if !ok {
			p.picture("failed")
			t.Fatalf("%s: screenshots/failed.png has the page", step.name)
		}
	}
	kit.Count(t, "things done with the page", views)
}

func signIn(p *site) {
	p.load("")
	p.sees("Sign in")
	p.accessible("sign-in")
	p.signIn(start.User, "wrong")
	p.sees("User or password is wrong.")
	p.signIn(start.User, start.Password)
	p.sees("The service made this one at its first start.")
	p.sees("No CSR is pending.")
	if stored := browser.Evaluate[int](p.Page, "localStorage.length + sessionStorage.length + document.cookie.length"); stored != 0 {
		p.t.Error("a script of the page can read what keeps the session")
	}
}

// firstView has a bound on what a browser fetches before there is something to see.
func firstView(p *site) {
	const maxRequests, maxBytes = 6, 150_000
	p.load("")
	p.sees("What happened last")
	type sizes struct{ Requests, Bytes int }
	got := browser.Evaluate[sizes](p.Page, `(() => {
		const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
		return { Requests: all.length, Bytes: all.reduce((sum, e) => sum + e.encodedBodySize, 0) };
	})()`)
	p.t.Logf("the first view takes %d requests and %d bytes", got.Requests, got.Bytes)
	if got.Requests > maxRequests || got.Bytes > maxBytes || got.Bytes < 10_000 {
		p.t.Errorf("the first view takes %d requests and %d bytes, at most %d and %d", got.Requests, got.Bytes, maxRequests, maxBytes)
	}
	p.accessible("overview-first-start")
}

func errorsAtFields(p *site) {
	p.click("New CSR")
	p.sees("A fresh key is made for it.")
	p.accessible("new-csr")
	wrong := map[string]string{
		"Common name": strings.Repeat("x", 65), "Organization": strings.Repeat("x", 65), "Organization unit": strings.Repeat("x", 65),
		"Locality": strings.Repeat("x", 129), "State or province": "a\u0007b", "Country": "QQ", "E-mail address": "nobody", "Alternative names": "*.example.com",
	}
	for label, value := range wrong {
		p.fill(label, value)
	}
	p.click("Make the CSR")
	p.Wait("document.querySelectorAll('[aria-invalid]').length === " + strconv.Itoa(len(wrong)))
	for label := range wrong {
		if p.ask("error", label) == "" {
			p.t.Errorf("no error at %s", label)
		}
	}
	p.accessible("new-csr-errors")
	if focused := browser.Evaluate[string](p.Page, "document.activeElement.name"); focused != "common_name" {
		p.t.Errorf("the focus is on %q", focused)
	}
	for label := range wrong {
		p.fill(label, "")
	}
	p.fill("Organization", "Example Ltd")
	p.fill("Alternative names", "esx-01.example.com\n 192.0.2.7 \n")
	p.click("Make the CSR")
	p.sees("waits for its certificate")
	p.sees("O=Example Ltd")
	p.sees("esx-01.example.com, 192.0.2.7")
}

// issue has a CA sign the pending CSR.
func (p *site) issue(ca *kit.CA) string {
	p.t.Helper()
	var pending struct{ CSR string }
	if err := json.Unmarshal([]byte(p.s.Must(200, "GET", start.CSRPath, "")), &pending); err != nil {
		p.t.Fatal(err)
	}
	key, err := pkcs10.PublicKey(pending.CSR)
	if err != nil {
		p.t.Fatal(err)
	}
	return kit.PEM(ca.Issue(p.t, "esx-01.example.com", key), ca.Cert)
}

func newCA(p *site) *kit.CA { return kit.NewCA(p.t, "Example CA", time.Now()) }

func setByPaste(p *site) {
	ca := newCA(p)
	p.click("Set a certificate")
	p.sees("Drop a file here")
	other := kit.PEM(ca.Issue(p.t, "other", kit.NewKey(p.t).Public()))
	p.fill("Certificate in PEM", other)
	p.sees("would be refused")
	p.accessible("set-refused")
	chain := p.issue(ca)
	p.fill("Certificate in PEM", chain)
	p.sees("would be accepted")
	p.sees("It answers the pending CSR")
	p.accessible("set-accepted")
	p.click("Set this certificate")
	p.sees("Chain of 2")
	p.sees("No CSR is pending.")
	if !strings.Contains(p.s.Must(200, "GET", start.CertificatePath, ""), strings.ReplaceAll(strings.TrimSpace(chain), "\n", `\n`)) {
		p.t.Error("another certificate is installed")
	}
	p.click("Chain of 2")
	p.click("PEM text")
	p.accessible("overview")
}

func setByDrop(p *site) {
	p.s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	p.load("")
	p.sees("waits for its certificate")
	p.accessible("overview-pending")
	p.do("drop", "chain.pem", p.issue(newCA(p)))
	p.sees("would be accepted")
	p.sees("warning")
	p.click("Set this certificate")
	p.sees("No CSR is pending.")
	p.s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	p.load("")
	p.click("Delete")
	p.sees("Its private key is destroyed.")
	p.accessible("delete-confirmed")
	p.click("Delete it")
	p.sees("No CSR is pending.")
	p.s.Must(404, "GET", start.CSRPath, "")
}

// accessible looks for what people with a screen reader, or who see badly, cannot use.
func (p *site) accessible(name string) {
	p.t.Helper()
	p.picture(name)
	source, err := gzip.NewReader(bytes.NewReader(axe))
	if err != nil {
		p.t.Fatal(err)
	}
	library, err := io.ReadAll(source)
	if err != nil {
		p.t.Fatal(err)
	}
	if !browser.Evaluate[bool](p.Page, "Boolean(globalThis.axe)") {
		browser.Evaluate[bool](p.Page, string(library)+"\ntrue")
	}
	found := browser.Evaluate[[]string](p.Page, `axe.run(document, { resultTypes: ['violations'] }).then((r) => r.violations
		.filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('\n')))`)
	for _, each := range found {
		p.t.Errorf("%s: %s", name, each)
	}
}

func (p *site) scheme(value string) {
	p.t.Helper()
	_, err := chromedp.Call(p.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

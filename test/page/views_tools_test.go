//go:build tools

package page_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"attestcsr/test/browser"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// objects makes, imports, self-signs and deletes objects of NSX.
func objects(p *site) {
	p.load("#/csrs")
	p.sees("There are no CSRs.")
	p.accessible("nsx-empty")
	p.click("New CSR")
	p.fill("Common name", strings.Repeat("x", 65))
	p.fill("Id", "web/1")
	p.fill("Key", "EC 256")
	p.click("Make the CSR")
	p.Wait("t.error('Common name') !== ''")
	p.accessible("nsx-new-error")
	p.fill("Common name", "web-1.example.com")
	p.fill("Alternative names", "web-1.example.com\n192.0.2.8")
	p.click("Make the CSR")
	p.sees("1 to 1 of 1")
	p.click("New CSR")
	p.fill("Id", "web/1")
	p.fill("Common name", "again")
	p.click("Make the CSR")
	p.Wait("t.error('Id').includes('exists already')")
	p.click("Cancel")

	p.click("web/1")
	p.sees("web-1.example.com, 192.0.2.8")
	p.accessible("nsx-csr")
	p.click("Import a certificate")
	ca := newCA(p)
	p.fill("Certificate in PEM", kit.PEM(ca.Issue(p.t, "other", kit.NewKey(p.t).Public())))
	p.sees("would be refused")
	p.click("Cancel")
	p.click("Self-sign")
	p.fill("Days valid", "20")
	p.Do(chromedp.KeyEvent(kb.Enter)) // the form is sent as forms are
	p.sees("There are no CSRs.")

	p.load("#/certificates")
	p.sees("19 days left")
	p.click("New self-signed certificate")
	p.fill("Common name", "long")
	p.fill("Display name", "long")
	p.fill("Key", "EC 256")
	p.click("Make the certificate")
	p.sees("1 to 2 of 2")
	p.click("Left")
	p.Wait("t.rows()[0][3] === '19 days left'")
	p.click("Left")
	p.Wait("t.rows()[0][0].startsWith('long')")
	p.accessible("nsx-certificates")
	p.click("long")
	p.sees("SHA-256")
	p.accessible("nsx-certificate")
	p.click("Delete")
	p.click("Delete it")
	p.sees("1 to 1 of 1")
}

func manyObjects(p *site) {
	const many = 5000
	p.seed(many)
	p.s.Must(201, "POST", start.NSXCSRs+"/zz?action=create", strings.Replace(start.ECSpec("zz"), "{", `{"display_name":"host-4 by name",`, 1))
	p.load("#/csrs")
	p.sees("1 to 50 of 5,001")
	first := func(cells ...string) {
		p.t.Helper()
		p.Wait(fmt.Sprintf("t.rows().slice(0, %d).map((r) => r[0]).join() === %s", len(cells), quote(strings.Join(cells, ","))))
	}
	first("host-0000", "host-0001")
	p.click("Next")
	p.sees("51 to 100 of 5,001")
	first("host-0050", "host-0051")
	p.accessible("nsx-many")
	p.click("Previous")
	first("host-0000")
	p.click("Name")
	first("host-4999", "host-4998")
	p.fill("Search", "host-49")
	p.sees("1 to 50 that begin so, among 5,001")
	first("host-4900", "host-4901")
	p.click("Next")
	p.sees("51 to 100 that begin so")
	p.fill("Search", "host-4")
	p.fill("Search", "host-4 ")
	p.sees("1 to 1 that begin so")
	first("host-4 by name zz")
	p.fill("Search", "nothing")
	p.sees("No name and no id begins so.")
	p.accessible("nsx-none")
	p.fill("Search", "")
	p.sees("1 to 50 of 5,001")
}

func trail(p *site) {
	p.load("#/trail")
	p.sees("50 lines")
	p.click("Older lines")
	p.sees("100 lines")
	filter := func(who, what, object string) {
		p.fill("Who", who)
		p.fill("What", what)
		p.fill("Object", object)
		p.click("Filter")
	}
	filter("", "csr.create", "nsx/csrs/zz")
	p.sees("1 line")
	if rows := p.rows(); len(rows) != 1 || !strings.Contains(strings.Join(rows[0], " "), "named_csr.create done nsx/csrs/zz") {
		p.t.Errorf("%q", rows)
	}
	filter(start.User, "refusal", "")
	p.sees("wrong password")
	p.accessible("trail")
	filter("", "certificate.set", "esx")
	p.sees("2 lines")
	filter("nobody has this name", "", "")
	p.sees("0 lines, and no more")
	p.sees("No line says so.")
	p.accessible("trail-none")
}

func charts(p *site) {
	p.load("#/load")
	p.Wait("document.querySelectorAll('.plot canvas').length === 12")
	p.Wait("/\\d+ MB/.test(t.text())")
	p.accessible("load")
}

// hostile has every text that somebody can store in a form that a page could take for
// something else.
func hostile(p *site) {
	const markup = `<img src=x onerror=alert(1)><script>alert(2)</script>`
	id := "%3Cb%3E%22%27%26%E2%80%AE" // <b>"'& and a character that turns the text around
	p.s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", `{"subject":{"attributes":[{"key":"CN","value":"<b>cn</b>"},{"key":"O","value":"<svg onload=alert(3)>"}]},"algorithm":"EC","key_size":256,`+
		`"display_name":"`+markup+`","description":"`+markup+`","tags":[{"scope":"<i>scope","tag":"</dd><script>alert(4)</script>"}]}`)
	p.s.Must(201, "POST", start.CSRPath, `{"common_name":"<b>host","organization":"<img src=x onerror=alert(5)>","organization_unit":"&lt;","locality":"\"'><script>","state_or_province":"","country":"US","email_address":""}`)
	p.s.Must(403, "GET", "/console/trail", "", start.As(viewer, viewerPassword))

	p.load("#/csrs")
	p.sees("of 5,002")
	p.fill("Search", "<")
	p.sees(markup)
	p.sees(`<b>"'&\u202e`)
	p.click(markup)
	p.sees("O=\\<svg onload=alert(3)\\>")
	p.sees("<i>scope: </dd><script>alert(4)</script>")
	p.accessible("hostile-csr")
	p.load("")
	p.sees("O=\\<img src=x onerror=alert(5)\\>")
	p.accessible("hostile-overview")
	p.load("#/trail")
	p.sees("50 lines")
	p.fill("Who", viewer)
	p.click("Filter")
	p.sees(viewer)
	p.sees("not allowed")
	if made := browser.Evaluate[int](p.Page, "document.querySelectorAll('main :is(img, script, svg, b, i, iframe)').length"); made != 0 {
		p.t.Errorf("%d elements came from stored texts", made)
	}
	p.s.Must(204, "DELETE", start.CSRPath, "")
}

// expired ends the session from another tab while a form is being filled in.
func expired(p *site) {
	p.load("")
	p.click("New CSR")
	p.fill("Organization", "Written before the session ended")
	second, closeTab := chromedp.NewContext(p.Context)
	defer closeTab()
	if err := chromedp.Do(second, chromedp.Navigate(p.s.URL+"/")); err != nil {
		p.t.Fatal(err)
	}
	const signOut = `new Promise((done) => { const poll = setInterval(() => {
		const button = [...document.querySelectorAll('button')].find((b) => b.textContent === 'Sign out');
		if (button) { clearInterval(poll); button.click(); const left = setInterval(() => { if (document.querySelector('input[type=password]')) { clearInterval(left); done(true); } }, 20); }
	}, 20); })`
	if _, err := chromedp.Run(second, chromedp.Evaluate[bool](signOut, chromedp.EvalAwaitPromise)); err != nil {
		p.t.Fatal(err)
	}
	p.click("Make the CSR")
	p.sees("Your session has ended.")
	p.accessible("expired")
	p.fill("Password", start.Password)
	p.click("Sign in")
	p.sees("O=Written before the session ended")
	p.click("Sign out")
	p.sees("Keys and certificates of this host.")
}

// readOnly is a user who is offered nothing that changes something, and is refused it.
func readOnly(p *site) {
	p.load("")
	p.signIn(viewer, viewerPassword)
	p.sees("Written before the session ended")
	p.sees("Chain of 2")
	p.accessible("read-only")
	if offered := browser.Evaluate[[]string](p.Page, "[...document.querySelectorAll('main button, nav a')].map((b) => b.textContent)"); !slices.Equal(offered, []string{"Overview", "NSX CSRs", "NSX certificates", "Load", "Copy", "Save .pem", "Save .der", "Copy", "Save .csr", "Save .der"}) {
		p.t.Errorf("it offers %q", offered)
	}
	status := browser.Evaluate[int](p.Page, `fetch('`+start.CSRPath+`', { method: 'DELETE', headers: { 'X-Attestcsr-Console': '1' } }).then((r) => r.status)`)
	if status != 403 {
		p.t.Errorf("a deletion is answered with %d", status)
	}
	p.load("#/csrs")
	p.sees("1 to 50")
	if browser.Evaluate[bool](p.Page, "Boolean(t.find('New CSR'))") {
		p.t.Error("it offers a CSR")
	}
	p.click("Sign out")
}

// darkAndSmall looks at the views in the dark and at a width of 360 pixels.
func darkAndSmall(p *site) {
	p.load("")
	p.signIn(start.User, start.Password)
	p.sees("What happened last")
	for _, scheme := range []string{"dark", "light"} {
		p.scheme(scheme)
		for _, size := range []struct {
			name          string
			width, height int64
		}{{"wide", 1280, 1000}, {"phone", 360, 740}} {
			p.Do(chromedp.EmulateViewport(size.width, size.height))
			for view, says := range map[string]string{"": "What happened last", "#/certificates": "1 to 1 of 1", "#/trail": "50 lines", "#/load": "MB"} {
				if scheme == "light" && size.name == "wide" || scheme == "dark" && size.name == "phone" && view != "" {
					continue // others look at these: the colours are those of dark, the places those of a phone
				}
				p.load(view)
				p.sees(says)
				p.accessible(strings.Join([]string{scheme, size.name, strings.TrimPrefix(view, "#/")}, "-"))
				if over := browser.Evaluate[int](p.Page, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
					p.t.Errorf("%q in %s, %s: %d pixels do not fit", view, scheme, size.name, over)
				}
			}
		}
	}
	p.load("")
	p.click("Replace it by a new CSR")
	p.sees("This replaces the pending CSR")
	p.accessible("light-phone-form")
	p.Do(chromedp.EmulateViewport(1280, 1000))
}

// keyboard makes a CSR of NSX and signs out without a pointer.
func keyboard(p *site) {
	press := func(keys string) { p.t.Helper(); p.Do(chromedp.KeyEvent(keys)) }
	// reach goes to what has a label, as somebody who only hears or sees the focus does.
	reach := func(label string) {
		p.t.Helper()
		for range 80 {
			press(kb.Tab)
			if browser.Evaluate[string](p.Page, "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.labels?.[0]?.firstChild.textContent ?? document.activeElement.textContent).trim()") == label {
				if !browser.Evaluate[bool](p.Page, "getComputedStyle(document.activeElement).outlineStyle !== 'none'") {
					p.t.Errorf("nobody sees that %s has the focus", label)
				}
				return
			}
		}
		p.t.Fatalf("the Tab key never gets to %s", label)
	}
	p.load("#/csrs")
	p.sees("of 5,002")
	reach("New CSR")
	press(kb.Enter)
	p.sees("It names the CSR for ever.")
	press("by-keyboard")
	reach("Common name")
	press("keys.example.com")
	reach("Key")
	press("EC P-2")
	reach("Make the CSR")
	press(kb.Enter)
	p.misses("It names the CSR for ever.")
	p.sees("of 5,003")
	reach("Search by the beginning of a name or id; letter case counts")
	press("by-key")
	p.sees("1 to 1 that begin so")
	reach("by-keyboard")
	press(kb.Enter)
	p.Wait("document.querySelector('dialog[open]')")
	p.sees("keys.example.com")
	press(kb.Escape)
	p.Wait("!document.querySelector('dialog')")
	if back := browser.Evaluate[string](p.Page, "document.activeElement.textContent"); back != "by-keyboard" {
		p.t.Errorf("the focus is on %q, not where the dialog was opened", back)
	}
	p.load("")
	p.sees("What happened last")
	press(kb.Tab)
	if first := browser.Evaluate[string](p.Page, "document.activeElement.textContent"); first != "Skip to the content" {
		p.t.Errorf("the first stop is %q", first)
	}
	reach("Sign out")
	press(kb.Enter)
	p.sees("Keys and certificates of this host.")
}

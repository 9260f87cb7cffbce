package auth_test

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/handler/auth"
)

// FuzzSessionHeaders: whatever headers a request has, it belongs to a session only
// where it carries that session's id in the way that the dialect has, and once;
// in a cookie, a change needs the token of that session beside it. Everything else
// is refused with a *csr.Error, and without anybody's name.
func FuzzSessionHeaders(f *testing.F) {
	a := newAuth(auth.Config{Users: usersOf(f, "amy", "secret", "bob", "hidden")})
	ofESX, ofNSX, other := begin(f, a, "amy", "secret", esx), begin(f, a, "amy", "secret", nsx), begin(f, a, "bob", "hidden", nsx)
	// The fuzzer cannot find ids by itself: it moves these words around.
	secrets := strings.NewReplacer("ESX", ofESX.Session, "NSX", ofNSX.Session, "TOKEN", ofNSX.XSRF, "OTHER", other.XSRF)
	for _, seed := range []string{
		"vmware-api-session-id: ESX", "vmware-api-session-id:ESX\r\nvmware-api-session-id: x", "Cookie: vmware-api-session-id=ESX", "cookie: a=b; vmware-api-session-id=\"ESX\"",
		"vmware-api-session-id: NSX", "Cookie: JSESSIONID=NSX", "Cookie: JSESSIONID=NSX\r\nX-XSRF-TOKEN: TOKEN", "Cookie: JSESSIONID=NSX\r\nX-XSRF-TOKEN: OTHER", "Cookie: JSESSIONID=NSX\r\nX-XSRF-TOKEN: TOKEN\r\nX-XSRF-TOKEN: TOKEN",
		"Cookie: JSESSIONID=NSX; JSESSIONID=NSX", "Cookie: JSESSIONID=x\r\nCookie: JSESSIONID=NSX", "Authorization: Bearer x\r\nCookie: JSESSIONID=NSX", "Authorization: Basic Og==\r\nvmware-api-session-id: ESX", "vmware-api-session-id:\r\nCookie: vmware-api-session-id=ESX",
		"Authorization:\r\nvmware-api-session-id: ESX", "vmware-api-session-id: ESX ", "JSESSIONID: NSX", "",
	} {
		f.Add(seed, true, false)
		f.Add(seed, false, true)
		f.Add(seed, true, true)
	}
	f.Fuzz(func(t *testing.T, headers string, change, isNSX bool) {
		method, realm, id := http.MethodGet, esx, ofESX.Session
		if change {
			method = http.MethodDelete
		}
		if isNSX {
			realm, id = nsx, ofNSX.Session
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(method + " / HTTP/1.1\r\nHost: h\r\n" + secrets.Replace(headers) + "\r\n\r\n")))
		if err != nil {
			return
		}
		caller, err := a.Authenticate(t.Context(), r, from(here), realm)
		if err != nil {
			e := (*csr.Error)(nil)
			if !errors.As(err, &e) || e.Kind != csr.Unauthenticated && (e.Kind != csr.Forged || !isNSX || !change) {
				t.Fatalf("%v", err)
			}
			if caller.User != "" {
				t.Fatal("a caller beside an error")
			}
			if strings.Contains(err.Error(), id) || strings.Contains(err.Error(), ofNSX.XSRF) {
				t.Fatal("the error quotes a secret")
			}
			return
		}
		inHeader, inCookies := r.Header.Values("vmware-api-session-id"), strings.Count(strings.Join(r.Header.Values("Cookie"), ";"), id)
		switch {
		case caller.User != "amy" || caller.Method != "session" || len(r.Header["Authorization"]) > 0:
			t.Fatalf("%+v by %q", caller, headers)
		case !isNSX && len(inHeader) > 0 && (len(inHeader) > 1 || inHeader[0] != id):
			t.Fatalf("by the headers %q", inHeader)
		case (isNSX || len(inHeader) == 0) && inCookies < 1:
			t.Fatalf("without a cookie: %q", headers)
		}
		if tokens := r.Header.Values("X-XSRF-TOKEN"); isNSX && change && (len(tokens) != 1 || tokens[0] != ofNSX.XSRF) {
			t.Fatalf("a change with the tokens %q", tokens)
		}
	})
}

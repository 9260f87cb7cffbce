package auth_test

import (
	"net/http"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
)

// The session of the service's own pages counts in every realm, with their header alone.
// Where that header is, it decides before other cookies, and after credentials in headers.
func TestConsole(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret", "bob", "hidden", "con", "sole")})
	begin := func(user, password string, realm auth.Realm) auth.Login {
		made, err := a.LoginPassword(t.Context(), user, password, from(here), realm)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	made := begin("con", "sole", auth.Console())
	var (
		page      = "X-Attestcsr-Console: 1"
		cookie    = "Cookie: __Host-attestcsr-console=" + made.Session
		esxID     = begin("bob", "hidden", esx).Session
		esxHeader = "vmware-api-session-id: " + esxID
		esxCookie = "Cookie: vmware-api-session-id=" + esxID
		bob       = begin("bob", "hidden", nsx)
		nsxCookie = "Cookie: JSESSIONID=" + bob.Session
		token     = "X-Vault-Token: " + begin("bob", "hidden", tokens).Session
	)
	if made.XSRF != "" {
		t.Error("a session with an XSRF token")
	}
	var cases []authCase
	for name, realm := range map[string]auth.Realm{"esx": esx, "nsx": nsx, "transit": tokens, "console": auth.Console()} {
		cases = append(cases, []authCase{
			{name, "GET", []string{page, cookie}, realm, "con by session"},
			{name + ", write", "POST", []string{page, cookie}, realm, "con by session"},
			{name + ", write with a token of NSX", "POST", []string{page, cookie, "X-XSRF-TOKEN: " + bob.XSRF}, realm, "con by session"},
			{name + ", beside other cookies", "GET", []string{page, esxCookie, nsxCookie, cookie}, realm, "con by session"},
			{name + ", before a cookie of nobody", "GET", []string{page, cookie, "Cookie: JSESSIONID=x; vmware-api-session-id=x"}, realm, "con by session"},
			{name + ", no header", "GET", []string{cookie}, realm, "unauthenticated"},
			{name + ", another value", "GET", []string{"X-Attestcsr-Console: true", cookie}, realm, "unauthenticated"},
			{name + ", empty header", "GET", []string{"X-Attestcsr-Console: ", cookie}, realm, "unauthenticated"},
			{name + ", two headers", "GET", []string{page, page, cookie}, realm, "unauthenticated"},
			{name + ", two cookies", "GET", []string{page, cookie, cookie}, realm, "unauthenticated"},
			{name + ", other cookies alone", "GET", []string{page, esxCookie, nsxCookie}, realm, "unauthenticated"},
			{name + ", sessions of others in the cookie", "GET", []string{page, "Cookie: __Host-attestcsr-console=" + esxID}, realm, "unauthenticated"},
			{name + ", its id in the cookies of others", "GET", []string{page, "Cookie: vmware-api-session-id=" + made.Session + "; JSESSIONID=" + made.Session}, realm, "unauthenticated"},
			{name + ", its id in a header", "GET", []string{page, "vmware-api-session-id: " + made.Session}, realm, "unauthenticated"},
			{name + ", its id as a token", "GET", []string{page, "X-Vault-Token: " + made.Session}, realm, "unauthenticated"},
			{name + ", beside a wrong password", "GET", []string{page, cookie, esxCookie, basic("bob", "wrong")}, realm, "unauthenticated"},
			{name + ", beside an empty Authorization", "GET", []string{page, cookie, nsxCookie, "Authorization: "}, realm, "unauthenticated"},
			{name + ", beside a bad session", "GET", []string{page, cookie, esxCookie, nsxCookie, "vmware-api-session-id: x"}, realm, "unauthenticated"},
			{name + ", beside a bad token", "GET", []string{page, cookie, esxCookie, nsxCookie, "X-Vault-Token: x"}, realm, "unauthenticated"},
		}...)
	}
	cases = append(cases, []authCase{
		{"esx, after a password", "GET", []string{page, cookie, basic("amy", "secret")}, esx, "amy by basic"},
		{"nsx, after a password", "POST", []string{page, cookie, basic("amy", "secret")}, nsx, "amy by basic"},
		{"esx, after a session in the header", "GET", []string{page, cookie, esxHeader}, esx, "bob by session"},
		{"nsx, beside a session that does not count there", "GET", []string{page, cookie, nsxCookie, esxHeader}, nsx, "unauthenticated"},
		{"transit, after a token", "GET", []string{page, cookie, token}, tokens, "bob by session"},
		{"transit, after a bearer", "GET", []string{page, cookie, "Authorization: Bearer x"}, tokens, "unauthenticated"},
		{"esx, beside a token", "GET", []string{page, cookie, esxCookie, token}, esx, "unauthenticated"},
	}...)
	authenticateEach(t, a, cases)
}

// A logout ends it in whichever dialect, and needs the header.
func TestConsoleLogout(t *testing.T) {
	t.Parallel()
	a := newAuth(auth.Config{Users: usersOf(t, "con", "sole")})
	made, err := a.LoginPassword(t.Context(), "con", "sole", from(here), auth.Console())
	if err != nil {
		t.Fatal(err)
	}
	page, cookie := "X-Attestcsr-Console: 1", "Cookie: __Host-attestcsr-console="+made.Session
	// The id is for the browser alone.
	if id := auth.SessionID(request(page, cookie), tokens); id != "" {
		t.Errorf("it tells the id %q", id)
	}
	if _, err := a.Logout(request(cookie), from(here), auth.Console()); err == nil {
		t.Error("a logout without the header")
	}
	for _, realm := range []auth.Realm{auth.Console(), nsx} {
		if _, err := a.Session(request(page, cookie), audit.Request{}, realm); err != nil {
			t.Errorf("it has ended: %v", err)
		}
	}
	if ended, err := a.Logout(request(page, cookie), from(here), esx); err != nil || ended.User != "con" {
		t.Errorf("logout in another dialect: %v, %v", ended, err)
	}
	if _, err := a.Session(request(page, cookie), audit.Request{}, auth.Console()); err == nil {
		t.Error("it goes on after a logout")
	}
	for value, is := range map[string]bool{"1": true, "01": false, "": false} {
		if auth.FromConsole(&http.Request{Header: http.Header{auth.ConsoleHeader: {value}}}) != is {
			t.Errorf("%q is from the console: want %v", value, is)
		}
	}
}

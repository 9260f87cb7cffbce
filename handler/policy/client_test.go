package policy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/handler/client"
	"attestcsr/handler/policy"
	"attestcsr/test/kit"
)

// serve starts a server that is not ours, and returns a client with a session of it.
func serve(t *testing.T, handle http.HandlerFunc) *policy.Client {
	t.Helper()
	nsx := policy.NewClient(kit.ForeignServer(t, handle))
	nsx.Use(client.Session{ID: "session", XSRF: "token"}, nil)
	return nsx
}

// TestClientRequests: what is sent is what the API of the vendor's product documents.
func TestClientRequests(t *testing.T) {
	t.Parallel()
	var got []string
	nsx := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, 4096)
		n, _ := r.Body.Read(body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body[:n])))
		if r.Header.Get("Cookie") != "JSESSIONID=session" || r.Header.Get("X-XSRF-TOKEN") != "token" {
			t.Errorf("%s: without the session: %v", r.URL, r.Header)
		}
		_, _ = fmt.Fprint(w, `{"id": "x", "key_size": "2048", "member_of_another_version": []}`)
	})
	const root = "/policy/api/v1/infra"
	ctx := t.Context()
	spec := policy.NewCSR{
		Subject: policy.NewSubject{Attributes: []policy.NewAttribute{{"CN", "a"}, {"O", "b"}}}, KeySize: 3072, Algorithm: "RSA",
		Extensions: &policy.NewExtensions{AltNames: policy.NewAltNames{DNSNames: []string{"a"}, IPAddresses: []string{"::1"}}},
	}
	for _, call := range []struct {
		want string
		do   func() (policy.Object, error)
	}{
		{
			"POST " + root + `/csrs/a%2Fb?action=create {"subject":{"attributes":[{"key":"CN","value":"a"},{"key":"O","value":"b"}]},"key_size":"3072","algorithm":"RSA","is_ca":false,` +
				`"extensions":{"subject_alt_names":{"dns_names":["a"],"ip_addresses":["::1"]}}}`,
			func() (policy.Object, error) { return nsx.CreateCSR(ctx, "a/b", spec) },
		},
		{"POST " + root + `/csrs/%C3%BC?action=import {"pem_encoded":"PEM"}`, func() (policy.Object, error) { return nsx.Import(ctx, "ü", "PEM") }},
		{"POST " + root + `/csrs/x?action=self_sign`, func() (policy.Object, error) { return nsx.SelfSign(ctx, "x", 0) }},
		{"POST " + root + `/csrs/x?action=self_sign&days_valid=7`, func() (policy.Object, error) { return nsx.SelfSign(ctx, "x", 7) }},
		{"GET " + root + `/certificates/x%3Fy`, func() (policy.Object, error) { return nsx.Get(ctx, policy.Certificates, "x?y") }},
		{"DELETE " + root + `/csrs/x`, func() (policy.Object, error) { return policy.Object{ID: "x"}, nsx.Delete(ctx, policy.CSRs, "x") }},
		{"GET /api/session/destroy", func() (policy.Object, error) { return policy.Object{ID: "x"}, nsx.Logout(ctx) }},
	} {
		got = nil
		if o, err := call.do(); err != nil || o.ID != "x" || !slices.Equal(got, []string{call.want}) {
			t.Errorf("%v, %+v; sent %q, want %q", err, o, got, call.want)
		}
	}
}

// TestClientList: a list ends at its limit, at its last page, and at a server that would
// go on for ever.
func TestClientList(t *testing.T) {
	t.Parallel()
	const stored = 250
	nsx := serve(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		size, _ := strconv.Atoi(q.Get("page_size"))
		switch q.Get("sort_by") {
		case "loops":
			_, _ = fmt.Fprint(w, `{"results": [{"id": "x"}], "cursor": "same"}`)
			return
		case "empty":
			_, _ = fmt.Fprintf(w, `{"results": [], "cursor": "c%d"}`, time.Now().UnixNano())
			return
		case "unreadable":
			w.Header().Set(policy.UnreadableHeader, "70")
			_, _ = fmt.Fprintf(w, `{"results": [], "cursor": "c%d"}`, time.Now().UnixNano())
			return
		case "greedy":
			size = stored
		case "garbage":
			_, _ = fmt.Fprint(w, `{"results": [{"id": 7}]}`)
			return
		}
		from, _ := strconv.Atoi(strings.TrimPrefix(q.Get("cursor"), "at"))
		var page []string
		for i := from; i < min(from+size, stored); i++ {
			page = append(page, fmt.Sprintf(`{"id": "%d"}`, i))
		}
		cursor := ""
		if from+size < stored {
			cursor = fmt.Sprintf(`, "cursor": "at%d"`, from+size)
		}
		_, _ = fmt.Fprintf(w, `{"results": [%s], "result_count": %d%s}`, strings.Join(page, ","), stored, cursor)
	})
	for _, test := range []struct {
		sortBy  string
		limit   int
		items   int
		more    bool
		problem string
	}{
		{"", 1000, stored, false, ""},
		{"", stored, stored, false, ""},
		{"id", 120, 120, true, ""},
		{"id", 1, 1, true, ""},
		{"greedy", 10, 10, true, ""},
		{"unreadable", 100, 0, true, ""},
		{"loops", 1000, 0, false, "no end"},
		{"empty", 1000, 0, false, "no end"},
		{"garbage", 1000, 0, false, "right server"},
	} {
		all, err := nsx.List(t.Context(), policy.CSRs, test.sortBy, test.limit)
		if test.problem != "" {
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("%+v: %v", test, err)
			}
			continue
		}
		if err != nil || len(all.Items) != test.items || all.More != test.more || test.sortBy != "unreadable" && all.Total != stored {
			t.Errorf("%+v: %d items of %d, more %t, %v", test, len(all.Items), all.Total, all.More, err)
		}
		for i, o := range all.Items {
			if want := strconv.Itoa(i); o.ID != want || string(o.Document) != `{"id": "`+want+`"}` {
				t.Fatalf("%+v: item %d is %s", test, i, o.Document)
			}
		}
	}
}

// TestClientErrors: error documents of this dialect, of others, and none.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) *policy.Client {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		})
	}
	for _, test := range []struct {
		status int
		body   string
		want   int
		text   string
	}{
		{404, `{"httpStatus": "NOT_FOUND", "error_code": 600, "module_name": "policy", "error_message": "gone"}`, 404, "gone"},
		{400, `{"error_code": 1, "error_message": "two", "related_errors": [{"error_code": 2, "error_message": "one"}, {"error_code": 3, "error_message": "other"}]}`, 400, "two\none\nother"},
		{403, `{"error_code": 403, "module_name": "common-services", "error_message": "wrong"}`, 401, "wrong"},
		{403, `{"error_code": 289, "error_message": "not\u001b[31m yours"}`, 403, "not.[31m yours"},
		{503, `<html>`, 503, "the server answers 503 Service Unavailable"},
		{500, ``, 500, "the server answers 500 Internal Server Error"},
		{302, `{}`, 302, "the server answers 302 Found"},
	} {
		_, err := answer(test.status, test.body).Get(t.Context(), policy.CSRs, "x")
		if client.Status(err) != test.want || err.Error() != test.text {
			t.Errorf("%d %s: %d, %v", test.status, test.body, client.Status(err), err)
		}
	}
	for _, body := range []string{`[]`, `null`, `{}`, `{"id": ""}`, `{"id": "x", "id": "y"}`, `x`} {
		if o, err := answer(200, body).Get(t.Context(), policy.CSRs, "x"); err == nil {
			t.Errorf("%s is %+v", body, o)
		}
	}
}

// TestClientLogin: a session is a cookie and a token, and both are needed.
func TestClientLogin(t *testing.T) {
	t.Parallel()
	for cookie, whole := range map[string]bool{
		"JSESSIONID=abc; Path=/; Secure; HttpOnly": true,
		"OTHER=abc; Path=/":                        false,
		"":                                         false,
	} {
		nsx := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil || r.URL.Path != "/api/session/create" || r.URL.RawQuery != "" ||
				r.PostForm.Get("j_username") != "me & you" || r.PostForm.Get("j_password") != "p=1&2 ü" {
				t.Errorf("%s, %v, %v", r.URL, r.PostForm, err)
			}
			w.Header().Set("Set-Cookie", cookie)
			w.Header().Set("X-XSRF-TOKEN", "token")
		})
		session, err := nsx.Login(t.Context(), "me & you", "p=1&2 ü")
		if whole != (err == nil) || whole && (session.ID != "abc" || session.XSRF != "token") {
			t.Errorf("%q: %+v, %v", cookie, session, err)
		}
	}
}

package handler_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestcsr/handler"
)

const (
	nsxCSRs         = "/policy/api/v1/infra/csrs"
	nsxCertificates = "/policy/api/v1/infra/certificates"

	// vendorExample is the request of the vendor's page.
	vendorExample = `{ "subject": { "attributes": [ {"key":"CN","value":"Jane"}, {"key":"O","value":"VMware"}, {"key":"OU","value":"NSBU"}, ` +
		`{"key":"C","value":"US"}, {"key":"ST","value":"CA"}, {"key":"L","value":"PA"} ] }, "key_size": "2048", "algorithm": "RSA", "is_ca": false }`
	// quickSpec has a key that is cheap to make.
	quickSpec = `{"subject":{"attributes":[{"key":"CN","value":"quick.example.com"}]},"algorithm":"EC"}`
)

func TestNSXVendorExample(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	before := time.Now().UnixMilli()
	a := s.nsxCreate("example-csr-id", vendorExample)
	if a.status != http.StatusCreated || a.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`
	// The vendor's example response, with unique_id.
	want := regexp.MustCompile(`^\{"resource_type":"TlsCsr","id":"example-csr-id","display_name":"example-csr-id","path":"/infra/csrs/example-csr-id",` +
		`"parent_path":"/infra/csrs","relative_path":"example-csr-id","unique_id":"` + uuid + `",` +
		`"pem_encoded":"-----BEGIN CERTIFICATE REQUEST-----[^"]*-----END CERTIFICATE REQUEST-----\\n","key_size":2048,` +
		regexp.QuoteMeta(`"subject":{"attributes":[{"value":"Jane","key":"CN"},{"value":"VMware","key":"O"},{"value":"NSBU","key":"OU"},`+
			`{"value":"US","key":"C"},{"value":"CA","key":"ST"},{"value":"PA","key":"L"}]},"algorithm":"RSA","is_ca":false,`) +
		`"marked_for_delete":false,"overridden":false,"_create_user":"admin","_create_time":(\d{13}),"_last_modified_user":"admin",` +
		`"_last_modified_time":(\d{13}),"_system_owned":false,"_protection":"NOT_PROTECTED","_revision":0\}$`)
	times := want.FindSubmatch(a.body)
	if len(times) != 3 || !bytes.Equal(times[1], times[2]) {
		t.Fatalf("not the example's answer: %s", a.body)
	}
	made := decode[nsxCSR](t, a)
	if *made.CreateTime < before || *made.CreateTime > time.Now().UnixMilli() {
		t.Errorf("_create_time %d", *made.CreateTime)
	}
	if _, err := vendorCSR().judge(*made.PEMEncoded); err != nil {
		t.Error(err)
	}
}

// vendorCSR is what vendorExample asks for.
func vendorCSR() wantedCSR {
	return wantedCSR{bits: 2048, subject: []wantedAttribute{{"CN", "Jane"}, {"O", "VMware"}, {"OU", "NSBU"}, {"C", "US"}, {"ST", "CA"}, {"L", "PA"}}}
}

func TestNSXGetAndDelete(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	created := s.nsxCreate("x", quickSpec)
	for _, raw := range []bool{false, true} { // the SDK's and curl's way
		got := s.do(call{method: "GET", path: nsxPath("x"), raw: raw})
		if got.status != http.StatusOK || !bytes.Equal(got.body, created.body) {
			t.Errorf("GET answers otherwise than create: %d %s", got.status, got.body)
		}
	}
	file := s.do(call{method: "GET", path: nsxPath("x") + "/pem-file", raw: true})
	if file.status != http.StatusOK || string(file.body) != *decode[nsxCSR](t, created).PEMEncoded || file.header.Get("Content-Type") != "text/plain;charset=UTF-8" {
		t.Errorf("pem-file: %d %v %s", file.status, file.header, file.body)
	}
	if a := s.do(call{method: "HEAD", path: nsxPath("x"), raw: true}); a.status != http.StatusOK || len(a.body) != 0 {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	a := s.do(call{method: "DELETE", path: nsxPath("x")})
	if a.status != http.StatusOK || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
		t.Errorf("DELETE: %d %v %q", a.status, a.header, a.body)
	}
	for _, c := range []call{{method: "GET"}, {method: "DELETE"}, {method: "POST", path: "?action=self_sign"}} {
		c.path = nsxPath("x") + c.path
		if message := s.do(c).wantNSXError(t, http.StatusNotFound, 600); !strings.Contains(message, "/infra/csrs/x ") {
			t.Errorf("%s after the delete: %s", c.method, message)
		}
	}
}

func TestNSXIDs(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, id := range []string{
		"a", "A", "a/b", "a/pem-file", "pem-file", "a b", "a%2Fb", "100%", "%", "+", "a+b", "ü", "日本", "?", "#", "a?action=import", "a;b", "a&b", "=",
		"...", "../x", "/", "//", strings.Repeat("x", 255), `"quoted"`, "<b>",
	} {
		made := s.nsxMake(id, quickSpec)
		if *made.ID != id || *made.DisplayName != id || *made.RelativePath != id || *made.Path != "/infra/csrs/"+id {
			t.Errorf("%q became %q, %q, %q, %q", id, *made.ID, *made.DisplayName, *made.RelativePath, *made.Path)
		}
		if got := decode[nsxCSR](t, s.do(call{method: "GET", path: nsxPath(id)})); *got.UniqueID != *made.UniqueID {
			t.Errorf("GET %q gives another", id)
		}
		if a := s.do(call{method: "GET", path: nsxPath(id) + "/pem-file"}); a.status != http.StatusOK || string(a.body) != *made.PEMEncoded {
			t.Errorf("pem-file of %q: %d %s", id, a.status, a.body)
		}
	}
	// All of one byte, escaped without need: the same id.
	if a := s.do(call{method: "GET", path: nsxCSRs + "/%61"}); a.status != http.StatusOK || *decode[nsxCSR](t, a).ID != "a" {
		t.Errorf("escaped without need: %d %s", a.status, a.body)
	}

	for _, path := range []string{
		nsxCSRs + "/", nsxCSRs + "/a/pem-file/", nsxCSRs + "//", nsxCSRs + "/a//pem-file", nsxCSRs + "//pem-file", nsxCertificates + "/",
		nsxCertificates + "/a/", "/policy//api/v1/infra/csrs/a", "/policy/api/v1/infra/csrs%2Fa", // more are in TestNSXRoutes
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			if a := s.do(call{method: method, path: path, anonymous: true}); a.status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
}

func TestNSXBadIDs(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, id := range []string{".", "..", "a\x00b", "a\nb", strings.Repeat("x", 256), "\xff"} {
		for _, c := range []call{
			{method: "POST", path: nsxPath(id, "action=create"), body: quickSpec}, {method: "GET", path: nsxPath(id)},
			{method: "DELETE", path: nsxPath(id)}, {method: "GET", path: nsxCertificates + "/" + url.PathEscape(id)},
		} {
			if id == "." || id == ".." {
				c.path = strings.Replace(c.path, "/"+id, "/"+strings.ReplaceAll(id, ".", "%2E"), 1)
			}
			if message := s.do(c).wantNSXError(t, http.StatusBadRequest, 255); !strings.Contains(message, "{id ") {
				t.Errorf("%s %q: %s", c.method, c.path, message)
			}
		}
	}
}

// Members that the service sets are taken and ignored.
func TestNSXEveryMember(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	made := s.nsxMake("everything", quickWith(`"is_ca":true,"extensions":{"subject_alt_names":{"dns_names":["a.example.com","b.example.com"],"ip_addresses":["10.0.0.1","2001:db8::1"]}},
		"description":"two\nlines","display_name":"Everything","tags":[{"scope":"env","tag":"test"},{"tag":"bare"}],
		"id":"ignored","resource_type":"TlsCsr","path":7,"parent_path":"/x","relative_path":"x","unique_id":"x","marked_for_delete":true,"overridden":true,"pem_encoded":"x",
		"_create_user":"mallory","_create_time":1,"_last_modified_user":"mallory","_last_modified_time":1,"_system_owned":true,"_protection":"x","_revision":0,
		"_links":[],"_schema":"x","_self":{},"children":[],"remote_path":"x","realization_id":"x","owner_id":"x","origin_site_id":"x"`))
	if *made.ID != "everything" || *made.DisplayName != "Everything" || *made.Description != "two\nlines" || *made.CreateUser != "admin" || *made.SystemOwned || !*made.IsCA {
		t.Errorf("%+v", made)
	}
	if len(made.Tags) != 2 || *made.Tags[0].Scope != "env" || *made.Tags[0].Tag != "test" || *made.Tags[1].Scope != "" || *made.Tags[1].Tag != "bare" {
		t.Errorf("tags %+v", made.Tags)
	}
	if got := fmt.Sprint(*made.Extensions.AltNames); got != "{[a.example.com b.example.com] [10.0.0.1 2001:db8::1]}" {
		t.Errorf("names %s", got)
	}
}

func TestNSXPanic(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.Auth = nil }) // every request panics
	a := s.nsxCreate("x", quickSpec)
	a.wantNSXError(t, http.StatusInternalServerError, 99)
	if details := a.nsxError(t).Details; details == nil || !strings.Contains(*details, a.header.Get("X-Request-Id")) || strings.Contains(string(a.body), "nil pointer") {
		t.Errorf("%s", a.body)
	}
}

package handler_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/handler/auth"
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
	made := decodeNSX[nsxCSR](t, a.body)
	if *made.CreateTime < before || *made.CreateTime > time.Now().UnixMilli() {
		t.Errorf("_create_time %d", *made.CreateTime)
	}
	request := parseCSR(t, *made.PEMEncoded)
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(request.RawSubject, &rdns); err != nil {
		t.Fatal(err)
	}
	if got := rdns.String(); got != "L=PA,ST=CA,C=US,OU=NSBU,O=VMware,CN=Jane" {
		t.Errorf("subject %s", got)
	}
	if size := request.PublicKey.(*rsa.PublicKey).N.BitLen(); size != 2048 {
		t.Errorf("key of %d bits", size)
	}
	for _, raw := range []bool{false, true} {
		got := s.do(call{method: "GET", path: nsxPath("example-csr-id"), raw: raw})
		if got.status != http.StatusOK || !bytes.Equal(got.body, a.body) {
			t.Errorf("GET answers otherwise than create: %d %s", got.status, got.body)
		}
	}
	file := s.do(call{method: "GET", path: nsxPath("example-csr-id") + "/pem-file", raw: true})
	if file.status != http.StatusOK || string(file.body) != *made.PEMEncoded || file.header.Get("Content-Type") != "text/plain;charset=UTF-8" {
		t.Errorf("pem-file: %d %v %s", file.status, file.header, file.body)
	}
	if a := s.do(call{method: "HEAD", path: nsxPath("example-csr-id"), raw: true}); a.status != http.StatusOK || len(a.body) != 0 {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
	a = s.do(call{method: "DELETE", path: nsxPath("example-csr-id")})
	if a.status != http.StatusOK || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
		t.Errorf("DELETE: %d %v %q", a.status, a.header, a.body)
	}
	for _, c := range []call{{method: "GET"}, {method: "DELETE"}, {method: "POST", path: "?action=self_sign"}} {
		c.path = nsxPath("example-csr-id") + c.path
		a := s.do(c)
		e := a.nsxError(t)
		if a.status != http.StatusNotFound || *e.Code != 600 || !strings.Contains(*e.Message, "/infra/csrs/example-csr-id ") {
			t.Errorf("%s after the delete: %d %s", c.method, a.status, a.body)
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
		a := s.do(call{method: "GET", path: nsxPath(id)})
		if got := decodeNSX[nsxCSR](t, a.body); a.status != http.StatusOK || *got.UniqueID != *made.UniqueID {
			t.Errorf("GET %q: %d %s", id, a.status, a.body)
		}
		if a := s.do(call{method: "GET", path: nsxPath(id) + "/pem-file"}); a.status != http.StatusOK || string(a.body) != *made.PEMEncoded {
			t.Errorf("pem-file of %q: %d %s", id, a.status, a.body)
		}
	}
	// All of one byte, escaped without need: the same id.
	if a := s.do(call{method: "GET", path: nsxCSRs + "/%61"}); a.status != http.StatusOK || *decodeNSX[nsxCSR](t, a.body).ID != "a" {
		t.Errorf("escaped without need: %d %s", a.status, a.body)
	}

	for _, path := range []string{
		nsxCSRs + "/", nsxCSRs + "/a/", nsxCSRs + "/a/b", nsxCSRs + "/a/pem-file/", nsxCSRs + "/a/b/pem-file", nsxCSRs + "//", nsxCSRs + "/a//pem-file",
		nsxCSRs + "//pem-file", nsxCertificates + "/", nsxCertificates + "/a/b", nsxCertificates + "/a/", nsxCertificates + "/a/pem-file",
		"/policy/api/v1/infra/c%73rs/a", "/policy//api/v1/infra/csrs/a", "/policy/api/v1/infra", "/policy/api/v1/infra/csrs%2Fa", "/Policy/api/v1/infra/csrs/a",
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			a := s.do(call{method: method, path: path, anonymous: true})
			if a.status != http.StatusNotFound {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
	for _, id := range []string{".", "..", "a\x00b", "a\nb", strings.Repeat("x", 256), "\xff"} {
		for _, c := range []call{
			{method: "POST", path: nsxPath(id, "action=create"), body: quickSpec}, {method: "GET", path: nsxPath(id)},
			{method: "DELETE", path: nsxPath(id)}, {method: "GET", path: nsxCertificates + "/" + url.PathEscape(id)},
		} {
			if id == "." || id == ".." {
				c.path = strings.Replace(c.path, "/"+id, "/"+strings.ReplaceAll(id, ".", "%2E"), 1)
			}
			a := s.do(c)
			if e := a.nsxError(t); a.status != http.StatusBadRequest || *e.Code != 255 || !strings.Contains(*e.Message, "{id ") {
				t.Errorf("%s %q: %d %s", c.method, c.path, a.status, a.body)
			}
		}
	}
}

func TestNSXKeysAndNames(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	subject := `"subject":{"attributes":[{"key":"OU","value":"One"},{"key":"CN","value":"Jürgen 日本"},{"key":"OU","value":"Two"},{"key":"C","value":"de"}]}`
	for _, test := range []struct {
		name, members string
		algorithm     string
		size          int64
	}{
		{"defaults", ``, "RSA", 2048},
		{"null is unset", `,"key_size":null,"algorithm":null,"is_ca":null,"extensions":null,"tags":null,"display_name":null,"description":null,"_revision":null`, "RSA", 2048},
		{"a number", `,"key_size":3072`, "RSA", 3072},
		{"a string", `,"key_size":"3072","algorithm":"RSA"`, "RSA", 3072},
		{"EC", `,"algorithm":"EC"`, "EC", 256},
		{"EC 384", `,"algorithm":"EC","key_size":"384"`, "EC", 384},
		{"EC 521", `,"algorithm":"EC","key_size":521`, "EC", 521},
	} {
		made := s.nsxMake(test.name, `{`+subject+test.members+`}`)
		if *made.Algorithm != test.algorithm || *made.KeySize != test.size || *made.IsCA {
			t.Errorf("%s: %s %d", test.name, *made.Algorithm, *made.KeySize)
		}
		request := parseCSR(t, *made.PEMEncoded)
		var size int
		switch key := request.PublicKey.(type) {
		case *rsa.PublicKey:
			size = key.N.BitLen()
		case *ecdsa.PublicKey:
			size = key.Params().BitSize
		}
		if int64(size) != test.size {
			t.Errorf("%s: key of %d bits", test.name, size)
		}
		var rdns pkix.RDNSequence
		if _, err := asn1.Unmarshal(request.RawSubject, &rdns); err != nil || len(rdns) != 4 {
			t.Fatalf("subject %x: %v", request.RawSubject, err)
		}
		if got := rdns.String(); got != "C=DE,OU=Two,CN=Jürgen 日本,OU=One" {
			t.Errorf("subject %s", got)
		}
	}

	dns, ips := make([]string, 128), make([]string, 64)
	for i := range dns {
		dns[i] = fmt.Sprintf("host-%03d.example.com", i)
	}
	for i := range ips {
		ips[i] = fmt.Sprintf("10.0.0.%d", i)
	}
	ips[1] = "2001:db8::1"
	names, err := json.Marshal(map[string]any{"subject_alt_names": map[string]any{"dns_names": dns, "ip_addresses": ips}})
	if err != nil {
		t.Fatal(err)
	}
	made := s.nsxMake("everything", `{`+subject+`,"algorithm":"EC","is_ca":true,"extensions":`+string(names)+`,"description":"two\nlines",
		"display_name":"Everything","tags":[{"scope":"env","tag":"test"},{"tag":"bare"}],
		"id":"ignored","resource_type":"TlsCsr","path":7,"parent_path":"/x","relative_path":"x","unique_id":"x","marked_for_delete":true,"overridden":true,"pem_encoded":"x",
		"_create_user":"mallory","_create_time":1,"_last_modified_user":"mallory","_last_modified_time":1,"_system_owned":true,"_protection":"x","_revision":0,
		"_links":[],"_schema":"x","_self":{},"children":[],"remote_path":"x","realization_id":"x","owner_id":"x","origin_site_id":"x"}`)
	if *made.ID != "everything" || *made.DisplayName != "Everything" || *made.Description != "two\nlines" || *made.CreateUser != "admin" || *made.SystemOwned || !*made.IsCA {
		t.Errorf("%+v", made)
	}
	if len(made.Tags) != 2 || *made.Tags[0].Scope != "env" || *made.Tags[0].Tag != "test" || *made.Tags[1].Scope != "" || *made.Tags[1].Tag != "bare" {
		t.Errorf("tags %+v", made.Tags)
	}
	if got := made.Extensions.AltNames; !slices.Equal(got.DNSNames, dns) || !slices.Equal(got.IPAddresses, ips) {
		t.Errorf("names out: %+v", got)
	}
	request := parseCSR(t, *made.PEMEncoded)
	if !slices.Equal(request.DNSNames, dns) || len(request.IPAddresses) != 64 || request.IPAddresses[1].String() != "2001:db8::1" {
		t.Errorf("names: %v %v", request.DNSNames, request.IPAddresses)
	}
}

func TestNSXBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	stored := s.nsxCreate("kept", quickSpec)
	if stored.status != http.StatusCreated {
		t.Fatal(stored.status)
	}
	with := func(members string) string { return quickSpec[:len(quickSpec)-1] + "," + members + "}" }
	subject := func(attributes string) string {
		return `{"algorithm":"EC","subject":{"attributes":` + attributes + `}}`
	}
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	names := func(members string) string { return with(`"extensions":{"subject_alt_names":{` + members + `}}`) }
	create := nsxPath("new", "action=create")
	tests := []struct {
		name         string
		call         call
		status, code int
		says         string
	}{
		{"unknown path", call{method: "GET", path: "/policy/api/v1/infra/unknown", anonymous: true}, 404, 600, "does not exist"},
		{"other method", call{method: "PUT", path: nsxPath("new"), anonymous: true}, 405, 255, "Allow"},
		{"OPTIONS", call{method: "OPTIONS", path: nsxPath("new"), anonymous: true}, 405, 255, "Allow"},
		{"POST of a pem-file", call{path: nsxPath("new") + "/pem-file", anonymous: true}, 405, 255, "Allow"},
		{"no credentials", call{path: nsxPath("new", "action=x"), body: "[", anonymous: true}, 401, 403, "The credentials were incorrect or the account specified has been locked."},
		{"wrong password", call{path: create, body: "[", user: "admin", password: "wrong"}, 401, 403, "The credentials"},
		{"no action", call{path: nsxPath("new"), body: quickSpec}, 400, 255, "{action is required}"},
		{"empty action", call{path: nsxPath("new", "action="), body: quickSpec}, 400, 255, "{action is required}"},
		{"unknown action", call{path: nsxPath("new", "action=destroy"), body: quickSpec}, 400, 255, `action \"destroy\"`},
		{"action of another path", call{path: nsxPath("", "action=create"), body: quickSpec}, 400, 255, `action \"create\"`},
		{"two actions", call{path: nsxPath("new", "action=create", "action=import"), body: quickSpec}, 400, 255, "action must be given once"},
		{"malformed query", call{path: nsxPath("new", "action=create;x=1"), body: quickSpec}, 400, 255, "query parameters"},
		{"malformed JSON", call{body: `{"subject":`}, 400, 220, "malformed at byte"},
		{"trailing bytes", call{body: quickSpec + "x"}, 400, 220, "malformed at byte"},
		{"empty body", call{raw: true}, 400, 220, "not a JSON object"},
		{"a list", call{body: `[]`}, 400, 220, "not a JSON object"},
		{"null", call{body: `null`}, 400, 220, "not a JSON object"},
		{"invalid UTF-8", call{body: with("\"description\":\"\xff\"")}, 400, 220, "malformed at byte"},
		{"lone surrogate", call{body: with(`"description":"\ud800"`)}, 400, 220, "malformed at byte"},
		{"a member without a name", call{body: `{"":1}`}, 400, 255, `\"\" is not a member`},
		{"no subject", call{body: `{}`}, 400, 255, "{subject is required}"},
		{"null subject", call{body: `{"subject":null}`}, 400, 255, "{subject is required}"},
		{"no attributes", call{body: `{"subject":{}}`}, 400, 255, "{subject.attributes is required}"},
		{"no attribute", call{body: subject(`[]`)}, 400, 255, "subject.attributes must have at least 1 entry"},
		{"no common name", call{body: subject(`[{"key":"O","value":"x"}]`)}, 400, 255, "key CN"},
		{"null attribute", call{body: subject(`[null]`)}, 400, 255, "subject.attributes[0].value is required; subject.attributes[0].key is required"},
		{"attribute without value", call{body: subject(`[{"key":"CN"}]`)}, 400, 255, "subject.attributes[0].value is required"},
		{"unknown key", call{body: subject(`[{"key":"CN","value":"x"},{"key":"DC","value":"x"}]`)}, 400, 255, "subject.attributes[1].key must be one of CN, O, OU, C, ST, L"},
		{"key in lower case", call{body: subject(`[{"key":"cn","value":"x"}]`)}, 400, 255, "subject.attributes[0].key must be one of"},
		{"unknown member", call{body: with(`"keysize":4096`)}, 400, 255, "keysize is not a member"},
		{"letter case", call{body: with(`"Key_Size":4096`)}, 400, 255, "Key_Size is not a member"},
		{"unknown member inside", call{body: `{"subject":{"attributes":[{"key":"CN","value":"x","oid":"1"}]}}`}, 400, 255, "subject.attributes[0].oid is not a member"},
		{"duplicate member", call{body: with(`"algorithm":"RSA"`)}, 400, 255, "algorithm occurs more than once"},
		{"wrong types", call{body: with(`"is_ca":"yes"`)}, 400, 255, "is_ca must be true or false"},
		{"tags an object", call{body: with(`"tags":{}`)}, 400, 255, "tags must be a list"},
		{"a revision of 0.0", call{body: with(`"_revision":0.0`)}, 400, 255, "_revision must be an integer"},
		{"key size 2048.0", call{body: with(`"key_size":2048.0`)}, 400, 255, "key_size must be an integer, as a number or as a string"},
		{"key size with a zero", call{body: with(`"key_size":"0256"`)}, 400, 255, "key_size must be an integer"},
		{"key size with a blank", call{body: with(`"key_size":"256 "`)}, 400, 255, "key_size must be an integer"},
		{"key size of nothing", call{body: with(`"key_size":""`)}, 400, 255, "key_size must be an integer"},
		{"key size true", call{body: with(`"key_size":true`)}, 400, 255, "key_size must be an integer"},
		{"key size of the other kind", call{body: with(`"key_size":2048`)}, 400, 255, `key_size \"2048\" must be one of 256, 384, 521`},
		{"algorithm", call{body: `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"DSA"}`}, 400, 255, "algorithm must be one of RSA, EC"},
		{"no algorithm", call{body: `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":""}`}, 400, 255, "algorithm must be one of RSA, EC"},
		{"no names", call{body: names(`"dns_names":[]`)}, 400, 255, "extensions.subject_alt_names.dns_names must have at least 1 entry"},
		{"too many names", call{body: names(`"dns_names":` + list(129, `"a"`))}, 400, 255, "dns_names must have at most 128 entries"},
		{"too many addresses", call{body: names(`"ip_addresses":` + list(65, `"10.0.0.1"`))}, 400, 255, "ip_addresses must have at most 64 entries"},
		{"a name that is none", call{body: names(`"dns_names":["a b"],"ip_addresses":["10.0.0.1/8"]`)}, 400, 255, "extensions.subject_alt_names"},
		{"an e-mail address as a name", call{body: names(`"dns_names":["a@example.com"]`)}, 400, 255, "must be a DNS name"},
		{"rules of the core", call{body: subject(`[{"key":"CN","value":"` + strings.Repeat("x", 65) + `"},{"key":"C","value":"XX"},{"key":"OU","value":"a\u0000b"}]`)}, 400, 255,
			"subject.attributes CN must be at most 64 characters; subject.attributes OU must not contain"},
		{"tags", call{body: with(`"tags":` + list(31, `{"tag":"x"}`))}, 400, 255, "tags must have at most 30 entries"},
		{"a long display name", call{body: with(`"display_name":"` + strings.Repeat("x", 256) + `"`)}, 400, 255, "display_name must be at most 255 characters"},
		{"many problems", call{body: subject(list(1000, `{"key":"X","value":"x"}`))}, 400, 255, "; and 968 more}"},
		{"body too large", call{body: `{"x":"` + strings.Repeat("x", 64<<10) + `"}`}, 413, 255, "65536"},
		{"existing id", call{path: nsxPath("kept", "action=create"), body: quickSpec}, 400, 500127, "Cannot create an object with path=[/infra/csrs/kept] as it already exists."},
		{"stale revision", call{body: with(`"_revision":1`)}, 412, 604, "_revision"},
		{"private key", call{path: nsxPath("kept", "action=import"), body: `{"pem_encoded":"x","private_key":"-----BEGIN"}`}, 400, 255, "private_key is not a member"},
		{"import of nothing", call{path: nsxPath("kept", "action=import"), body: `{}`}, 400, 255, "pem_encoded is required"},
		{"import of rubbish", call{path: nsxPath("kept", "action=import"), body: `{"pem_encoded":"x"}`}, 400, 255, "pem_encoded must have at least one PEM block"},
		{"days", call{path: nsxPath("kept", "days_valid=1.5", "action=self_sign")}, 400, 255, `days_valid \"1.5\" must be an integer`},
		{"no days", call{path: nsxPath("kept", "days_valid=0", "action=self_sign")}, 400, 255, `days_valid \"0\" must be from 1 to 10000`},
		{"upload of JSON", call{path: nsxPath("kept", "action=upload")}, 400, 255, "multipart/form-data"},
		{"self_sign new without a subject", call{path: nsxPath("", "action=self_sign")}, 400, 255, "{subject is required}"},
		{"page size", call{method: "GET", path: nsxPath("", "page_size=1001")}, 400, 255, "page_size"},
		{"sort key", call{method: "GET", path: nsxPath("", "sort_by=path")}, 400, 255, "sort_by"},
		{"sort order", call{method: "GET", path: nsxPath("", "sort_ascending=TRUE")}, 400, 255, "sort_ascending"},
		{"cursor", call{method: "GET", path: nsxPath("", "cursor=AAAA")}, 400, 255, "cursor"},
		{"fields", call{method: "GET", path: nsxPath("", "included_fields=id,nothing")}, 400, 255, "included_fields"},
		{"too many fields", call{method: "GET", path: nsxPath("", "included_fields=id"+strings.Repeat(",id", 1000))}, 400, 255, "included_fields must name a member once"},
		{"all of it", call{method: "GET", path: nsxPath("", "cursor=!", "page_size=x", "sort_by=x")}, 400, 255, "sort_by \\\"x\\\" must be one of id, display_name, _create_time, _last_modified_time; page_size"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			if c.method == "" {
				c.method = "POST"
			}
			if c.path == "" {
				c.path = create
			}
			a := s.do(c)
			e := a.nsxError(t)
			if a.status != test.status || *e.Code != int64(test.code) || !strings.Contains(string(a.body), test.says) {
				t.Fatalf("%d, want %d %d %q: %s", a.status, test.status, test.code, test.says, a.body)
			}
			if fields := strings.HasPrefix(*e.Message, "Field level validation errors: {"); fields != (e.Details != nil) || fields && *e.Details != *e.Message {
				t.Errorf("details: %s", a.body)
			}
			if module := map[bool]string{true: "common-services", false: "policy"}[a.status == 401]; *e.Module != module {
				t.Errorf("module_name %s", *e.Module)
			}
		})
	}
	if a := s.do(call{method: "GET", path: nsxPath("kept")}); !bytes.Equal(a.body, stored.body) {
		t.Errorf("a refused request changed what is stored: %s", a.body)
	}
	if a := s.do(call{method: "GET", path: nsxCSRs}); *decodeNSX[nsxList[nsxCSR]](t, a.body).ResultCount != 1 {
		t.Errorf("a refused request made something: %s", a.body)
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Error("bad input was logged as a fault of the service")
	}
}

func TestNSXPermissions(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) {
		c.Auth = auth.New(auth.Config{
			Users: users(t, "admin", adminPassword, "looker", "looks", "stranger", "strange"),
			Privileges: func(user string) []csr.Privilege {
				return map[string][]csr.Privilege{
					"admin": {csr.PolicyCertificateCRUD}, "looker": {csr.PolicyCertificateRead}, "stranger": {csr.SecurityManagement},
				}[user]
			},
			IdleTimeout: time.Minute, Lifetime: time.Hour,
		})
	})
	s.nsxMake("x", quickSpec)
	reads := []call{
		{method: "GET", path: nsxPath("x")}, {method: "GET", path: nsxPath("")}, {method: "GET", path: nsxPath("x") + "/pem-file"},
		{method: "GET", path: nsxCertificates},
	}
	changes := []call{
		{method: "POST", path: nsxPath("x", "action=create"), body: "["}, {method: "POST", path: nsxPath("x", "action=import"), body: "["},
		{method: "POST", path: nsxPath("x", "action=upload"), body: "["}, {method: "POST", path: nsxPath("x", "action=self_sign")},
		{method: "POST", path: nsxPath("", "action=self_sign"), body: "["}, {method: "POST", path: nsxPath("x", "action=none")}, {method: "POST", path: nsxPath("")},
		{method: "DELETE", path: nsxPath("x")}, {method: "DELETE", path: nsxCertificates + "/x"},
	}
	check := func(c call, user, password string, want int) {
		t.Helper()
		c.user, c.password = user, password
		a := s.do(c)
		if a.status != want {
			t.Errorf("%s: %s %s: %d %s, want %d", user, c.method, c.path, a.status, a.body, want)
		}
		if want == http.StatusForbidden && *a.nsxError(t).Code != 289 {
			t.Errorf("%s: %s %s: %s", user, c.method, c.path, a.body)
		}
	}
	for _, c := range reads {
		check(c, "looker", "looks", http.StatusOK)
		check(c, "admin", adminPassword, http.StatusOK)
		check(c, "stranger", "strange", http.StatusForbidden)
	}
	for _, c := range changes {
		check(c, "looker", "looks", http.StatusForbidden)
		check(c, "stranger", "strange", http.StatusForbidden)
	}
	if a := s.do(call{method: "GET", path: csrPath}); a.status != http.StatusForbidden {
		t.Errorf("the other dialect's privilege is included: %d", a.status)
	}
}

func TestNSXPaging(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	var created []string
	for i := range 25 {
		id := fmt.Sprintf("csr-%02d", i*7%25)
		s.nsxMake(id, strings.Replace(quickSpec, "{", fmt.Sprintf(`{"display_name":"name %d",`, i%3), 1))
		created = append(created, id)
		time.Sleep(time.Millisecond)
	}
	byID := slices.Sorted(slices.Values(created))
	byName := slices.Clone(created)
	slices.SortFunc(byName, func(a, b string) int {
		name := func(id string) int { return slices.Index(created, id) % 3 }
		return strings.Compare(fmt.Sprint(name(a), a), fmt.Sprint(name(b), b))
	})
	walk := func(t *testing.T, between func(page int), params ...string) []string {
		t.Helper()
		var ids []string
		cursor := ""
		for page := 0; ; page++ {
			query := append([]string{"page_size=4"}, params...)
			if cursor != "" {
				query = slices.Insert(query, page%2, "cursor="+cursor)
			}
			a := s.do(call{method: "GET", path: nsxPath("", query...)})
			if a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
			got := decodeNSX[nsxList[nsxCSR]](t, a.body)
			if (got.ResultCount != nil) != (page == 0) {
				t.Errorf("result_count on page %d: %v", page, got.ResultCount)
			}
			for _, r := range got.Results {
				ids = append(ids, *r.ID)
			}
			if got.Cursor == nil {
				return ids
			}
			if len(got.Results) != 4 || !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(*got.Cursor) {
				t.Fatalf("page %d: %d results, cursor %q", page, len(got.Results), *got.Cursor)
			}
			cursor = *got.Cursor
			if between != nil {
				between(page)
			}
		}
	}
	for _, test := range []struct {
		params string
		want   []string
	}{
		{"x=1", byID}, {"sort_by=id", byID}, {"sort_by=display_name", byName}, {"sort_by=_create_time", created}, {"sort_by=_last_modified_time", created},
	} {
		if got := walk(t, nil, test.params); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.params, got, test.want)
		}
		slices.Reverse(test.want)
		if got := walk(t, nil, "sort_ascending=false", test.params); !slices.Equal(got, test.want) {
			t.Errorf("%s descending: %q, want %q", test.params, got, test.want)
		}
		slices.Reverse(test.want)
	}

	first := decodeNSX[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxPath("", "page_size=4")}).body)
	for _, params := range []string{"sort_by=display_name", "sort_ascending=false"} {
		if a := s.do(call{method: "GET", path: nsxPath("", params, "cursor="+*first.Cursor)}); a.status != http.StatusBadRequest || *a.nsxError(t).Code != 255 {
			t.Errorf("cursor of another order: %d %s", a.status, a.body)
		}
	}
	a := s.do(call{method: "GET", path: nsxPath("", "included_fields=_revision,id", "page_size=2")})
	if want := `{"results":[{"id":"csr-00","_revision":0},{"id":"csr-01","_revision":0}],"result_count":25,"sort_by":"id","sort_ascending":true,"cursor":"`; !strings.HasPrefix(string(a.body), want) {
		t.Errorf("included_fields: %s", a.body)
	}

	// While others come and go, where the cursor stands too, whatever stays is
	// listed exactly once.
	deleted := map[string]bool{}
	got := walk(t, func(page int) {
		gone := fmt.Sprintf("csr-%02d", page*3+3) // with page 0 the one that the cursor names
		deleted[gone] = true
		s.do(call{method: "DELETE", path: nsxPath(gone)})
		s.nsxMake(fmt.Sprintf("csr-%02d-", page), quickSpec)     // before the cursor
		s.nsxMake(fmt.Sprintf("csr-%02d+", page*4+5), quickSpec) // after it
	})
	listed := map[string]int{}
	for _, id := range got {
		listed[id]++
	}
	for _, id := range byID {
		if listed[id] > 1 || listed[id] == 0 && !deleted[id] {
			t.Errorf("%s was listed %d times", id, listed[id])
		}
	}
}

func TestNSXConcurrentCreates(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const n = 16
	answers := make([]answer, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			var err error
			if answers[i], err = s.try(call{method: "POST", path: nsxPath("same", "action=create"), body: quickSpec}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var winner []byte
	for _, a := range answers {
		switch {
		case a.status == http.StatusCreated && winner == nil:
			winner = a.body
		case a.status != http.StatusBadRequest || *a.nsxError(t).Code != 500127:
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if a := s.do(call{method: "GET", path: nsxPath("same")}); !bytes.Equal(a.body, winner) {
		t.Errorf("stored is not what the winner was told: %s", a.body)
	}
}

func TestNSXUnavailable(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	if err := s.handler.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := s.nsxCreate("x", quickSpec)
	if e := a.nsxError(t); a.status != http.StatusServiceUnavailable || *e.Code == 0 || a.header.Get("Retry-After") == "" {
		t.Errorf("while draining: %d %s", a.status, a.body)
	}

	broken := newStack(t, func(c *handler.Config) { c.Auth = nil }) // every request panics
	a = broken.nsxCreate("x", quickSpec)
	id := a.header.Get("X-Request-Id")
	if e := a.nsxError(t); a.status != http.StatusInternalServerError || *e.Code != 99 || e.Details == nil || !strings.Contains(*e.Details, id) || strings.Contains(string(a.body), "nil pointer") {
		t.Errorf("panic: %d %s", a.status, a.body)
	}
}

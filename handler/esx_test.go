package handler_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func parseCSR(t *testing.T, text string) *x509.CertificateRequest {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("not one CSR: %q", text)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := request.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	return request
}

func TestCreateCSR(t *testing.T) {
	t.Parallel()
	s := newStack(t)

	t.Run("defaults", func(t *testing.T) {
		request := parseCSR(t, s.createCSR(validSpec))
		if size := request.PublicKey.(*rsa.PublicKey).N.BitLen(); size != 2048 {
			t.Errorf("key of %d bits", size)
		}
		if request.SignatureAlgorithm != x509.SHA256WithRSA {
			t.Errorf("signature %v", request.SignatureAlgorithm)
		}
		want := "CN=" + s.hostname + ",OU=Hosts,O=Example Ltd,L=Palo Alto,ST=California,C=US"
		if got := request.Subject.String(); got != want {
			t.Errorf("subject %s, want %s", got, want)
		}
		if !slices.Equal(request.EmailAddresses, []string{"pki@example.com"}) {
			t.Errorf("e-mail %q", request.EmailAddresses)
		}
		for _, name := range request.Subject.Names {
			if name.Type.String() == "1.2.840.113549.1.9.1" {
				t.Error("the e-mail address is in the subject")
			}
		}
	})
	t.Run("everything given", func(t *testing.T) {
		request := parseCSR(t, s.createCSR(`{"key_size":3072,"common_name":"attest.example.com","organization":"Ö GmbH","organization_unit":"",
			"locality":"","state_or_province":"","country":"DE","email_address":"",
			"subject_alt_name":["a.example.com","A.EXAMPLE.COM","10.0.0.7","2001:db8::1","ops@example.com","https://example.com/x","urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"]}`))
		if size := request.PublicKey.(*rsa.PublicKey).N.BitLen(); size != 3072 {
			t.Errorf("key of %d bits", size)
		}
		if got, want := request.Subject.String(), "CN=attest.example.com,O=Ö GmbH,C=DE"; got != want {
			t.Errorf("subject %s, want %s", got, want)
		}
		got := fmt.Sprint(request.DNSNames, request.IPAddresses, request.EmailAddresses, request.URIs)
		if want := "[a.example.com] [10.0.0.7 2001:db8::1] [ops@example.com] [https://example.com/x urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6]"; got != want {
			t.Errorf("names %s, want %s", got, want)
		}
	})
	t.Run("null is unset", func(t *testing.T) {
		spec := strings.Replace(validSpec, "{", `{"key_size":null,"common_name":null,"subject_alt_name":null,`, 1)
		request := parseCSR(t, s.createCSR(spec))
		if request.Subject.CommonName != s.hostname || request.PublicKey.(*rsa.PublicKey).N.BitLen() != 2048 {
			t.Errorf("got %s", request.Subject)
		}
	})
	t.Run("a new key each time, the last one stays", func(t *testing.T) {
		first, second := s.createCSR(validSpec), s.createCSR(validSpec)
		if parseCSR(t, first).PublicKey.(*rsa.PublicKey).Equal(parseCSR(t, second).PublicKey) {
			t.Error("two CSRs share a key")
		}
		if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != second {
			t.Error("GET does not return the last CSR")
		}
	})
	t.Run("charset parameter and other letter case of the media type", func(t *testing.T) {
		a := s.do(call{method: "POST", path: csrPath, body: validSpec, header: map[string]string{"Content-Type": "Application/JSON; charset=UTF-8"}})
		if a.status != http.StatusCreated {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestGetAndDeleteCSR(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, raw := range []bool{false, true} { // the SDK's and curl's way
		for _, method := range []string{"GET", "DELETE"} {
			a := s.do(call{method: method, path: csrPath, raw: raw})
			if doc := a.vapiError(t); a.status != http.StatusNotFound || doc.ErrorType != "NOT_FOUND" {
				t.Errorf("%s without a CSR: %d %s", method, a.status, a.body)
			}
		}
		want := s.createCSR(validSpec)
		if a := s.do(call{method: "GET", path: csrPath, raw: raw}); a.status != http.StatusOK || a.member(t, "csr") != want {
			t.Errorf("GET: %d %s", a.status, a.body)
		}
		if a := s.do(call{method: "HEAD", path: csrPath, raw: true}); a.status != http.StatusOK || len(a.body) != 0 {
			t.Errorf("HEAD: %d %q", a.status, a.body)
		}
		a := s.do(call{method: "DELETE", path: csrPath, raw: raw})
		if a.status != http.StatusNoContent || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
			t.Errorf("DELETE: %d %q %v", a.status, a.body, a.header)
		}
	}
}

// The order is: route, authenticate, authorise, parse, validate.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	stored := s.createCSR(validSpec)
	with := func(members string) string { return strings.Replace(validSpec, "{", "{"+members+",", 1) }
	without := func(name string) string {
		return regexp.MustCompile(`"`+name+`":"[^"]*",?`).ReplaceAllString(validSpec, "")
	}
	const (
		invalid      = "vapi.protocol.server.rest.invalid_json_content"
		unexpected   = "vapi.protocol.server.rest.param.body.unexpected"
		missing      = "vapi.bindings.typeconverter.struct.field.missing"
		unsupported  = "vapi.protocol.server.rest.unsupported_property"
		mediaType    = "vapi.protocol.server.rest.unsupported_media_type"
		unknownField = "attestcsr.json.unknown_field"
		duplicate    = "attestcsr.json.duplicate_field"
	)
	tests := []struct {
		name      string
		call      call
		status    int
		errorType string
		ids       []string // of each message
		says      string   // part of the first message
	}{
		{name: "unknown path", call: call{method: "GET", path: "/api/nothing", anonymous: true}, status: 404, errorType: "NOT_FOUND", ids: []string{"com.vmware.vapi.rest.httpNotFound"}, says: "Not found."},
		{name: "doubled slash", call: call{method: "GET", path: "/" + csrPath, anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "trailing slash", call: call{method: "GET", path: csrPath + "/", anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "letter case", call: call{method: "GET", path: "/API/esx/attestation/certificate/csr", anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "escaped letter", call: call{method: "GET", path: "/api/esx/attestation/certificate/c%73r", anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "dot segment", call: call{method: "GET", path: "/api/esx/./attestation/certificate/csr", anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "path parameter", call: call{method: "GET", path: csrPath + ";x=1", anonymous: true}, status: 404, errorType: "NOT_FOUND"},
		{name: "other method", call: call{method: "PUT", path: csrPath, anonymous: true}, status: 405, errorType: "INVALID_REQUEST"},
		{name: "OPTIONS", call: call{method: "OPTIONS", path: csrPath, anonymous: true}, status: 405, errorType: "INVALID_REQUEST"},
		{name: "method of nobody", call: call{method: "BREW", path: csrPath, anonymous: true}, status: 405, errorType: "INVALID_REQUEST"},
		{name: "no credentials", call: call{method: "POST", path: csrPath + "?foo=1", body: "[", anonymous: true}, status: 401, errorType: "UNAUTHENTICATED", ids: []string{"com.vmware.vapi.endpoint.method.authentication.required"}, says: "Authentication required."},
		{name: "wrong password", call: call{method: "POST", path: csrPath, body: "[", user: "admin", password: "wrong"}, status: 401, errorType: "UNAUTHENTICATED", says: "Authentication required."},
		{name: "unknown user", call: call{method: "POST", path: csrPath, body: "[", user: "nobody", password: "wrong"}, status: 401, errorType: "UNAUTHENTICATED", says: "Authentication required."},
		{name: "no privilege", call: call{method: "POST", path: csrPath + "?foo=1", body: "[", user: "reader", password: readerPassword}, status: 403, errorType: "UNAUTHORIZED"},
		{name: "malformed JSON", call: call{body: `{"organization":`}, ids: []string{invalid}},
		{name: "trailing bytes", call: call{body: validSpec + "{}"}, ids: []string{invalid}},
		{name: "empty body", call: call{raw: true, header: map[string]string{"Content-Type": "application/json"}}, ids: []string{invalid}},
		{name: "a list", call: call{body: `[]`}, ids: []string{invalid}},
		{name: "null", call: call{body: `null`}, ids: []string{invalid}},
		{name: "a string", call: call{body: `"x"`}, ids: []string{invalid}},
		{name: "invalid UTF-8", call: call{body: with("\"common_name\":\"\xff\"")}, ids: []string{invalid}},
		{name: "lone surrogate", call: call{body: with(`"common_name":"\ud800"`)}, ids: []string{invalid}},
		{name: "every field missing", call: call{body: `{}`}, ids: []string{missing, missing, missing, missing, missing, missing}, says: `"organization"`},
		{name: "one field missing", call: call{body: without("locality")}, ids: []string{missing}, says: `"locality"`},
		{name: "required field null", call: call{body: with(`"x":1`)[:1] + `"organization":null,` + without("organization")[1:]}, ids: []string{missing}, says: `"organization"`},
		{name: "key_size a string", call: call{body: with(`"key_size":"2048"`)}, ids: []string{unexpected}, says: `"key_size"`},
		{name: "key_size 2048.5", call: call{body: with(`"key_size":2048.5`)}, ids: []string{unexpected}, says: "integer"},
		{name: "key_size 2048.0", call: call{body: with(`"key_size":2048.0`)}, ids: []string{unexpected}},
		{name: "key_size beyond int64", call: call{body: with(`"key_size":9223372036854775808`)}, ids: []string{unexpected}},
		{name: "names not a list", call: call{body: with(`"subject_alt_name":"a"`)}, ids: []string{unexpected}, says: `"subject_alt_name"`},
		{name: "a name not a string", call: call{body: with(`"subject_alt_name":["a",7]`)}, ids: []string{unexpected}, says: `"subject_alt_name[1]"`},
		{name: "unknown field", call: call{body: with(`"keysize":4096`)}, ids: []string{unknownField}, says: `"keysize"`},
		{name: "other letter case", call: call{body: with(`"Key_Size":4096`)}, ids: []string{unknownField}, says: `"Key_Size"`},
		{name: "duplicate key", call: call{body: with(`"key_size":4096,"key_size":2048`)}, ids: []string{duplicate}, says: `"key_size"`},
		{name: "wrapped spec", call: call{body: `{"create_spec":` + validSpec + `}`}, ids: []string{unknownField}},
		{name: "query parameter", call: call{path: csrPath + "?foo=1", body: validSpec}, ids: []string{unsupported}, says: "Unsupported property with name: foo."},
		{name: "malformed query", call: call{path: csrPath + "?a;b", body: validSpec}, ids: []string{unsupported}},
		{name: "no Content-Type", call: call{raw: true, body: validSpec}, errorType: "INVALID_REQUEST", ids: []string{mediaType}},
		{name: "other Content-Type", call: call{body: validSpec, header: map[string]string{"Content-Type": "text/json"}}, errorType: "INVALID_REQUEST", ids: []string{mediaType}},
		{name: "body too large", call: call{body: `{"organization":"` + strings.Repeat("x", 64<<10) + `"}`}, status: 413, errorType: "INVALID_REQUEST"},
		{name: "size not allowed", call: call{body: with(`"key_size":1024`)}, ids: []string{"attestcsr.csr.not_allowed"}, says: "key_size"},
		{name: "size zero", call: call{body: with(`"key_size":0`)}, ids: []string{"attestcsr.csr.not_allowed"}},
		{name: "empty common name", call: call{body: with(`"common_name":""`)}, ids: []string{"attestcsr.csr.empty"}, says: "common_name"},
		{name: "many rules at once", call: call{body: `{"key_size":1,"common_name":"` + strings.Repeat("x", 65) + `","organization":"a\u0000b","organization_unit":"","locality":"","state_or_province":"","country":"XX","email_address":"nobody","subject_alt_name":["host:443",""]}`},
			ids: []string{"attestcsr.csr.not_allowed", "attestcsr.csr.too_long", "attestcsr.csr.control_character", "attestcsr.csr.unknown_country", "attestcsr.csr.not_a_mailbox", "attestcsr.csr.not_a_name", "attestcsr.csr.empty_item"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			if c.method == "" {
				c.method = "POST"
			}
			if c.path == "" {
				c.path = csrPath
			}
			status, errorType := test.status, test.errorType
			if status == 0 {
				status = http.StatusBadRequest
			}
			if errorType == "" {
				errorType = "INVALID_ARGUMENT"
			}
			a := s.do(c)
			doc := a.vapiError(t)
			if a.status != status || doc.ErrorType != errorType {
				t.Fatalf("%d %s, want %d %s: %s", a.status, doc.ErrorType, status, errorType, a.body)
			}
			var ids []string
			for _, m := range doc.Messages {
				ids = append(ids, m.ID)
			}
			if test.ids != nil && !slices.Equal(ids, test.ids) {
				t.Errorf("ids %q, want %q", ids, test.ids)
			}
			if !strings.Contains(doc.Messages[0].Default, test.says) {
				t.Errorf("message %q does not say %q", doc.Messages[0].Default, test.says)
			}
			if status == http.StatusUnauthorized {
				if got := a.header.Get("WWW-Authenticate"); got != `Basic realm="attestcsr"` {
					t.Errorf("challenge %q", got)
				}
			}
			if status == http.StatusMethodNotAllowed {
				if got := a.header.Get("Allow"); got != "POST, GET, HEAD, DELETE" {
					t.Errorf("Allow: %q", got)
				}
			}
		})
	}
	if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != stored {
		t.Error("a refused request changed the stored CSR")
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Error("bad input was logged as a fault of the service")
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for _, form := range []string{"header", "cookie"} {
		carry := func(id string) map[string]string {
			if form == "cookie" {
				return map[string]string{"Cookie": "vmware-api-session-id=" + id}
			}
			return map[string]string{"vmware-api-session-id": id}
		}
		a := s.do(call{method: "POST", path: sessionPath})
		var id string
		if err := json.Unmarshal(a.body, &id); err != nil || a.status != http.StatusCreated || len(id) != 64 {
			t.Fatalf("login: %d %s", a.status, a.body)
		}
		if len(a.header.Values("Set-Cookie")) > 0 {
			t.Error("the login sets a cookie")
		}
		if a := s.do(call{method: "GET", path: csrPath, anonymous: true, header: carry(id)}); a.status != http.StatusNotFound {
			t.Errorf("session in the %s: %d %s", form, a.status, a.body)
		}
		a = s.do(call{method: "GET", path: sessionPath, anonymous: true, header: carry(id)})
		var session map[string]string
		if err := json.Unmarshal(a.body, &session); err != nil || a.status != http.StatusOK || len(session) != 3 || session["user"] != "admin" {
			t.Fatalf("session: %d %s", a.status, a.body)
		}
		for _, name := range []string{"created_time", "last_accessed_time"} {
			if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(session[name]) {
				t.Errorf("%s: %q", name, session[name])
			}
		}
		a = s.do(call{method: "DELETE", path: sessionPath, anonymous: true, header: carry(id)})
		if a.status != http.StatusNoContent || len(a.body) != 0 {
			t.Errorf("logout: %d %s", a.status, a.body)
		}
		for _, c := range []call{{method: "GET", path: csrPath}, {method: "GET", path: sessionPath}, {method: "DELETE", path: sessionPath}} {
			c.anonymous, c.header = true, carry(id)
			if a := s.do(c); a.status != http.StatusUnauthorized {
				t.Errorf("%s %s after logout: %d", c.method, c.path, a.status)
			}
		}
		// The first credentials present decide alone.
		good := s.do(call{method: "POST", path: sessionPath})
		if err := json.Unmarshal(good.body, &id); err != nil {
			t.Fatal(err)
		}
		if a := s.do(call{method: "GET", path: csrPath, user: "admin", password: "wrong", header: carry(id)}); a.status != http.StatusUnauthorized {
			t.Errorf("bad Authorization beside a good session: %d", a.status)
		}
		if a := s.do(call{method: "POST", path: sessionPath, anonymous: true, header: carry(id)}); a.status != http.StatusUnauthorized {
			t.Errorf("a session made a session: %d", a.status)
		}
	}
}

func TestLegacySessions(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	// govmomi sends chunked encoding and no body at all.
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+legacyPath, struct{ io.Reader }{strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", adminPassword)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var login struct{ Value string }
	if err := json.NewDecoder(resp.Body).Decode(&login); err != nil || resp.StatusCode != http.StatusOK || len(login.Value) != 64 {
		t.Fatalf("login: %d %v %v", resp.StatusCode, login, err)
	}
	session := map[string]string{"vmware-api-session-id": login.Value}
	a := s.do(call{method: "POST", path: legacyPath + "?~action=get", anonymous: true, header: session})
	var got struct{ Value map[string]string }
	if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusOK || got.Value["user"] != "admin" {
		t.Errorf("get: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "GET", path: csrPath, anonymous: true, header: session}); a.status != http.StatusNotFound {
		t.Errorf("legacy session under /api: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "DELETE", path: legacyPath, anonymous: true, header: session}); a.status != http.StatusOK {
		t.Errorf("logout: %d", a.status)
	}
	a = s.do(call{method: "POST", path: legacyPath + "?~action=get", anonymous: true, header: session})
	var doc struct {
		Type  string
		Value struct{ Messages []map[string]any }
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || a.status != http.StatusUnauthorized ||
		doc.Type != "com.vmware.vapi.std.errors.unauthenticated" || len(doc.Value.Messages) != 1 {
		t.Errorf("after logout: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "POST", path: legacyPath + "?~action=list"}); a.status != http.StatusNotFound {
		t.Errorf("unknown action: %d", a.status)
	}
}

// testCA signs what a CSR asks for.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{cert, key}
}

func (ca testCA) issue(t *testing.T, csrText string, serial int64) string {
	t.Helper()
	request := parseCSR(t, csrText)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: request.Subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, request.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (s *stack) setCertificate(text string) answer {
	s.t.Helper()
	body, err := json.Marshal(map[string]string{"certificate": text})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(call{method: "PUT", path: certificatePath, body: string(body)})
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	ca := newTestCA(t)

	initial := s.do(call{method: "GET", path: certificatePath})
	if initial.status != http.StatusOK {
		t.Fatalf("%d %s", initial.status, initial.body)
	}
	block, _ := pem.Decode([]byte(initial.member(t, "certificate")))
	first, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if first.Subject.CommonName != s.hostname || first.IsCA || first.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("initial certificate: %v CA=%v usage=%v", first.Subject, first.IsCA, first.KeyUsage)
	}

	pending := s.createCSR(validSpec)
	if got := s.do(call{method: "GET", path: certificatePath}); !bytes.Equal(got.body, initial.body) {
		t.Error("creating a CSR changed the installed certificate")
	}
	certificate := ca.issue(t, pending, 2)
	overtaking := s.createCSR(validSpec)
	a := s.setCertificate(certificate)
	if doc := a.vapiError(t); a.status != http.StatusBadRequest || doc.ErrorType != "INVALID_ARGUMENT" || !strings.Contains(doc.Messages[0].Default, "CSR") {
		t.Errorf("set overtaken by a create: %d %s", a.status, a.body)
	}
	certificate = ca.issue(t, overtaking, 3)
	a = s.setCertificate("subject=somebody\n" + certificate)
	if a.status != http.StatusNoContent || len(a.body) != 0 || a.header.Get("Content-Type") != "" {
		t.Fatalf("set: %d %s", a.status, a.body)
	}
	if got := s.do(call{method: "GET", path: certificatePath}).member(t, "certificate"); got != certificate {
		t.Errorf("installed:\n%s\nwant:\n%s", got, certificate)
	}
	if a := s.do(call{method: "GET", path: csrPath}); a.status != http.StatusNotFound {
		t.Errorf("the CSR was not used up: %d", a.status)
	}

	t.Run("renewal leaves a pending CSR alone", func(t *testing.T) {
		next := s.createCSR(validSpec)
		if a := s.setCertificate(ca.issue(t, overtaking, 4)); a.status != http.StatusNoContent {
			t.Fatalf("renewal: %d %s", a.status, a.body)
		}
		if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != next {
			t.Error("the pending CSR changed")
		}
	})
	t.Run("a private key is refused and not echoed", func(t *testing.T) {
		secret := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("the secret of somebody")}))
		a := s.setCertificate(certificate + secret)
		a.vapiError(t)
		if a.status != http.StatusBadRequest {
			t.Errorf("%d %s", a.status, a.body)
		}
		for _, place := range []string{string(a.body), s.log.String()} {
			if strings.Contains(place, "dGhlIHNlY3JldCBvZiBzb21lYm9keQ") {
				t.Error("the private key was echoed")
			}
		}
	})
	t.Run("missing member", func(t *testing.T) {
		a := s.do(call{method: "PUT", path: certificatePath, body: `{}`})
		if doc := a.vapiError(t); a.status != http.StatusBadRequest || !slices.Equal(doc.Messages[0].Args, []string{"certificate"}) {
			t.Errorf("%d %s", a.status, a.body)
		}
	})
}

func TestConcurrentCreates(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const n = 64
	returned := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			a, err := s.try(call{method: "POST", path: csrPath, body: validSpec})
			if err != nil || a.status != http.StatusCreated {
				t.Errorf("create: %v %d %s", err, a.status, a.body)
				return
			}
			returned[i] = a.member(t, "csr")
		})
	}
	wg.Wait()
	stored := s.do(call{method: "GET", path: csrPath}).member(t, "csr")
	if !slices.Contains(returned, stored) {
		t.Error("the stored CSR is none of those returned")
	}
	keys := map[string]bool{}
	for _, text := range returned {
		keys[string(parseCSR(t, text).RawSubjectPublicKeyInfo)] = true
	}
	if len(keys) != n {
		t.Errorf("%d keys for %d CSRs", len(keys), n)
	}
	ca := newTestCA(t)
	if a := s.setCertificate(ca.issue(t, stored, 9)); a.status != http.StatusNoContent {
		t.Errorf("the stored pair does not match: %d %s", a.status, a.body)
	}
}

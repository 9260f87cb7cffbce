package handler_test

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Ids of messages about the shape of a request.
const (
	invalidJSON     = "vapi.protocol.server.rest.invalid_json_content"
	unexpectedType  = "vapi.protocol.server.rest.param.body.unexpected"
	missingField    = "vapi.bindings.typeconverter.struct.field.missing"
	unknownProperty = "vapi.protocol.server.rest.unsupported_property"
	wrongMediaType  = "vapi.protocol.server.rest.unsupported_media_type"
	unknownField    = "attestcsr.json.unknown_field"
	duplicateField  = "attestcsr.json.duplicate_field"
)

type esxRefusal struct {
	name      string
	call      call // without method and path: a create
	status    int  // 0: 400
	errorType string
	ids       []string // of each message
	says      string   // part of the first message
}

// Who may send what is in TestAccess.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	stored := s.createCSR(validSpec)
	for _, test := range slices.Concat(esxBadPaths(), esxBadRequests(), esxBadFields()) {
		t.Run(test.name, func(t *testing.T) {
			c, status, errorType := test.call, test.status, test.errorType
			if c.method == "" {
				c.method = "POST"
			}
			if c.path == "" {
				c.path = csrPath
			}
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
		})
	}
	if got := s.do(call{method: "GET", path: csrPath}).member(t, "csr"); got != stored {
		t.Error("a refused request changed the stored CSR")
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Error("bad input was logged as a fault of the service")
	}
}

// esxBadPaths are unknown paths, most of them spellings of a known one.
func esxBadPaths() []esxRefusal {
	var all []esxRefusal
	for name, path := range map[string]string{
		"unknown path":   "/api/nothing",
		"doubled slash":  "/" + csrPath,
		"trailing slash": csrPath + "/",
		"letter case":    "/API/esx/attestation/certificate/csr",
		"escaped letter": "/api/esx/attestation/certificate/c%73r",
		"dot segment":    "/api/esx/./attestation/certificate/csr",
		"path parameter": csrPath + ";x=1",
	} {
		all = append(all, esxRefusal{name: name, call: call{method: "GET", path: path, anonymous: true}, status: 404, errorType: "NOT_FOUND",
			ids: []string{"com.vmware.vapi.rest.httpNotFound"}, says: "Not found."})
	}
	return all
}

// esxBadRequests have a body that is not a JSON object, a wrong query or a wrong header.
func esxBadRequests() []esxRefusal {
	ofType := func(contentType, says string) esxRefusal {
		return esxRefusal{name: "Content-Type " + contentType, call: call{body: validSpec, header: map[string]string{"Content-Type": contentType}},
			errorType: "INVALID_REQUEST", ids: []string{wrongMediaType}, says: says}
	}
	return []esxRefusal{
		{name: "malformed JSON", call: call{body: `{"organization":`}, ids: []string{invalidJSON}},
		{name: "trailing bytes", call: call{body: validSpec + "{}"}, ids: []string{invalidJSON}},
		{name: "empty body", call: call{raw: true, header: map[string]string{"Content-Type": asJSON}}, ids: []string{invalidJSON}},
		{name: "a list", call: call{body: `[]`}, ids: []string{invalidJSON}},
		{name: "null", call: call{body: `null`}, ids: []string{invalidJSON}},
		{name: "a string", call: call{body: `"x"`}, ids: []string{invalidJSON}},
		{name: "byte order mark", call: call{body: "\ufeff" + validSpec}, ids: []string{invalidJSON}, says: "byte order mark"},
		{name: "byte order mark and more", call: call{body: "\ufeff" + `{"x":1,"key_size":true,` + validSpec[1:]}, ids: []string{invalidJSON, unknownField, unexpectedType}, says: "byte order mark"},
		{name: "UTF-16", call: call{body: "\xff\xfe{\x00}\x00"}, ids: []string{invalidJSON}, says: "UTF-16"},
		{name: "Latin-1", call: call{body: strings.Replace(validSpec, "Ltd", "M\xfcller", 1)}, ids: []string{invalidJSON}, says: `"organization" is not UTF-8 at byte 26: send the body in UTF-8`},
		{name: "Latin-1 in two fields and a name", call: call{body: strings.Replace(strings.Replace(validSpec, "Ltd", "M\xfcller", 1), `Palo Alto"`, "K\xf6ln\",\"stra\xdfe\":1", 1)}, ids: []string{invalidJSON, invalidJSON, invalidJSON}},
		{name: "lone surrogate", call: call{body: strings.Replace(validSpec, "Ltd", `\ud800`, 1)}, ids: []string{invalidJSON}, says: `"organization" has half of a surrogate pair at byte 25`},
		{name: "query parameter", call: call{path: csrPath + "?foo=1", body: validSpec}, ids: []string{unknownProperty}, says: "Unsupported property with name: foo."},
		{name: "malformed query", call: call{path: csrPath + "?a;b", body: validSpec}, ids: []string{unknownProperty}},
		{name: "no Content-Type", call: call{raw: true, body: validSpec}, errorType: "INVALID_REQUEST", ids: []string{wrongMediaType}},
		{name: "other Content-Type", call: call{body: validSpec, header: map[string]string{"Content-Type": "text/json"}}, errorType: "INVALID_REQUEST", ids: []string{wrongMediaType}},
		ofType("application/json; charset=iso-8859-1", `the charset "iso-8859-1" is not supported; send UTF-8`),
		ofType(`application/json;charset="UTF-16"`, `the charset "UTF-16" is not supported`),
		ofType("application/json; charset=utf8", `the charset "utf8" is not supported`),
		ofType("application/json; charset=", "the Content-Type must be application/json"),
		ofType(`application/json; charset=""`, `the charset "" is not supported`),
		ofType("application/json; charset=utf-8; charset=latin1", "the Content-Type must be application/json"),
		ofType("application/json, text/plain", "the Content-Type must be application/json"),
		{name: "body too large", call: call{body: `{"organization":"` + strings.Repeat("x", 64<<10) + `"}`}, status: 413, errorType: "INVALID_REQUEST"},
		{name: "set without its member", call: call{method: "PUT", path: certificatePath}, ids: []string{missingField}, says: `"certificate"`},
	}
}

// esxBadFields break the rules of types, and of some values: TestGeneratedSpecs has
// more values.
func esxBadFields() []esxRefusal {
	with := func(members string) string { return strings.Replace(validSpec, "{", "{"+members+",", 1) }
	without := func(name string) string {
		return regexp.MustCompile(`"`+name+`":"[^"]*",?`).ReplaceAllString(validSpec, "")
	}
	of := func(name, body, says string, ids ...string) esxRefusal {
		return esxRefusal{name: name, call: call{body: body}, ids: ids, says: says}
	}
	return []esxRefusal{
		of("every field missing", `{}`, `"organization"`, missingField, missingField, missingField, missingField, missingField, missingField),
		of("one field missing", without("locality"), `"locality"`, missingField),
		of("required field null", `{"organization":null,`+without("organization")[1:], `"organization"`, missingField),
		of("key_size a string", with(`"key_size":"3072"`), `Field "key_size" must be an integer of 64 bits, not a string: send the number 3072 without quotes.`, unexpectedType),
		of("key_size 2048.5", with(`"key_size":2048.5`), "integer of 64 bits, not a number with a fraction or an exponent.", unexpectedType),
		of("key_size 2048.0", with(`"key_size":2048.0`), "integer of 64 bits, not a number with a fraction or an exponent: send 2048.", unexpectedType),
		of("key_size beyond int64", with(`"key_size":9223372036854775808`), "integer of 64 bits, not another number.", unexpectedType),
		of("key_size true", with(`"key_size":true`), "integer of 64 bits, not true.", unexpectedType),
		of("names not a list", with(`"subject_alt_name":"a"`), `"subject_alt_name" must be a list of strings, not a string.`, unexpectedType),
		of("a text a list", with(`"common_name":["a"]`), `"common_name" must be a string, not a list.`, unexpectedType),
		of("a name not a string", with(`"subject_alt_name":["a",7]`), `"subject_alt_name[1]"`, unexpectedType),
		of("unknown field", with(`"keysize":4096`), `"keysize"`, unknownField),
		of("other letter case", with(`"Key_Size":4096`), `"Key_Size"`, unknownField),
		of("duplicate key", with(`"key_size":4096,"key_size":2048`), `"key_size"`, duplicateField),
		of("unknown names with other problems", `{"keysize":4096,"key_size":"3072","organization":"a"}`, `"keysize"`, slices.Concat([]string{unknownField, unexpectedType}, slices.Repeat([]string{missingField}, 5))...),
		of("wrapped spec", `{"spec":`+validSpec+`}`, `"spec"`, slices.Concat([]string{unknownField}, slices.Repeat([]string{missingField}, 6))...),
		of("thousands of unknown fields", "{"+strings.Repeat(`"x1":1,"y":2,`, 1500)+validSpec[1:], `"x1"`, unknownField, unknownField, duplicateField, duplicateField),
		of("more problems than are told", "{"+numbered(1000)+validSpec[1:], `"x1"`, append(slices.Repeat([]string{unknownField}, 32), "attestcsr.more")...),
		of("many rules at once", `{"key_size":1,"common_name":"`+strings.Repeat("x", 65)+`","organization":"a\u0000b","organization_unit":"","locality":"",
			"state_or_province":"","country":"XX","email_address":"nobody","subject_alt_name":["host:443",""]}`, "key_size",
			"attestcsr.csr.not_allowed", "attestcsr.csr.too_long", "attestcsr.csr.control_character", "attestcsr.csr.unknown_country",
			"attestcsr.csr.not_a_mailbox", "attestcsr.csr.not_a_name", "attestcsr.csr.empty_item"),
		of("empty common name", with(`"common_name":""`), "common_name", "attestcsr.csr.empty"),
	}
}

// numbered are n members that nobody knows.
func numbered(n int) string { return strings.Join(many(n, `"x%d":1`), ",") + "," }

package handler_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

type nsxRefusal struct {
	name         string
	call         call // without method and path: a create
	status, code int
	says         string
}

// Who may send what is in TestAccess.
func TestNSXBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.nsxMake("kept", quickSpec)
	stored := s.do(call{method: "GET", path: nsxPath("kept")})
	for _, test := range slices.Concat(nsxBadActions(), nsxBadBodies(), nsxBadFields(), nsxBadQueries()) {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			if c.method == "" {
				c.method = "POST"
			}
			if c.path == "" {
				c.path = nsxPath("new", "action=create")
			}
			a := s.do(c)
			e := a.nsxError(t)
			if a.status != test.status || *e.Code != int64(test.code) || !strings.Contains(*e.Message, test.says) {
				t.Fatalf("%d, want %d %d %q: %s", a.status, test.status, test.code, test.says, a.body)
			}
			if fields := strings.HasPrefix(*e.Message, "Field level validation errors: {"); fields != (e.Details != nil) || fields && *e.Details != *e.Message {
				t.Errorf("details: %s", a.body)
			}
			if *e.Module != "policy" {
				t.Errorf("module_name %s", *e.Module)
			}
		})
	}
	if a := s.do(call{method: "GET", path: nsxPath("kept")}); !bytes.Equal(a.body, stored.body) {
		t.Errorf("a refused request changed what is stored: %s", a.body)
	}
	if list := decode[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxCSRs})); *list.ResultCount != 1 {
		t.Errorf("a refused request made something: %+v", list)
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Error("bad input was logged as a fault of the service")
	}
}

// nsxBadActions have no action, an unknown one, or a wrong request for one.
func nsxBadActions() []nsxRefusal {
	at := func(name, path, says string) nsxRefusal {
		return nsxRefusal{name, call{path: path, body: quickSpec}, 400, 255, says}
	}
	of := func(name, action, body, says string) nsxRefusal {
		return nsxRefusal{name, call{path: nsxPath("kept", action), body: body}, 400, 255, says}
	}
	return []nsxRefusal{
		at("no action", nsxPath("new"), "{action is required}"),
		at("empty action", nsxPath("new", "action="), "{action is required}"),
		at("unknown action", nsxPath("new", "action=destroy"), `action "destroy"`),
		at("action of another path", nsxPath("", "action=create"), `action "create"`),
		at("two actions", nsxPath("new", "action=create", "action=import"), "action must be given once"),
		at("malformed query", nsxPath("new", "action=create;x=1"), "query parameters"),
		{"existing id", call{path: nsxPath("kept", "action=create"), body: quickSpec}, 400, 500127, "Cannot create an object with path=[/infra/csrs/kept] as it already exists."},
		of("private key", "action=import", `{"private_key":"-----BEGIN","passphrase":"x","x":1}`,
			"{x is not a member; names are case-sensitive; pem_encoded is required; private_key must not be sent: keys are made here and not taken; passphrase must not be sent: keys are made here and not taken}"),
		of("another purpose", "action=import", `{"pem_encoded":"x","purpose":"server"}`, "purpose must be one of signing-ca"),
		of("import of nothing", "action=import", `{}`, "pem_encoded is required"),
		of("import of rubbish", "action=import", `{"pem_encoded":"x"}`, "pem_encoded must have at least one PEM block"),
		of("upload of JSON", "action=upload", "", "multipart/form-data"),
		of("days", "action=self_sign&days_valid=1.5", "", `days_valid "1.5" must be an integer`),
		of("no days", "days_valid=0&action=self_sign", "", `days_valid "0" must be from 1 to 36500`),
		of("too many days", "action=self_sign&days_valid=36501", "", `days_valid "36501" must be from 1 to 36500`),
		{"self_sign new without a subject", call{path: nsxPath("", "action=self_sign")}, 400, 255, "{subject is required}"},
	}
}

// nsxBadBodies are not a JSON object, too large, or of another revision.
func nsxBadBodies() []nsxRefusal {
	of := func(name, body, says string) nsxRefusal { return nsxRefusal{name, call{body: body}, 400, 220, says} }
	return []nsxRefusal{
		of("malformed JSON", `{"subject":`, "malformed at byte"),
		of("trailing bytes", quickSpec+"x", "malformed at byte"),
		{"empty body", call{raw: true}, 400, 220, "not a JSON object"},
		of("a list", `[]`, "not a JSON object"),
		of("null", `null`, "not a JSON object"),
		of("byte order mark", "\ufeff"+quickSpec, "body: the body begins with a byte order mark: send UTF-8 without one."),
		of("UTF-16", "\xff\xfe{\x00}\x00", "body: the body is UTF-16: send UTF-8."),
		of("Latin-1 and more", quickWith("\"description\":\"M\xfcller\",\"keysize\":1"), "description is not UTF-8 at byte 102: send the body in UTF-8; keysize is not a member; names are case-sensitive."),
		of("lone surrogate", quickWith(`"description":"\ud800"`), "description has half of a surrogate pair at byte 101"),
		of("many problems", "\ufeff{"+numbered(1000)+quickSpec[1:], "; and 969 more."),
		{"body too large", call{body: `{"x":"` + strings.Repeat("x", 64<<10) + `"}`}, 413, 255, "65536"},
		{"stale revision", call{body: quickWith(`"_revision":1`)}, 412, 604, "_revision"},
	}
}

// quickWith is quickSpec with further members.
func quickWith(members string) string { return quickSpec[:len(quickSpec)-1] + "," + members + "}" }

// nsxBadFields break the rules of shape and of labels. The rules of values, numbers of
// names among them, are in TestGeneratedSpecs.
func nsxBadFields() []nsxRefusal {
	of := func(name, body, says string) nsxRefusal { return nsxRefusal{name, call{body: body}, 400, 255, says} }
	with := func(name, members, says string) nsxRefusal { return of(name, quickWith(members), says) }
	attributes := func(name, list, says string) nsxRefusal {
		return of(name, `{"algorithm":"EC","subject":{"attributes":`+list+`}}`, says)
	}
	algorithm := func(name, algorithm string) nsxRefusal {
		return of(name, `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"`+algorithm+`"}`, "algorithm must be one of RSA, EC")
	}
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	return []nsxRefusal{
		of("a member without a name", `{"":1}`, `"" is not a member`),
		of("no subject", `{}`, "{subject is required}"),
		of("null subject", `{"subject":null}`, "{subject is required}"),
		of("no attributes", `{"subject":{}}`, "{subject.attributes is required}"),
		attributes("no attribute", `[]`, "subject.attributes must have at least 1 entry"),
		attributes("no common name", `[{"key":"O","value":""}]`, "{subject.attributes CN is required; subject.attributes O must not be empty}"),
		attributes("null attribute", `[null]`, "subject.attributes[0].value is required; subject.attributes[0].key is required"),
		attributes("attribute without value", `[{"key":"CN"}]`, "subject.attributes[0].value is required"),
		attributes("unknown key", `[{"key":"CN","value":"x"},{"key":"DC","value":"x"}]`, "subject.attributes[1].key must be one of CN, O, OU, C, ST, L"),
		attributes("key in lower case", `[{"key":"cn","value":"x"}]`, "subject.attributes[0].key must be one of"),
		attributes("unknown member inside", `[{"key":"CN","value":"x","oid":"1"}]`, "subject.attributes[0].oid is not a member"),
		attributes("many problems", list(1000, `{"key":"X","value":"x"}`), "; and 968 more}"),
		with("unknown member", `"keysize":4096`, "keysize is not a member"),
		of("unknown member with other problems", `{"keysize":4096,"is_ca":"true"}`, `{keysize is not a member; names are case-sensitive; is_ca must be true or false, not a string: send true without quotes; subject is required}`),
		with("letter case", `"Key_Size":4096`, "Key_Size is not a member"),
		with("duplicate member", `"algorithm":"RSA"`, "algorithm occurs more than once"),
		with("wrong types", `"is_ca":"yes"`, "is_ca must be true or false"),
		with("tags an object", `"tags":{}`, "tags must be a list"),
		with("a revision of 0.0", `"_revision":0.0`, "_revision must be an integer"),
		with("key size 2048.0", `"key_size":2048.0`, "key_size must be an integer, as a number or as a string"),
		with("key size with a zero", `"key_size":"0256"`, "key_size must be an integer"),
		with("key size with a blank", `"key_size":"256 "`, "key_size must be an integer"),
		with("key size of nothing", `"key_size":""`, "key_size must be an integer"),
		with("key size true", `"key_size":true`, "key_size must be an integer"),
		with("key size of the other kind", `"key_size":2048`, `key_size "2048" must be one of 256, 384, 521`),
		algorithm("algorithm", "DSA"),
		algorithm("no algorithm", ""),
		with("underscore", `"extensions":{"subject_alt_names":{"dns_names":["a_b.example.com"]}}`,
			`extensions.subject_alt_names "a_b.example.com" must not have an underscore in a DNS name`),
		with("IDN and prefix length", `"extensions":{"subject_alt_names":{"dns_names":["bücher.example"],"ip_addresses":["10.0.0.1/24"]}}`,
			`"bücher.example" must be in ASCII, as xn--bcher-kva.example; extensions.subject_alt_names "10.0.0.1/24" must be one address`),
		attributes("country and common name", `[{"key":"C","value":"UK"},{"key":"CN","value":"`+strings.Repeat("x", 70)+`"},{"key":"O","value":"M\ufffdller"}]`,
			`{subject.attributes CN must be at most 64 characters: it has 70; subject.attributes O must not contain U+FFFD, which stands for text that was lost on its way here; subject.attributes C "UK" must be GB`),
		with("tags", `"tags":`+list(31, `{"tag":"x"}`), "tags must have at most 30 entries"),
		with("a long display name", `"display_name":"`+strings.Repeat("x", 256)+`"`, "display_name must be at most 255 characters"),
	}
}

// nsxBadQueries have wrong parameters of a list.
func nsxBadQueries() []nsxRefusal {
	of := func(name, query, says string) nsxRefusal {
		return nsxRefusal{name, call{method: "GET", path: nsxPath("", query)}, 400, 255, says}
	}
	return []nsxRefusal{
		of("page size", "page_size=1001", "page_size"),
		of("sort key", "sort_by=path", "sort_by"),
		of("sort order", "sort_ascending=TRUE", "sort_ascending"),
		of("cursor", "cursor=AAAA", "cursor"),
		of("fields", "included_fields=id,nothing", "included_fields"),
		of("too many fields", "included_fields=id"+strings.Repeat(",id", 1000), "included_fields must name a member once"),
		of("all of it", "cursor=!&page_size=x&sort_by=x", `sort_by "x" must be one of id, display_name, _create_time, _last_modified_time; page_size`),
	}
}

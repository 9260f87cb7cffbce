package handler_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"attestcsr/test/kit"
)

// bodies draws bodies from the schemas of the document.
type bodies struct {
	schemas map[string]any
	*rapid.T
}

func (b bodies) pick(from ...any) any { return rapid.SampledFrom(from).Draw(b.T, "one of") }

// resolve puts the parts of a schema together.
func (b bodies) resolve(schema map[string]any) map[string]any {
	if ref, is := schema["$ref"].(string); is {
		return b.resolve(b.schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(map[string]any))
	}
	if options, is := schema["oneOf"].([]any); is {
		return b.resolve(b.pick(options...).(map[string]any))
	}
	parts, composed := schema["allOf"].([]any)
	if !composed {
		return schema
	}
	properties, required := map[string]any{}, []any{}
	for _, part := range parts {
		part := b.resolve(part.(map[string]any))
		maps.Copy(properties, part["properties"].(map[string]any))
		more, _ := part["required"].([]any)
		required = append(required, more...)
	}
	return map[string]any{"type": "object", "properties": properties, "required": required}
}

// draw makes a value that a schema takes.
func (b bodies) draw(schema map[string]any) any {
	schema = b.resolve(schema)
	if values, is := schema["enum"].([]any); is {
		return b.pick(values...)
	}
	kind := schema["type"]
	if kinds, several := kind.([]any); several {
		kind = b.pick(kinds...)
	}
	limit := func(name string, absent int) int {
		if n, is := schema[name].(float64); is {
			return int(n)
		}
		return absent
	}
	switch kind {
	case "null":
		return nil
	case "boolean":
		return b.pick(true, false)
	case "integer":
		step := limit("multipleOf", 1)
		return step * rapid.IntRange(limit("minimum", -1)/step, limit("maximum", 70_000)/step).Draw(b.T, "integer")
	case "string":
		if pattern, is := schema["pattern"].(string); is {
			return b.pick("US", rapid.StringMatching(pattern).Draw(b.T, "text"))
		}
		if rapid.IntRange(0, 9).Draw(b.T, "plain") > 0 {
			return b.pick("US", "h.example.com", "192.0.2.1", "a@example.com", "YQ==")
		}
		least := limit("minLength", 0)
		return rapid.StringN(least, min(limit("maxLength", 300), least+rapid.SampledFrom([]int{5, 5, 5, 300}).Draw(b.T, "length")), -1).Draw(b.T, "text")
	case "array":
		items := schema["items"].(map[string]any)
		list := make([]any, rapid.IntRange(limit("minItems", 0), 3).Draw(b.T, "items"))
		for i := range list {
			list[i] = b.draw(items)
		}
		return list
	case "object":
		return b.drawObject(schema)
	}
	return b.pick(nil, "x", 1, []any{}, map[string]any{"y": true}) // the schema of anything
}

func (b bodies) drawObject(schema map[string]any) map[string]any {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	object := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if slices.Contains(required, any(name)) || rapid.IntRange(0, 3).Draw(b.T, name) == 0 {
			object[name] = b.draw(properties[name].(map[string]any))
		}
	}
	return object
}

// spoil changes one place of a body.
func (b bodies) spoil(value any) any {
	object, is := value.(map[string]any)
	names := slices.Sorted(maps.Keys(object))
	if list, isList := value.([]any); isList && len(list) > 0 && rapid.Bool().Draw(b.T, "inside") {
		list[0] = b.spoil(list[0])
		return list
	}
	if !is || rapid.IntRange(0, 5).Draw(b.T, "here") == 0 {
		return b.pick(nil, true, "text", "", "1", 7, -1, 1.5, []any{}, []any{nil}, map[string]any{})
	}
	if len(names) == 0 || rapid.IntRange(0, 3).Draw(b.T, "more") == 0 {
		object[b.pick("keysize", "Key_Size", "", "private_key", "common_name", "subject", "pem_encoded").(string)] = "x"
		return object
	}
	name := rapid.SampledFrom(names).Draw(b.T, "member")
	if rapid.IntRange(0, 2).Draw(b.T, "less") == 0 {
		delete(object, name)
	} else {
		object[name] = b.spoil(object[name])
	}
	return object
}

// ofShape is what answers say of a body whose shape is wrong: members, types, lengths of
// lists. Other refusals are about what the members say.
var ofShape = regexp.MustCompile(`field\.missing|body\.unexpected|unknown_field|invalid_json|"error_code":220|is not a member|[a-z_\]] is required|must be (a string|true or false|a list|an object|an integer)|` +
	`must have at (least|most) \d+ entr|must not be sent|algorithm .*must be one of|purpose .*must be one of|key must be one of|failed to parse|missing `)

// TestGeneratedBodies: what the document refuses is never accepted, and of what it takes
// the shape is never refused.
func TestGeneratedBodies(t *testing.T) {
	t.Parallel()
	d, s := theDescription(t), newStack(t)
	var document struct {
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(d.text, &document); err != nil {
		t.Fatal(err)
	}
	v := s.vault("admin", adminPassword)
	s.createCSR(validSpec)
	json := map[string]string{"Content-Type": asJSON}
	var taken, refused, accepted atomic.Int64
	for name, c := range map[string]call{
		"EsxCsrSpec": {method: "POST", path: csrPath, header: json}, "EsxCertificate": {method: "PUT", path: certificatePath, header: json},
		"TlsCsrSpec": {method: "POST", path: nsxPath("generated", "action=create"), header: json}, "TlsTrustData": {method: "POST", path: nsxPath("generated", "action=import"), header: json},
		"TlsCsrWithDaysValid": {method: "POST", path: nsxCSRs + "?action=self_sign", header: json},
		"VaultPassword":       {method: "POST", path: userpassLogin + "nobody", header: json, anonymous: true},
		"VaultSign":           {method: "POST", path: transitSign + "attestation", anonymous: true, header: json, lines: tokenHeader(v.token)},
		"VaultVerify":         {method: "POST", path: transitVerify + "attestation", anonymous: true, header: json, lines: tokenHeader(v.token)},
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				b := bodies{document.Components.Schemas, rt}
				value := b.draw(map[string]any{"$ref": "#/components/schemas/" + name})
				if rapid.Bool().Draw(rt, "spoilt") {
					value = b.spoil(value)
				}
				c.body, c.raw = kit.JSON(value), true
				a := s.serve(c)
				r, err := c.request(s.url)
				if err != nil {
					rt.Fatal(err)
				}
				denied := d.refuses(exchange{r, []byte(c.body), a})
				switch {
				case a.status < 300 && denied != nil:
					rt.Fatalf("accepted, and the document refuses it: %v\n%s", denied, c.body)
				// Other actions of the path than that of the request take {}.
				case a.status == http.StatusBadRequest && denied == nil && c.body != "{}" && ofShape.Match(withoutRules(a.body)):
					rt.Fatalf("the document takes it, and the service refuses its shape: %s\n%s", a.body, c.body)
				case a.status < 300:
					accepted.Add(1)
					s.serve(call{method: "DELETE", path: nsxPath("generated")})
				case denied == nil:
					taken.Add(1)
				default:
					refused.Add(1)
				}
			})
		})
	}
	kit.Count(t, "generated bodies accepted", int(accepted.Load()))
	kit.Count(t, "generated bodies refused by rules", int(taken.Load()))
	kit.Count(t, "generated bodies refused by both", int(refused.Load()))
}

// withoutRules leaves out what sounds like shape and is a rule: a subject needs a CN, and
// an input is in one of two places.
func withoutRules(body []byte) []byte {
	return regexp.MustCompile(`subject\.attributes [A-Z]+ is required|missing input|missing 'signature'|some elements of batch_input are missing|missing batch input`).ReplaceAll(body, nil)
}

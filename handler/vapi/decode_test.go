package vapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/vapi"
)

func decode(body []byte) (pkcs10.Spec, error) {
	r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return vapi.DecodeCreateSpec(echo.New().NewContext(r, httptest.NewRecorder()))
}

// FuzzCreateSpec: an accepted body is one JSON object with documented members only
// and all required ones, and gives the same spec after it was written again. A
// refused body is an error of the client and gives no spec.
func FuzzCreateSpec(f *testing.F) {
	for _, seed := range []string{
		`{"organization":"a","organization_unit":"b","locality":"c","state_or_province":"d","country":"us","email_address":"a@b.c"}`,
		`{"key_size":3072,"common_name":"x","organization":"","organization_unit":"","locality":"","state_or_province":"","country":"","email_address":"","subject_alt_name":["a","10.0.0.1"]}`,
		`{"key_size":null,"common_name":null,"organization":"é","organization_unit":"\u00e9","locality":"\ud83d\ude00","state_or_province":"","country":"","email_address":"","subject_alt_name":null}`,
		`{"key_size":2048.0}`, `{"key_size":"2048"}`, `{"key_size":9223372036854775808}`, `{"Key_Size":4096}`,
		`{"organization":"a","organization":"b"}`, `{"organization":"\ud800"}`, "{\"organization\":\"\xff\"}",
		`[]`, `null`, `""`, ``, `{}{}`, `{"subject_alt_name":[null]}`, `{"subject_alt_name":[[]]}`,
		`{"key_size":"3072","spec":{},"common_name":["a"]}`, "\ufeff{}", "\xff\xfe{\x00}\x00", `{"organization":"a\ud800","organization_unit":1,"organization_unit":"b"}`, "{\"\xff\":1,\"x\":{\"x\":1,\"x\":2}}",
	} {
		f.Add([]byte(seed))
	}
	required := []string{"organization", "organization_unit", "locality", "state_or_province", "country", "email_address"}
	known := append([]string{"key_size", "common_name", "subject_alt_name"}, required...)
	f.Fuzz(func(t *testing.T, body []byte) {
		spec, err := decode(body)
		if err != nil {
			var kind *csr.Error
			if !errors.As(err, &kind) || kind.Kind != csr.Invalid {
				t.Fatalf("not the client's fault: %v", err)
			}
			if !reflect.DeepEqual(spec, pkcs10.Spec{}) {
				t.Fatalf("refused and yet %+v", spec)
			}
			return
		}
		var object map[string]any
		if err := json.Unmarshal(body, &object); err != nil || !utf8.Valid(body) {
			t.Fatalf("accepted %q: %v", body, err)
		}
		for name := range object {
			if !slices.Contains(known, name) {
				t.Fatalf("accepted the unknown member %q", name)
			}
		}
		for _, name := range required {
			if _, isString := object[name].(string); !isString {
				t.Fatalf("accepted without %s", name)
			}
		}
		// encoding/json keeps numbers as float64: key_size is compared below 2^53.
		if size, given := object["key_size"].(float64); given && size < 1<<53 && size > -1<<53 && float64(*spec.KeySize) != size {
			t.Fatalf("key_size %v became %d", size, *spec.KeySize)
		}
		if size, given := object["key_size"]; given && size != nil {
			object["key_size"] = *spec.KeySize
		}
		again, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		second, err := decode(again)
		if err != nil || !reflect.DeepEqual(spec, second) {
			t.Fatalf("written again it means something else: %v\n%+v\n%+v", err, spec, second)
		}
	})
}

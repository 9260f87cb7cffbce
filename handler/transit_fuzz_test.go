package handler_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// FuzzTransitSign: what is signed is what the JSON library reads in the body, in the way that
// it asks for. A refused body gets a reason and no signature.
func FuzzTransitSign(f *testing.F) {
	for _, seed := range []string{
		`{"input":"YQ=="}`, `{"input":"","key_version":"0","prehashed":"false"}`, `{"input":"YQ==","hash_algorithm":"sha2-512","signature_algorithm":"pkcs1v15","marshaling_algorithm":"jws"}`,
		`{"batch_input":[{"input":"YQ==","reference":"a"},{"input":"!"},{},null]}`, `{"batch_input":[]}`, `{"input":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=","prehashed":true,"salt_length":32}`,
		`{"input":"YQ==","batch_input":null,"x":{"y":[1,{"z":2}]},"key_version":1}`, `{"input":1}`, `{"input":"a\ud800"}`, "{\"input\":\"\xff\"}", `{"input":"YQ==","input":"Yg=="}`, `{"Input":"YQ=="}`,
		`{"input":"YQ==","prehashed":"yes","key_version":1e0}`, `[]`, ``, `{}{}`, "\ufeff{}", "\xff\xfe{\x00}\x00", `{"input":"YWFh\r\nYWFh","salt_length":{"a":1}}`,
	} {
		f.Add([]byte(seed))
	}
	s := newFuzzed(f)
	v := s.vault("admin", adminPassword)
	public := v.public(f, "attestation", 1)
	f.Fuzz(func(t *testing.T, body []byte) {
		defer s.log.Reset()
		a := s.serve(call{method: http.MethodPost, path: transitSign + "attestation", body: string(body), raw: true, anonymous: true, lines: tokenHeader(v.token)})
		s.witness.report(t)
		if a.status != http.StatusOK {
			if a.vaultErrors(t) == "" || a.status != http.StatusBadRequest && a.status != http.StatusRequestEntityTooLarge {
				t.Fatalf("%d %s", a.status, a.body)
			}
			return
		}
		type asked struct {
			Input *string `json:"input"`
		}
		var sent struct {
			Input      *string  `json:"input"`
			Batch      []*asked `json:"batch_input"`
			Prehashed  any      `json:"prehashed"`
			Hash       string   `json:"hash_algorithm"`
			Algorithm  string   `json:"algorithm"`
			Scheme     string   `json:"signature_algorithm"`
			Marshaling string   `json:"marshaling_algorithm"`
		}
		if err := jsonv2.Unmarshal(body, &sent, jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)); err != nil {
			t.Fatalf("accepted: %v", err)
		}
		made := []signed{}
		if sent.Batch == nil {
			sent.Batch, made = []*asked{{sent.Input}}, append(made, *decode[secret[signed]](t, a).Data)
		} else {
			made = decode[secret[batch[signed]]](t, a).Data.Results
		}
		if len(made) != len(sent.Batch) {
			t.Fatalf("%d signatures of %d inputs", len(made), len(sent.Batch))
		}
		h := vaultHashes[cmp.Or(sent.Hash, sent.Algorithm, "sha2-256")]
		for i, m := range made {
			if (m.Signature == "") != (m.Error != "") {
				t.Fatalf("%+v", m)
			}
			if m.Error != "" {
				continue
			}
			var input []byte
			if err := json.Unmarshal([]byte(`"`+strings.NewReplacer("\r", "", "\n", "").Replace(*sent.Batch[i].Input)+`"`), &input); err != nil {
				t.Fatal(err)
			}
			digest := bytes.Clone(input)
			if sent.Prehashed != true && sent.Prehashed != "true" {
				digest = digestOf(h, input)
			}
			if err := check(public, cmp.Or(sent.Scheme, "pss"), sent.Marshaling, h, digest, m.Signature); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
		}
	})
}

package csr_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"attestcsr/csr"
	"attestcsr/keystore"
)

func goldenNamed(t testing.TB, file string) keystore.Record {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return keystore.Record{Slot: keystore.Slot{Collection: "c", ID: "web/1"}, Revision: 1, Payload: bytes.TrimSuffix(b, []byte("\n"))}
}

// The golden files are what version 1 of the format wrote. They never change:
// whatever ever shipped still opens.
func TestGoldenNamedPayloads(t *testing.T) {
	t.Parallel()
	request := goldenNamed(t, "named-request-v1.json")
	certificate := goldenNamed(t, "named-certificate-v1.json")
	made := time.Date(2026, 11, 23, 21, 30, 0, 123e6, time.UTC)
	object := csr.Object{
		ID: "web/1", UniqueID: "0e92e1d1-9530-46f5-ae3a-a096bd707c82",
		Labels:    csr.Labels{DisplayName: "Web", Description: "two\nlines", Tags: []csr.Tag{{Scope: "env", Tag: "prod"}, {}}},
		CreatedBy: "nora", ModifiedBy: "nora", Created: made, Modified: made,
	}
	spec := csr.Spec{
		Algorithm: csr.ECDSA, KeySize: new(int64(256)), CA: true,
		Subject: []csr.Attribute{
			{Type: csr.CommonName, Value: "web"}, {Type: csr.Organization, Value: "Müller & <Söhne>"},
			{Type: csr.OrganizationalUnit, Value: "B"}, {Type: csr.OrganizationalUnit, Value: "A"},
			{Type: csr.Country, Value: "DE"}, {Type: csr.StateOrProvince, Value: "BY"}, {Type: csr.Locality, Value: "M"},
		},
		Email: "ops@example.com",
		AltNames: []csr.AltName{
			{Kind: csr.DNSName, Value: "web.example.com"}, {Kind: csr.IPAddress, Value: "192.0.2.1"}, {Kind: csr.URI, Value: "urn:example:x"},
			{Kind: csr.Mailbox, Value: "a@example.com"}, {Value: "content.example.com"},
		},
	}
	r, err := csr.RequestIn(request)
	if err != nil || !reflect.DeepEqual(r.Object, object) || !reflect.DeepEqual(r.Spec, spec) {
		t.Errorf("%+v, error %v, want %+v %+v", r, err, object, spec)
	}
	parsed := parseRequest(t, r.PEM)

	c, err := csr.CertificateIn(certificate)
	if err != nil || len(c.Chain) != 1 || !equalKeys(c.Chain[0].PublicKey, parsed.PublicKey) {
		t.Fatalf("%+v, error %v", c, err)
	}
	object.UniqueID = "efbe7eb9-72d7-49b2-8ccd-e9dba46741b9"
	if !reflect.DeepEqual(c.Object, object) {
		t.Errorf("%+v, want %+v", c.Object, object)
	}

	for _, golden := range [][]byte{request.Payload, certificate.Payload} {
		written, err := csr.RewriteNamed(golden)
		if err != nil || !bytes.Equal(written.Payload, golden) {
			t.Errorf("version 1 is written as\n%s\nnot as\n%s, error %v", written.Payload, golden, err)
		}
		want := []keystore.IndexEntry{
			{Name: "display_name", Value: []byte("Web")},
			{Name: "created", Value: []byte{0, 0, 0x01, 0xa2, 0x0a, 0x50, 0xd8, 0x3b}},
		}
		if !reflect.DeepEqual(written.Index, want) {
			t.Errorf("index %q", written.Index)
		}
	}
}

func TestUnreadableNamedPayload(t *testing.T) {
	t.Parallel()
	request := string(goldenNamed(t, "named-request-v1.json").Payload)
	for name, text := range map[string]string{
		"nothing":           "",
		"null":              "null",
		"empty object":      "{}",
		"newer":             strings.Replace(request, `"version":1`, `"version":2`, 1),
		"more than one":     request + "{}",
		"no PEM":            `{"version":1,"spec":{}}`,
		"unknown attribute": strings.Replace(request, `"CN"`, `"XN"`, 1),
		"unknown name kind": strings.Replace(request, `"dns"`, `"dnt"`, 1),
		"of the other kind": `{"version":1,"pem":"x"}`,
	} {
		record := keystore.Record{Slot: keystore.Slot{Collection: "c", ID: "i"}, Payload: []byte(text)}
		if r, err := csr.RequestIn(record); err == nil || !reflect.DeepEqual(r, csr.NamedRequest{}) {
			t.Errorf("%s: %+v, error %v", name, r, err)
		}
		if c, err := csr.CertificateIn(record); err == nil || !reflect.DeepEqual(c, csr.NamedCertificate{}) {
			t.Errorf("%s: %+v, error %v", name, c, err)
		}
	}
}

func TestSortableTimes(t *testing.T) {
	t.Parallel()
	times := []time.Time{time.Unix(0, 0), time.UnixMilli(1), time.UnixMilli(255), time.UnixMilli(256), noon(), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	for i, a := range times {
		if len(csr.Sortable(a)) != 8 {
			t.Fatal(csr.Sortable(a))
		}
		for _, b := range times[i+1:] {
			if bytes.Compare(csr.Sortable(a), csr.Sortable(b)) >= 0 {
				t.Errorf("%v is not before %v", a, b)
			}
		}
	}
	if !bytes.Equal(csr.Sortable(time.Time{}), csr.Sortable(times[0])) {
		t.Error("a time before 1970 is not the first")
	}
}

func FuzzDecodeNamedPayload(f *testing.F) {
	for _, file := range []string{"named-request-v1.json", "named-certificate-v1.json"} {
		f.Add(goldenNamed(f, file).Payload)
	}
	f.Add([]byte(`{"version":1,"pem":"x","spec":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		slot := keystore.Slot{Collection: "c", ID: "i"}
		if c, err := csr.CertificateIn(keystore.Record{Slot: slot, Payload: b}); err == nil {
			if c.ID != "i" || len(c.Chain) == 0 || !strings.Contains(c.PEM, "-----BEGIN ") {
				t.Fatalf("%s was read as the certificate %+v", b, c)
			}
		} else if c.ID != "" || c.Chain != nil {
			t.Fatal("a certificate beside an error")
		}
		before, err := csr.RequestIn(keystore.Record{Slot: slot, Payload: b})
		if err != nil {
			if before.ID != "" || before.PEM != "" {
				t.Fatal("a request beside an error")
			}
			return
		}
		written, err := csr.RewriteNamed(b)
		if err != nil {
			t.Fatalf("%s was read and cannot be written: %v", b, err)
		}
		if after, err := csr.RequestIn(keystore.Record{Slot: slot, Payload: written.Payload}); err != nil || !reflect.DeepEqual(after, before) {
			t.Fatalf("%+v is written as %s", before, written.Payload)
		}
	})
}

// What passes the rules can be stored and is read back as it was.
func FuzzObject(f *testing.F) {
	for _, id := range []string{"example-csr-id", "a/b", "..", "ü", "a\x00", "\xff", strings.Repeat("i", 255)} {
		f.Add(id, "name", "line\nline", "scope", "tag")
		f.Add("id", id, id, id, id)
	}
	f.Fuzz(func(t *testing.T, id, name, description, scope, tag string) {
		labels := csr.Labels{DisplayName: name, Description: description, Tags: []csr.Tag{{Scope: scope, Tag: tag}}}
		change, err := csr.StoreObject(id, labels)
		if err != nil {
			checkSentences(t, violationsOf(t, err))
			return
		}
		if slices.Contains([]string{"", ".", ".."}, id) || len(id) > 255 || strings.ContainsAny(id, "\x00\r\n\t\x7f") ||
			strings.ContainsAny(name+scope+tag, "\x00\r\n\t\x1b\u202e") || !utf8.ValidString(id+"|"+name+"|"+description+"|"+scope+"|"+tag) {
			t.Fatalf("%q %+v was accepted", id, labels)
		}
		op := keystore.Op{Slot: csr.RequestSlot(id), Payload: change.Payload, Index: change.Index}
		if err := op.Validate(); err != nil {
			t.Fatal(err)
		}
		got, err := csr.RequestIn(keystore.Record{Slot: op.Slot, Payload: change.Payload})
		if err != nil {
			t.Fatal(err)
		}
		if labels.DisplayName == "" {
			labels.DisplayName = id
		}
		if got.ID != id || !reflect.DeepEqual(got.Labels, labels) {
			t.Fatalf("%q %+v is read as %q %+v", id, labels, got.ID, got.Labels)
		}
	})
}

package csr_test

import (
	"bytes"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

func record(payload []byte) keystore.Record {
	return keystore.Record{Slot: keystore.Slot{Collection: "c", ID: "web/1"}, Revision: 1, Payload: payload}
}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name + ".payload")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenNames are the golden files: what each format wrote into each kind of slot.
func goldenNames() (names []string) {
	for _, slot := range []string{"pending", "installed", "named-request", "named-certificate"} {
		names = append(names, slot+"-v1", slot+"-v2")
	}
	return names
}

// The golden files never change: whatever ever shipped still opens. Both formats of one
// slot are read as the same, but for what format 1 has not.
func TestGoldenPayloads(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 23, 21, 30, 0, 123e6, time.UTC)
	object := csr.Object{ID: "web/1", CreatedBy: "nora", ModifiedBy: "nora", Created: made, Modified: made}
	named := object
	named.Labels = csr.Labels{DisplayName: "Web", Description: "two\nlines", Tags: []csr.Tag{{Scope: "env", Tag: "prod"}, {}}}
	request, certificate := named, named
	request.UniqueID, certificate.UniqueID = "0e92e1d1-9530-46f5-ae3a-a096bd707c82", "efbe7eb9-72d7-49b2-8ccd-e9dba46741b9"
	spec := pkcs10.Spec{
		Algorithm: pkcs10.ECDSA, KeySize: new(int64(256)), CA: true,
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.CommonName, Value: "web"}, {Type: pkcs10.Organization, Value: "Müller & <Söhne>"},
			{Type: pkcs10.OrganizationalUnit, Value: "B"}, {Type: pkcs10.OrganizationalUnit, Value: "A"},
			{Type: pkcs10.Country, Value: "DE"}, {Type: pkcs10.StateOrProvince, Value: "BY"}, {Type: pkcs10.Locality, Value: "M"},
		},
		Email: "ops@example.com",
		AltNames: []pkcs10.AltName{
			{Kind: pkcs10.DNSName, Value: "web.example.com"}, {Kind: pkcs10.IPAddress, Value: "192.0.2.1"}, {Kind: pkcs10.URI, Value: "urn:example:x"},
			{Kind: pkcs10.Mailbox, Value: "a@example.com"}, {Value: "content.example.com"},
		},
	}
	for _, c := range []struct {
		file   string
		object csr.Object
		spec   pkcs10.Spec
		block  string
		more   csr.Payload // in format 2
	}{
		{"pending", object, pkcs10.Spec{Algorithm: pkcs10.ECDSA, KeySize: new(int64(256)), Email: "ops@example.com", Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "US"}, {Type: pkcs10.Organization, Value: "ACME"}, {Type: pkcs10.CommonName, Value: hostname},
		}}, "CERTIFICATE REQUEST", csr.Payload{Replaced: strings.Repeat("ab", 32)}},
		{"installed", csr.Object{ID: "web/1", Created: made}, pkcs10.Spec{Algorithm: pkcs10.ECDSA, KeySize: new(int64(256)),
			Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: hostname}}}, "CERTIFICATE",
			csr.Payload{Anchored: true, Beyond: "-----BEGIN CERTIFICATE-----\n"}},
		{"named-request", request, spec, "CERTIFICATE REQUEST", csr.Payload{}},
		{"named-certificate", certificate, spec, "CERTIFICATE", csr.Payload{Purpose: "signing-ca"}},
	} {
		one, err := csr.DecodePayload(record(golden(t, c.file+"-v1")))
		if err != nil || !reflect.DeepEqual(one.Object, c.object) || !reflect.DeepEqual(one.Spec, c.spec) {
			t.Errorf("%s: %+v, error %v", c.file, one, err)
		}
		if _, err := one.PublicKey(); err != nil || !strings.HasPrefix(one.PEM, "-----BEGIN "+c.block+"-----\n") {
			t.Errorf("%s: error %v, PEM %q", c.file, err, one.PEM)
		}
		text := golden(t, c.file+"-v2")
		two, err := csr.DecodePayload(record(text))
		if written, err2 := csr.EncodePayload(two); err != nil || err2 != nil || !bytes.Equal(written, text) {
			t.Errorf("format 2 is written as\n%s\nnot as\n%s, %v, %v", written, text, err, err2)
		}
		key, err := one.PublicKey()
		digest, err2 := pkcs10.KeyDigest(key)
		want := c.more
		want.Object, want.Spec, want.PEM, want.KeySHA256 = one.Object, one.Spec, one.PEM, digest
		if c.block == "CERTIFICATE" {
			want.Facts = pkcs10.FactsIn(one.PEM)
		}
		if !reflect.DeepEqual(two, want) || err != nil || err2 != nil {
			t.Errorf("format 2 is read as\n%+v\nwant\n%+v, %v, %v", two, want, err, err2)
		}
	}
}

func TestUnreadablePayloads(t *testing.T) {
	t.Parallel()
	text := string(golden(t, "named-certificate-v2"))
	for name, payload := range map[string]string{
		"nothing":       "",
		"newer":         strings.Replace(text, "2 ", "3 ", 1),
		"only JSON":     "{}",
		"null":          "1 null",
		"more than one": strings.Replace(text, "\n", "{}\n", 1),
		"no PEM":        text[:strings.Index(text, "\n")+1],
		"cut":           text[:40],
		"no block":      "1 {}\nx",
	} {
		if c, err := csr.CertificateIn(record([]byte(payload))); err == nil || !reflect.DeepEqual(c, csr.NamedCertificate{}) {
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

// What is read is the same after it was written again.
func FuzzDecodePayload(f *testing.F) {
	for _, name := range goldenNames() {
		f.Add(golden(f, name))
	}
	f.Add([]byte("1 {\"created\":\"0000-01-01T00:00:00Z\"}\nx"))
	f.Add([]byte("1 {\"request\":null}\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := csr.CertificateIn(record(b)); err == nil {
			if c.ID != "web/1" || len(c.Facts) == 0 || c.PEM == "" {
				t.Fatalf("%s was read as the certificate %+v", b, c)
			}
		} else if c.ID != "" || c.Facts != nil {
			t.Fatal("a certificate beside an error")
		}
		p, err := csr.DecodePayload(record(b))
		if err != nil {
			if p.ID != "" || p.PEM != "" {
				t.Fatal("a payload beside an error")
			}
			return
		}
		if p.PEM == "" {
			t.Fatal("a payload without PEM was accepted")
		}
		if _, err := p.PublicKey(); err != nil && strings.Contains(err.Error(), p.PEM) {
			t.Fatal(err)
		}
		written, err := csr.EncodePayload(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := csr.DecodePayload(record(written))
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := csr.EncodePayload(again); err != nil || !bytes.Equal(twice, written) || again.PEM != p.PEM {
			t.Fatalf("%+v is written as %s, and that as %s, error %v", p, written, twice, err)
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
			kit.CheckSentences(t, violationsOf(t, err))
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
		got, err := csr.DecodePayload(keystore.Record{Slot: op.Slot, Payload: change.Payload})
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

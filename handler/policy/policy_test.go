package policy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/policy"
	"attestcsr/test/kit"
)

const vendorExample = `{ "subject": { "attributes": [ {"key":"CN","value":"Jane"}, {"key":"O","value":"VMware"}, {"key":"OU","value":"NSBU"}, ` +
	`{"key":"C","value":"US"}, {"key":"ST","value":"CA"}, {"key":"L","value":"PA"} ] }, "key_size": "2048", "algorithm": "RSA", "is_ca": false }`

func isInvalid(err error) bool {
	e := (*csr.Error)(nil)
	return errors.As(err, &e) && e.Kind == csr.Invalid
}

// FuzzTLSCSR: a body is refused as an error of the client, or it is unchanged after
// a client has sent our answer back.
func FuzzTLSCSR(f *testing.F) {
	for _, seed := range []string{
		vendorExample,
		`{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"EC","key_size":384,"is_ca":true,"description":"a\nb","tags":[{"scope":"s","tag":"t"},{}],` +
			`"display_name":"d","_revision":0,"days_valid":3,"extensions":{"subject_alt_names":{"dns_names":["a","b"],"ip_addresses":["10.0.0.1"]}}}`,
		`{"subject":{"attributes":[{"key":"OU","value":""},{"key":"CN","value":"\u0000"},{"key":"OU","value":"日本"}]},"extensions":{}}`,
		`{"subject":null,"key_size":null,"tags":null}`, `{"subject":{"attributes":[null]}}`, `{"key_size":"+1"}`, `{"key_size":1e3}`, `{"subject":{"attributes":{}}}`,
		`[]`, `null`, ``, `{`, `{"x":1,"x":2}`, "{\"description\":\"\xff\"}", `{""`, `{"":1,"":2}`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, body string, days bool) {
		request, err := policy.DecodeRequest(body, days)
		if err != nil {
			if !isInvalid(err) || err.Error() == "" {
				t.Fatalf("not the client's fault: %v", err)
			}
			return
		}
		spec := &request.Spec
		if !slices.ContainsFunc(spec.Subject, func(a pkcs10.Attribute) bool { return a.Type == pkcs10.CommonName }) {
			t.Fatal("no common name")
		}
		// What the core sets in the spec that it returns.
		if spec.KeySize == nil {
			spec.KeySize = new(int64)
		}
		if spec.Algorithm == "" {
			spec.Algorithm = pkcs10.RSA
		}
		zero := int64(0)
		request.Revision = &zero
		answered, err := policy.MarshalCSR(csr.NamedRequest{Object: csr.Object{ID: "id", Labels: request.Labels}, Spec: *spec, PEM: "pem"})
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.DecodeRequest(answered, false)
		if err != nil {
			t.Fatalf("%v: %s", err, answered)
		}
		if again.Spec.Algorithm == "" {
			again.Spec.Algorithm = pkcs10.RSA
		}
		if !reflect.DeepEqual(again, request) {
			t.Fatalf("%+v came back as %+v", request, again)
		}
	})
}

func FuzzTrustData(f *testing.F) {
	for _, seed := range []string{`{"pem_encoded":"x"}`, `{"pem_encoded":null}`, `{"pem_encoded":"x","private_key":"y"}`, `{"pem_encoded":["x"]}`, `{"pem_encoded":"x","purpose":"p","id":{}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		chain, err := policy.DecodeTrustData(body)
		if err != nil && (!isInvalid(err) || chain != "") {
			t.Fatalf("%q, %v", chain, err)
		}
	})
}

// FuzzObjectID: any id is the same after it was escaped in a path.
func FuzzObjectID(f *testing.F) {
	for _, seed := range []string{"a", "a/b", "a%2Fb", "a b", "%", "..", "ü", "\x00", "\xff", "?", "a;b", "+"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		for _, path := range []string{"/policy/api/v1/infra/csrs/" + url.PathEscape(id), "/policy/api/v1/infra/csrs/" + url.PathEscape(id) + "/pem-file"} {
			r, err := http.NewRequest(http.MethodGet, "https://host"+path+"?id=other", nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := policy.ObjectID(echo.New().NewContext(r, nil))
			if err != nil || got != id {
				t.Fatalf("%q became %q, %v", id, got, err)
			}
		}
	})
}

// FuzzCursor: a cursor is refused, or encoding its position again gives the same text.
func FuzzCursor(f *testing.F) {
	orders := []csr.Page{{Sort: csr.SortByID}, {Sort: csr.SortByModified, Descending: true}}
	for _, p := range orders {
		f.Add(policy.NewCursor(p, []byte("position")), []byte{0, 0xff})
	}
	for _, seed := range []string{"", "A", "AWlh", "AWlhYQ==", "AWlhYQ\n", "AWlhYR", "AmlhYQ", "AXhhYQ", "AWl4YQ"} {
		f.Add(seed, []byte(seed))
	}
	f.Fuzz(func(t *testing.T, text string, position []byte) {
		for i, p := range orders {
			if got, err := policy.ParseCursor(text, p); (err == nil) != (len(got) > 0) || err == nil && policy.NewCursor(p, got) != text {
				t.Fatalf("%q gave %q, %v", text, got, err)
			}
			made := policy.NewCursor(p, position)
			if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(made) {
				t.Fatalf("cursor %q", made)
			}
			if len(position) == 0 || len(position) > 2000 {
				continue
			}
			if got, err := policy.ParseCursor(made, p); err != nil || !bytes.Equal(got, position) {
				t.Fatalf("%q gave %q, %v", position, got, err)
			}
			if _, err := policy.ParseCursor(made, orders[1-i]); err == nil {
				t.Fatal("a cursor of another order was taken")
			}
		}
	})
}

// FuzzUpload: the file of a form is part of the body.
func FuzzUpload(f *testing.F) {
	const head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
	for _, seed := range []string{head + "content\r\n--b--\r\n", head + "content", head + "a\r\n" + head + "b\r\n--b--", "--b--", "", "--b\r\n\r\nx\r\n--b--\r\n"} {
		f.Add(seed, "multipart/form-data; boundary=b")
		f.Add(seed, "multipart/form-data")
	}
	f.Fuzz(func(t *testing.T, body, contentType string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		content, err := policy.UploadedFile(r)
		if err != nil && (!isInvalid(err) || content != nil) {
			t.Fatalf("%q, %v", content, err)
		}
		if !strings.Contains(body, string(content)) {
			t.Fatalf("%q is not in %q", content, body)
		}
	})
}

// written is the document of an error of a request.
func written(t *testing.T, path string, err *csr.Error) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	c := echo.New().NewContext(httptest.NewRequest(http.MethodPost, path, nil), recorder)
	if err := policy.WriteError(c, "rid", err); err != nil {
		t.Fatal(err)
	}
	return recorder.Body.String()
}

// The path in an error is text of the client. It is unescaped once, printable and
// short.
func TestErrorPaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/policy/api/v1/infra/csrs/a":                     "path=[/infra/csrs/a] ",
		"/policy/api/v1/infra/csrs/a%2Fb":                 "path=[/infra/csrs/a/b] ",
		"/policy/api/v1/infra/csrs/pem-file":              "path=[/infra/csrs/pem-file] ",
		"/policy/api/v1/infra/csrs/a/pem-file":            "path=[/infra/csrs/a] ",
		"/policy/api/v1/infra/csrs/a%0Ab%C2%9B":           "path=[/infra/csrs/a.b.] ",
		"/policy/api/v1/infra/csrs/%FF":                   "path=[/infra/csrs/.] ",
		"/policy/api/v1/infra/certificates/x":             "path=[/infra/certificates/x] ",
		"/":                                               "path=[/] ",
		"/policy/api/v1/x/" + strings.Repeat("x", 64<<10): "…] ",
	} {
		body := written(t, path, &csr.Error{Kind: csr.Exists})
		var doc struct {
			Message string `json:"error_message"`
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil || !strings.Contains(doc.Message, want) || len(doc.Message) > 400 {
			t.Errorf("%.100s: %s", path, body)
		}
	}
}

// Each field that a request of this dialect can break has a name of its own.
func TestFieldsHaveWireNames(t *testing.T) {
	t.Parallel()
	seen := map[string]pkcs10.Field{}
	for _, f := range []pkcs10.Field{
		pkcs10.KeySize, pkcs10.KeyAlgorithm, pkcs10.CommonName, pkcs10.Organization, pkcs10.OrganizationalUnit, pkcs10.Locality, pkcs10.StateOrProvince, pkcs10.Country,
		pkcs10.SubjectAltName, pkcs10.CertificateChain, pkcs10.DaysValid, csr.ObjectID, csr.DisplayName, csr.Description, csr.Tags, csr.Collection, csr.CertificateCollection,
	} {
		body := written(t, "/", &csr.Error{Kind: csr.Invalid, Violations: []pkcs10.Violation{{Field: f, Rule: pkcs10.Empty}}})
		if other, taken := seen[body]; taken {
			t.Errorf("%s and %s have one name", f, other)
		}
		seen[body] = f
		if !regexp.MustCompile(`\{[a-z_.]+( [A-Z]+)? must not be empty\}`).MatchString(body) {
			t.Errorf("%s: %s", f, body)
		}
	}
}

func TestDetails(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	notBefore := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		key       crypto.Signer
		algorithm x509.SignatureAlgorithm
		wantKey   string
		wantName  string
		length    int
	}{
		{rsaKey, x509.SHA256WithRSA, "RSA", "SHA256WITHRSA", 2048},
		{rsaKey, x509.SHA512WithRSA, "RSA", "SHA512WITHRSA", 2048},
		{rsaKey, x509.SHA256WithRSAPSS, "RSA", "SHA256-RSAPSS", 2048},
		{ecKey, x509.ECDSAWithSHA384, "ECDSA", "SHA384WITHECDSA", 384},
		{edKey, x509.PureEd25519, "Ed25519", "Ed25519", 256},
	} {
		certificate := (&kit.CA{Key: test.key}).Issue(t, "x, y", test.key.Public(), func(c *x509.Certificate) {
			c.SerialNumber, c.Subject.OrganizationalUnit, c.SignatureAlgorithm = big.NewInt(255), []string{"b", "a"}, test.algorithm
			c.NotBefore, c.NotAfter = notBefore, notBefore.Add(time.Hour)
		})
		for now, valid := range map[time.Time]bool{
			notBefore.Add(-time.Second): false, notBefore: true, notBefore.Add(time.Hour): true, notBefore.Add(time.Hour + time.Second): false,
		} {
			text, err := policy.MarshalDetails(certificate, now)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]any{
				"subject": `CN=x\, y,OU=a+OU=b`, "subject_cn": "x, y", "issuer_cn": "x, y", "serial_number": "255", "public_key_algo": test.wantKey,
				"signature_algorithm": test.wantName, "version": "3", "is_valid": valid, "is_ca": false,
				"not_before": float64(notBefore.UnixMilli()), "public_key_length": float64(test.length),
			} {
				if got[name] != want {
					t.Errorf("%v: %s is %v, want %v", test.algorithm, name, got[name], want)
				}
			}
		}
	}
}

package handler_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// chainFor signs the request as a CA of two levels would: leaf, intermediate.
func chainFor(t *testing.T, text string, usage x509.KeyUsage) string {
	t.Helper()
	ca, request := newTestCA(t), parseCSR(t, text)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(1), 100), RawSubject: request.RawSubject, DNSNames: request.DNSNames,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: usage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, request.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, certificate := range [][]byte{der, ca.cert.Raw} {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	}
	return b.String()
}

func trustData(t *testing.T, chain, members string) string {
	t.Helper()
	text, err := json.Marshal(chain)
	if err != nil {
		t.Fatal(err)
	}
	return `{"pem_encoded":` + string(text) + members + `}`
}

func TestNSXImport(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	made := s.nsxMake("a/b", vendorExample)
	chain := chainFor(t, *made.PEMEncoded, x509.KeyUsageKeyEncipherment)
	importPath := nsxPath("a/b", "timeout=5", "action=import")

	other := chainFor(t, *s.nsxMake("other", quickSpec).PEMEncoded, 0)
	if a := s.do(call{method: "POST", path: importPath, body: trustData(t, other, "")}); a.status != http.StatusBadRequest || *a.nsxError(t).Code != 255 {
		t.Errorf("certificate of another CSR: %d %s", a.status, a.body)
	}
	const secret = "MC4CAQAwBQYDK2VwBCIEIA"
	a := s.do(call{method: "POST", path: importPath, body: trustData(t, chain+"-----BEGIN PRIVATE KEY-----\n"+secret+"\n-----END PRIVATE KEY-----\n", "")})
	if a.status != http.StatusBadRequest || strings.Contains(string(a.body)+s.log.String(), secret) {
		t.Errorf("private key beside the chain: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "POST", path: importPath, body: trustData(t, chain, `,"_revision":1`)}); a.status != http.StatusPreconditionFailed {
		t.Errorf("stale revision: %d %s", a.status, a.body)
	}

	a = s.do(call{method: "POST", path: importPath, body: trustData(t, chain, `,"_revision":0,"purpose":"x","description":"d","tags":[{"scope":"s","tag":"t"}],"resource_type":"TlsTrustData"`)})
	if a.status != http.StatusCreated {
		t.Fatalf("import: %d %s", a.status, a.body)
	}
	certificate := decodeNSX[nsxCertificate](t, a.body)
	id := *certificate.ID
	if *certificate.ResourceType != "TlsCertificate" || *certificate.DisplayName != "a/b" || *certificate.Path != "/infra/certificates/"+id ||
		*certificate.ParentPath != "/infra" || *certificate.RelativePath != id || *certificate.UniqueID != id || !*certificate.HasPrivateKey ||
		*certificate.PEMEncoded != chain || *certificate.Description != "d" || len(certificate.Tags) != 1 || *certificate.Revision != 0 {
		t.Errorf("%s", a.body)
	}
	if len(certificate.Details) != 2 {
		t.Fatalf("details: %s", a.body)
	}
	leaf, issuer := certificate.Details[0], certificate.Details[1]
	request := parseCSR(t, *made.PEMEncoded)
	key := request.PublicKey.(*rsa.PublicKey)
	if *leaf.Subject != "L=PA,ST=CA,C=US,OU=NSBU,O=VMware,CN=Jane" || *leaf.SubjectCN != "Jane" || *leaf.IssuerCN != "Test CA" || *leaf.Issuer != "CN=Test CA" ||
		*leaf.SerialNumber != new(big.Int).Lsh(big.NewInt(1), 100).String() || *leaf.PublicKeyAlgo != "RSA" || *leaf.PublicKeyLength != 2048 ||
		*leaf.RSAModulus != key.N.Text(16) || *leaf.RSAExponent != "10001" || *leaf.SignatureAlgorithm != "SHA256WITHECDSA" || *leaf.Version != "3" ||
		*leaf.IsCA || !*leaf.IsValid || *leaf.NotAfter-*leaf.NotBefore != 3660_000 {
		t.Errorf("leaf: %s", a.body)
	}
	if !*issuer.IsCA || issuer.RSAModulus != nil || *issuer.PublicKeyAlgo != "ECDSA" || *issuer.PublicKeyLength != 256 {
		t.Errorf("issuer: %s", a.body)
	}
	if got := s.do(call{method: "GET", path: nsxPath("a/b")}); got.status != http.StatusNotFound {
		t.Errorf("the CSR is still there: %d", got.status)
	}
	if got := s.do(call{method: "GET", path: nsxCertificates + "/" + id}); got.status != http.StatusOK || !bytes.Equal(got.body, a.body) {
		t.Errorf("GET answers otherwise than import: %s", got.body)
	}
	got := decodeNSX[nsxList[nsxCertificate]](t, s.do(call{method: "GET", path: nsxCertificates}).body)
	if len(got.Results) != 1 || *got.ResultCount != 1 || *got.Results[0].ID != id {
		t.Errorf("list: %+v", got)
	}
	if a := s.do(call{method: "POST", path: importPath, body: trustData(t, chain, "")}); a.status != http.StatusNotFound || *a.nsxError(t).Code != 600 {
		t.Errorf("import again: %d %s", a.status, a.body)
	}
	s.nsxMake("a/b", quickSpec) // the id is free again

	if a := s.do(call{method: "DELETE", path: nsxCertificates + "/" + id}); a.status != http.StatusOK || len(a.body) != 0 {
		t.Errorf("DELETE: %d %s", a.status, a.body)
	}
	if a := s.do(call{method: "GET", path: nsxCertificates + "/" + id}); a.status != http.StatusNotFound || !strings.Contains(*a.nsxError(t).Message, "/infra/certificates/"+id) {
		t.Errorf("after DELETE: %d %s", a.status, a.body)
	}
}

func TestNSXUpload(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	chain := chainFor(t, *s.nsxMake("x", quickSpec).PEMEncoded, 0)
	type field struct{ name, content string }
	send := func(fields ...field) answer {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for _, f := range fields {
			part, err := w.CreateFormFile(f.name, "chain.pem")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := part.Write([]byte(f.content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return s.do(call{method: "POST", path: nsxPath("x", "action=upload"), body: body.String(), header: map[string]string{"Content-Type": w.FormDataContentType()}})
	}
	for name, a := range map[string]answer{
		"nothing":       send(),
		"another field": send(field{"certificate", chain}),
		"two files":     send(field{"file", chain}, field{"file", chain}),
		"more beside":   send(field{"file", chain}, field{"purpose", "x"}),
		"empty":         send(field{"file", ""}),
		"no boundary":   s.do(call{method: "POST", path: nsxPath("x", "action=upload"), header: map[string]string{"Content-Type": "multipart/form-data"}}),
		"cut off":       s.do(call{method: "POST", path: nsxPath("x", "action=upload"), body: "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx", header: map[string]string{"Content-Type": "multipart/form-data; boundary=b"}}),
	} {
		if e := a.nsxError(t); a.status != http.StatusBadRequest || *e.Code != 255 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := send(field{"file", strings.Repeat("x", 64<<10)}); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("large: %d %s", a.status, a.body)
	}
	a := send(field{"file", chain})
	if certificate := decodeNSX[nsxCertificate](t, a.body); a.status != http.StatusCreated || *certificate.PEMEncoded != chain || *certificate.DisplayName != "x" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestNSXSelfSign(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	days := func(a answer) int64 {
		t.Helper()
		if a.status != http.StatusCreated {
			t.Fatalf("%d %s", a.status, a.body)
		}
		c := decodeNSX[nsxCertificate](t, a.body)
		if *c.Details[0].SubjectCN != "quick.example.com" || !*c.HasPrivateKey || !*c.Details[0].IsValid || *c.Details[0].Subject != *c.Details[0].Issuer {
			t.Errorf("%s", a.body)
		}
		return (*c.Details[0].NotAfter - *c.Details[0].NotBefore) / (24 * time.Hour).Milliseconds()
	}
	ca := strings.Replace(quickSpec, "{", `{"is_ca":true,`, 1)
	for _, test := range []struct {
		spec, param string
		raw         bool
		want        int64
	}{
		{quickSpec, "", false, 825}, {quickSpec, "", true, 825}, {quickSpec, "days_valid=30", true, 30}, {quickSpec, "days_valid=1000", false, 825}, {ca, "days_valid=1000", false, 1000},
	} {
		s.nsxMake("x", test.spec)
		params := []string{"action=self_sign", test.param}
		slices.Reverse(params)
		if got := days(s.do(call{method: "POST", path: nsxPath("x", params...), raw: test.raw})); got != test.want {
			t.Errorf("%s: %d days, want %d", test.param, got, test.want)
		}
	}
	withDays := strings.Replace(quickSpec, "{", `{"days_valid":30,"display_name":"fresh",`, 1)
	a := s.do(call{method: "POST", path: nsxPath("", "action=self_sign"), body: withDays})
	if got := days(a); got != 30 || *decodeNSX[nsxCertificate](t, a.body).DisplayName != "fresh" {
		t.Errorf("new: %d days: %s", got, a.body)
	}
	if got := decodeNSX[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxCSRs}).body); len(got.Results) != 0 || got.Results == nil || *got.ResultCount != 0 {
		t.Errorf("CSRs are left: %+v", got)
	}
}

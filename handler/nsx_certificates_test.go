package handler_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
)

func bigSerial() *big.Int { return new(big.Int).Lsh(big.NewInt(1), 100) }

// chainFor signs the request as a CA would, and returns the certificate and the CA's.
func chainFor(t *testing.T, text string, usage x509.KeyUsage) string {
	t.Helper()
	ca, request := newTestCA(t), parseCSR(t, text)
	return kit.PEM(ca.Issue(t, "", request.PublicKey, func(c *x509.Certificate) {
		c.SerialNumber, c.RawSubject, c.DNSNames, c.KeyUsage = bigSerial(), request.RawSubject, request.DNSNames, usage
		c.NotBefore, c.NotAfter = ca.Now.Add(-time.Minute), ca.Now.Add(time.Hour)
	}), ca.Cert)
}

func trustData(chain, members string) string {
	return `{"pem_encoded":` + kit.JSON(chain) + members + `}`
}

func (s *stack) importChain(id, chain, members string) answer {
	s.t.Helper()
	return s.do(call{method: "POST", path: nsxPath(id, "timeout=5", "action=import"), body: trustData(chain, members)})
}

func TestNSXImport(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	made := s.nsxMake("a/b", vendorExample)
	chain := chainFor(t, *made.PEMEncoded, x509.KeyUsageKeyEncipherment)

	other := chainFor(t, *s.nsxMake("other", quickSpec).PEMEncoded, 0)
	s.importChain("a/b", other, "").wantNSXError(t, http.StatusBadRequest, 255)
	const secret = "MC4CAQAwBQYDK2VwBCIEIA"
	a := s.importChain("a/b", chain+"-----BEGIN PRIVATE KEY-----\n"+secret+"\n-----END PRIVATE KEY-----\n", "")
	if a.status != http.StatusBadRequest || strings.Contains(string(a.body)+s.log.String(), secret) {
		t.Errorf("private key beside the chain: %d %s", a.status, a.body)
	}
	s.importChain("a/b", chain, `,"_revision":1`).wantNSXError(t, http.StatusPreconditionFailed, 604)

	a = s.importChain("a/b", chain, `,"_revision":0,"purpose":"signing-ca","key_algo":"EC","private_key":null,"passphrase":null,"description":"d","tags":[{"scope":"s","tag":"t"}],"resource_type":"TlsTrustData"`)
	if a.status != http.StatusCreated {
		t.Fatalf("import: %d %s", a.status, a.body)
	}
	certificate := decode[nsxCertificate](t, a)
	id := *certificate.ID
	if *certificate.ResourceType != "TlsCertificate" || *certificate.DisplayName != "a/b" || *certificate.Path != "/infra/certificates/"+id ||
		*certificate.ParentPath != "/infra" || *certificate.RelativePath != id || *certificate.UniqueID != id || !*certificate.HasPrivateKey ||
		*certificate.PEMEncoded != chain || *certificate.Description != "d" || len(certificate.Tags) != 1 || *certificate.Revision != 0 ||
		*certificate.Purpose != "signing-ca" || *certificate.SHA256 != thumbprint(chain) {
		t.Errorf("%s", a.body)
	}
	checkDetails(t, certificate, parseCSR(t, *made.PEMEncoded))
	s.do(call{method: "GET", path: nsxPath("a/b")}).wantNSXError(t, http.StatusNotFound, 600)
	s.importChain("a/b", chain, "").wantNSXError(t, http.StatusNotFound, 600)
	s.nsxMake("a/b", quickSpec) // the id is free again

	path := nsxCertificates + "/" + id
	if got := s.do(call{method: "GET", path: path + "?details=true"}); got.status != http.StatusOK || !bytes.Equal(got.body, a.body) {
		t.Errorf("GET answers otherwise than import: %s", got.body)
	}
	got := decode[nsxList[nsxCertificate]](t, s.do(call{method: "GET", path: nsxCertificates}))
	if len(got.Results) != 1 || *got.ResultCount != 1 || *got.Results[0].ID != id || *got.Results[0].Purpose != "signing-ca" || *got.Results[0].SHA256 != thumbprint(chain) {
		t.Errorf("list: %+v", got)
	}
	if a := s.do(call{method: "DELETE", path: path}); a.status != http.StatusOK || len(a.body) != 0 {
		t.Errorf("DELETE: %d %s", a.status, a.body)
	}
	if message := s.do(call{method: "GET", path: path + "?details=true"}).wantNSXError(t, http.StatusNotFound, 600); !strings.Contains(message, "/infra/certificates/"+id) {
		t.Errorf("after DELETE: %s", message)
	}
}

// thumbprint is the SHA-256 of the first certificate in a PEM text.
func thumbprint(text string) string {
	block, _ := pem.Decode([]byte(text))
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// An issuer with an Ed25519 key has details like any other.
func TestNSXEd25519Issuer(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &kit.CA{Key: key, Now: time.Now()}
	ca.Cert = ca.Issue(t, "Ed25519 CA", key.Public(), func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	request := parseCSR(t, *s.nsxMake("x", quickSpec).PEMEncoded)
	leaf := ca.Issue(t, request.Subject.CommonName, request.PublicKey)
	a := s.importChain("x", kit.PEM(leaf, ca.Cert), "")
	if a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	c := decode[nsxCertificate](t, a)
	if leaf, issuer := c.Details[0], c.Details[1]; *leaf.SignatureAlgorithm != "Ed25519" || *leaf.PublicKeyAlgo != "ECDSA" || *leaf.ECDSACurveName != "P-256" ||
		*issuer.PublicKeyAlgo != "Ed25519" || *issuer.PublicKeyLength != 256 || *issuer.SignatureAlgorithm != "Ed25519" || issuer.ECDSACurveName != nil || issuer.RSAModulus != nil {
		t.Errorf("%s", a.body)
	}
	if c.Purpose != nil || *c.SHA256 != thumbprint(*c.PEMEncoded) {
		t.Errorf("%s", a.body)
	}
}

// checkDetails compares the details of a chain with the vendor's example and its CA.
func checkDetails(t *testing.T, c nsxCertificate, request *x509.CertificateRequest) {
	t.Helper()
	if len(c.Details) != 2 {
		t.Fatalf("details: %+v", c.Details)
	}
	leaf, issuer := c.Details[0], c.Details[1]
	if *leaf.Subject != "L=PA,ST=CA,C=US,OU=NSBU,O=VMware,CN=Jane" || *leaf.SubjectCN != "Jane" || *leaf.IssuerCN != "Test CA" || *leaf.Issuer != "CN=Test CA" ||
		*leaf.SerialNumber != bigSerial().String() || *leaf.PublicKeyAlgo != "RSA" || *leaf.PublicKeyLength != 2048 ||
		*leaf.RSAModulus != request.PublicKey.(*rsa.PublicKey).N.Text(16) || *leaf.RSAExponent != "10001" || *leaf.SignatureAlgorithm != "SHA256WITHECDSA" ||
		*leaf.Version != "3" || *leaf.IsCA || !*leaf.IsValid || *leaf.NotAfter-*leaf.NotBefore != 3660_000 {
		t.Errorf("leaf: %s", kit.JSON(leaf))
	}
	if !*issuer.IsCA || issuer.RSAModulus != nil || *issuer.PublicKeyAlgo != "ECDSA" || *issuer.PublicKeyLength != 256 {
		t.Errorf("issuer: %s", kit.JSON(issuer))
	}
}

func TestNSXUpload(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	chain := chainFor(t, *s.nsxMake("x", quickSpec).PEMEncoded, 0)
	type field struct{ name, content string }
	upload := func(contentType, body string) answer {
		return s.do(call{method: "POST", path: nsxPath("x", "action=upload"), body: body, header: map[string]string{"Content-Type": contentType}})
	}
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
		return upload(w.FormDataContentType(), body.String())
	}
	for _, a := range []answer{
		send(),
		send(field{"certificate", chain}),
		send(field{"file", chain}, field{"file", chain}),
		send(field{"file", chain}, field{"purpose", "x"}),
		send(field{"file", ""}),
		upload("multipart/form-data", ""),
		upload("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx"), // cut off
	} {
		a.wantNSXError(t, http.StatusBadRequest, 255)
	}
	send(field{"file", strings.Repeat("x", 64<<10)}).wantNSXError(t, http.StatusRequestEntityTooLarge, 255)
	a := send(field{"file", chain})
	if certificate := decode[nsxCertificate](t, a); a.status != http.StatusCreated || *certificate.PEMEncoded != chain || *certificate.DisplayName != "x" {
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
		c := decode[nsxCertificate](t, a)
		if *c.Details[0].SubjectCN != "quick.example.com" || !*c.HasPrivateKey || !*c.Details[0].IsValid || *c.Details[0].Subject != *c.Details[0].Issuer {
			t.Errorf("%s", a.body)
		}
		return (*c.Details[0].NotAfter - *c.Details[0].NotBefore) / (24 * time.Hour).Milliseconds()
	}
	ca := quickWith(`"is_ca":true`)
	for _, test := range []struct {
		spec, param string
		raw         bool
		want        int64
	}{
		{quickSpec, "", false, 825}, {quickSpec, "", true, 825}, {quickSpec, "days_valid=30", true, 30}, {quickSpec, "days_valid=1000", false, 825}, {ca, "days_valid=36500", false, 36500},
	} {
		s.nsxMake("x", test.spec)
		params := []string{"action=self_sign", test.param}
		slices.Reverse(params)
		if got := days(s.do(call{method: "POST", path: nsxPath("x", params...), raw: test.raw})); got != test.want {
			t.Errorf("%s: %d days, want %d", test.param, got, test.want)
		}
	}
	a := s.do(call{method: "POST", path: nsxPath("", "action=self_sign"), body: quickWith(`"days_valid":30,"display_name":"fresh"`)})
	if got := days(a); got != 30 || *decode[nsxCertificate](t, a).DisplayName != "fresh" {
		t.Errorf("new: %d days: %s", got, a.body)
	}
	if got := decode[nsxList[nsxCSR]](t, s.do(call{method: "GET", path: nsxCSRs})); len(got.Results) != 0 || got.Results == nil || *got.ResultCount != 0 {
		t.Errorf("CSRs are left: %+v", got)
	}
}

// The parameters that official clients send with a certificate and with a list of them.
// node_id and type are filters: ours have no node and no type.
func TestNSXCertificateParameters(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.nsxMake("x", quickSpec)
	id := *decode[nsxCertificate](t, s.do(call{method: "POST", path: nsxPath("x", "action=self_sign")})).ID
	get := func(path string) answer { return s.do(call{method: "GET", path: nsxCertificates + path}) }
	for _, c := range []struct {
		query   string
		found   bool // in a list
		details bool
	}{
		{"", true, false}, {"details=true", true, true}, {"details=false", true, false}, {"details=", true, false}, {"fmt=standard&details=true", true, true},
		{"type=cluster_api_certificate", false, false}, {"type=api_certificate&details=true", false, false}, {"node_id=n", false, false}, {"node_id=&type=", true, false},
		{"included_fields=id", true, false}, {"included_fields=details,id&details=true", true, true},
	} {
		l := decode[nsxList[nsxCertificate]](t, get("?"+c.query))
		if int64(len(l.Results)) != *l.ResultCount || (len(l.Results) == 1) != c.found || l.Cursor != nil || l.Results == nil {
			t.Errorf("%s: list %s", c.query, kit.JSON(l))
		} else if c.found && (*l.Results[0].ID != id || (l.Results[0].Details != nil) != c.details) {
			t.Errorf("%s: list %s", c.query, kit.JSON(l))
		}
		if !c.found || strings.Contains(c.query, "included") {
			continue
		}
		if one := decode[nsxCertificate](t, get("/"+id+"?"+c.query)); *one.ID != id || (len(one.Details) == 1) != c.details {
			t.Errorf("%s: %s", c.query, kit.JSON(one))
		}
	}
	if a := get(""); strings.Contains(string(a.body), "details") {
		t.Errorf("the member is not left out: %s", a.body)
	}
	get("/"+id+"?details=yes").wantNSXError(t, http.StatusBadRequest, 255)
	message := get("?details=1&type=x&page_size=0&sort_by=y").wantNSXError(t, http.StatusBadRequest, 255)
	if message != `Field level validation errors: {details "1" must be true or false; type "x" must be one of cluster_api_certificate, api_certificate; `+
		`sort_by "y" must be one of id, display_name, _create_time, _last_modified_time; page_size must be from 1 to 1000}` {
		t.Error(message)
	}
}

// A private key that was sent is in no answer and in no line of the log, however the body
// is broken otherwise.
func TestNSXKeysThatWereSent(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	s.nsxMake("x", quickSpec)
	const secret = "MC4CAQAwBQYDK2VwBCIEIA"
	sent := kit.JSON("-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n")
	for _, c := range []struct{ action, body, says string }{
		{"import", `{"pem_encoded":"x","private_key":` + sent + `}`, "private_key must not be sent"},
		{"import", `{"pem_encoded":"x","passphrase":` + sent + `}`, "passphrase must not be sent"},
		{"import", `{"private_key":[` + sent + `],"passphrase":{"a":` + sent + `}}`, "private_key must be a string"},
		{"import", `{"private_key":` + sent + `,"private_key":` + sent + `}`, "occurs more than once"},
		{"import", `{"private_key":` + sent, "malformed"},
		{"import", `{"pem_encoded":` + sent + `}`, "pem_encoded"},
		{"import", `{"key_algo":` + sent + `,"purpose":` + sent + `}`, "purpose must be one of"},
		{"create", quickWith(`"private_key":` + sent), "private_key is not a member"},
		{"import", `{"pem_encoded":"x","description":"d","private_key":` + sent + `,"x":1}`, "x is not a member"},
	} {
		a := s.do(call{method: "POST", path: nsxPath("x", "action="+c.action), body: c.body})
		if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), c.says) || strings.Contains(string(a.body), secret) {
			t.Errorf("%s: %d %s", c.says, a.status, a.body)
		}
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the log has a private key")
	}
	if a := s.do(call{method: "GET", path: nsxPath("x")}); a.status != http.StatusOK {
		t.Errorf("the CSR is gone: %s", a.body)
	}
}

package handler_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
)

// upload sends a file as browsers do.
func (s *stack) upload(id string, content []byte) answer {
	s.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreateFormFile("file", "chain.p7b")
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := part.Write(content); err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	return s.do(call{method: "POST", path: nsxPath(id, "action=upload"), body: body.String(), header: map[string]string{"Content-Type": w.FormDataContentType()}})
}

// What CAs hand out is taken by an upload: PEM and DER, a certificate and certs-only
// PKCS#7. JSON carries no DER.
func TestNSXUploadsOfEveryEncoding(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	ca := newTestCA(t)
	for name, encode := range map[string]func(leaf *x509.Certificate) (file []byte, stored string){
		"PEM": func(leaf *x509.Certificate) ([]byte, string) {
			return []byte(kit.PEM(leaf, ca.Cert)), kit.PEM(leaf, ca.Cert)
		},
		"PEM with a byte order mark": func(leaf *x509.Certificate) ([]byte, string) {
			return []byte("\ufeff" + kit.PEM(leaf)), kit.PEM(leaf)
		},
		"DER": func(leaf *x509.Certificate) ([]byte, string) { return leaf.Raw, kit.PEM(leaf) },
		"PKCS#7 in DER, the CA first": func(leaf *x509.Certificate) ([]byte, string) {
			return certsOnly(t, ca.Cert, leaf), kit.PEM(leaf, ca.Cert)
		},
		"PKCS#7 in PEM": func(leaf *x509.Certificate) ([]byte, string) {
			return pem.EncodeToMemory(&pem.Block{Type: "PKCS7", Bytes: certsOnly(t, leaf, ca.Cert)}), kit.PEM(leaf, ca.Cert)
		},
	} {
		request := parseCSR(t, *s.nsxMake("x", quickSpec).PEMEncoded)
		file, stored := encode(ca.Issue(t, request.Subject.CommonName, request.PublicKey))
		a := s.upload("x", file)
		if a.status != http.StatusCreated || *decode[nsxCertificate](t, a).PEMEncoded != stored {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// certsOnly is what AD CS hands out: a SignedData without signers (RFC 5652 section 5.1).
func certsOnly(t *testing.T, certificates ...*x509.Certificate) []byte {
	t.Helper()
	oid := func(last int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, last} }
	type contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"optional"`
	}
	signed := struct {
		Version      int
		Digests      []int `asn1:"set"`
		Content      contentInfo
		Certificates asn1.RawValue
		Signers      []int `asn1:"set"`
	}{Version: 1, Content: contentInfo{Type: oid(1)}, Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true}}
	for _, c := range certificates {
		signed.Certificates.Bytes = append(signed.Certificates.Bytes, c.Raw...)
	}
	content, err := asn1.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(contentInfo{oid(2), asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: content}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// All that is wrong with a chain is told, with the certificate and by the name of what was
// sent: the member, or the field of the form.
func TestNSXRefusesAChainWithEveryReason(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	request := parseCSR(t, *s.nsxMake("x", quickSpec).PEMEncoded)
	future := newTestCA(t).NewCA(t, "CA", func(c *x509.Certificate) { c.NotBefore = time.Now().AddDate(0, 0, 7) })
	leaf := future.Issue(t, "leaf", request.PublicKey, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, 0, -1)
	})
	chain := kit.PEM(leaf, future.Cert)
	for sent, a := range map[string]answer{"pem_encoded": s.importChain("x", chain, ""), "file": s.upload("x", []byte(chain))} {
		message := a.wantNSXError(t, http.StatusBadRequest, 255)
		for _, part := range []string{
			sent + `: certificate 1 "CN=leaf" expired at `, sent + `: certificate 2 "CN=CA" is not valid before `,
		} {
			if !strings.Contains(message, part) {
				t.Errorf("%q is not in %s", part, message)
			}
		}
	}
	for name, file := range map[string][]byte{"rubbish": []byte("x"), "a CSR": []byte(*decode[nsxCSR](t, s.do(call{method: "GET", path: nsxPath("x")})).PEMEncoded), "UTF-16": []byte("\xff\xfe-\x00-\x00")} {
		if message := s.upload("x", file).wantNSXError(t, http.StatusBadRequest, 255); !strings.HasPrefix(message, "Field level validation errors: {file") {
			t.Errorf("%s: %s", name, message)
		}
	}
	if a := s.do(call{method: "GET", path: nsxPath("x")}); a.status != http.StatusOK {
		t.Errorf("the CSR is gone: %s", a.body)
	}
}

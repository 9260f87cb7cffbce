package policy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// trustData is TlsTrustData: the chain, leaf first. Keys are made here and not imported.
// The members for a key are known all the same, so that the answer can say so.
type trustData struct {
	common
	PEMEncoded *string `json:"pem_encoded" validate:"required"`
	Purpose    *string `json:"purpose" validate:"omitnil,oneof=signing-ca"`
	KeyAlgo    *string `json:"key_algo"` // of no effect: the key is there already
	PrivateKey *string `json:"private_key" validate:"isdefault"`
	Passphrase *string `json:"passphrase" validate:"isdefault"`
}

// tlsCertificate is TlsCertificate.
type tlsCertificate struct {
	head
	PEMEncoded    string               `json:"pem_encoded"`
	HasPrivateKey bool                 `json:"has_private_key"`
	Purpose       string               `json:"purpose,omitempty"`
	SHA256        string               `json:"sha256_thumbprint"` // of the leaf, in hexadecimal
	Details       []certificateDetails `json:"details,omitempty"`
	tail
}

// certificateDetails is X509Certificate of NSX. Numbers too large for JSON are
// strings: the serial number in decimal, the parts of keys and the signature in
// hexadecimal. Times are milliseconds since 1970.
type certificateDetails struct {
	Subject            string `json:"subject"`
	SubjectCN          string `json:"subject_cn"`
	Issuer             string `json:"issuer"`
	IssuerCN           string `json:"issuer_cn"`
	NotBefore          int64  `json:"not_before"`
	NotAfter           int64  `json:"not_after"`
	SerialNumber       string `json:"serial_number"`
	PublicKeyAlgo      string `json:"public_key_algo"`
	PublicKeyLength    int    `json:"public_key_length"`
	RSAModulus         string `json:"rsa_public_key_modulus,omitempty"`
	RSAExponent        string `json:"rsa_public_key_exponent,omitempty"`
	ECDSACurveName     string `json:"ecdsa_curve_name,omitempty"`
	Signature          string `json:"signature"`
	SignatureAlgorithm string `json:"signature_algorithm"`
	Version            string `json:"version"`
	IsCA               bool   `json:"is_ca"`
	IsValid            bool   `json:"is_valid"`
}

func newTLSCertificate(n csr.NamedCertificate, details bool) tlsCertificate {
	c := tlsCertificate{
		head:          newHead("TlsCertificate", certificatesParent, n.Object),
		PEMEncoded:    n.PEM,
		HasPrivateKey: true,
		Purpose:       n.Purpose,
		tail:          newTail(n.Object),
	}
	c.ParentPath = infraParent // unlike that of a TlsCsr
	now := time.Now()
	for i, facts := range n.Facts {
		if i == 0 {
			c.SHA256 = facts.SHA256
		}
		if details {
			c.Details = append(c.Details, newDetails(facts, now))
		}
	}
	return c
}

func newDetails(f pkcs10.Facts, now time.Time) certificateDetails {
	d := certificateDetails{
		Subject:            f.Subject,
		SubjectCN:          f.SubjectCN,
		Issuer:             f.Issuer,
		IssuerCN:           f.IssuerCN,
		NotBefore:          f.NotBefore.UnixMilli(),
		NotAfter:           f.NotAfter.UnixMilli(),
		SerialNumber:       f.Serial,
		PublicKeyAlgo:      f.KeyAlgorithm,
		PublicKeyLength:    f.KeyBits,
		ECDSACurveName:     f.Curve,
		Signature:          hex.EncodeToString(f.Signature),
		SignatureAlgorithm: signatureName(f.SignatureAlgorithm),
		Version:            strconv.Itoa(f.Version),
		IsCA:               f.CA,
		IsValid:            !now.Before(f.NotBefore) && !now.After(f.NotAfter),
	}
	if key, err := f.Key(); err == nil {
		if key, is := key.(*rsa.PublicKey); is {
			d.RSAModulus = key.N.Text(16)
			d.RSAExponent = strconv.FormatInt(int64(key.E), 16)
		}
	}
	return d
}

// signatureName is Java's name of a signature algorithm, as in NSX's answers.
func signatureName(algorithm string) string {
	names := map[string]string{
		x509.SHA256WithRSA.String():   "SHA256WITHRSA",
		x509.SHA384WithRSA.String():   "SHA384WITHRSA",
		x509.SHA512WithRSA.String():   "SHA512WITHRSA",
		x509.ECDSAWithSHA256.String(): "SHA256WITHECDSA",
		x509.ECDSAWithSHA384.String(): "SHA384WITHECDSA",
		x509.ECDSAWithSHA512.String(): "SHA512WITHECDSA",
	}
	return cmp.Or(names[algorithm], algorithm)
}

// newCertificateView reads the parameters of a list of certificates: whether to show
// details, and the filters. The certificates of the real product's own API and of its
// nodes have a type and a node. Ours have neither.
func newCertificateView(q *query) view[csr.NamedCertificate, tlsCertificate] {
	details := q.boolean("details", false)
	kind, node := q.oneOf("type", "cluster_api_certificate", "api_certificate"), q.get("node_id")
	return view[csr.NamedCertificate, tlsCertificate]{
		document: func(n csr.NamedCertificate) tlsCertificate { return newTLSCertificate(n, details) },
		none:     kind != "" || node != "",
	}
}

// getCertificate has the details where the request asks for them.
func getCertificate(c echo.Context, grant *csr.Grant) error {
	q := readQuery(c.Request())
	details := q.boolean("details", false)
	if err := q.err(); err != nil {
		return err
	}
	return get((*csr.Grant).NamedCertificate, func(c echo.Context, status int, n csr.NamedCertificate) error {
		return reply(c, status, newTLSCertificate(n, details))
	})(c, grant)
}

func importCertificate(ctx context.Context, grant *csr.Grant, id string, body trustData) (csr.NamedCertificate, error) {
	return grant.ImportCertificate(ctx, id, csr.Import{
		PEM: []byte(*body.PEMEncoded), Labels: body.labels(), Purpose: strict.Value(body.Purpose), Revision: body.Revision,
	})
}

// uploadField is the field of the form that has the certificate.
const uploadField = "file"

// uploadCertificate is importCertificate with a form as body, from a browser. The file may
// be DER, which some CAs hand out.
func uploadCertificate(r *http.Request, grant *csr.Grant, id string) (none csr.NamedCertificate, _ error) {
	text, err := uploadedFile(r)
	if err != nil {
		return none, err
	}
	return grant.ImportCertificate(r.Context(), id, csr.Import{PEM: text, DER: true})
}

// uploadedFile returns the content of the field uploadField, the only one of a
// multipart/form-data body (RFC 7578).
func uploadedFile(r *http.Request) ([]byte, error) {
	mediaType, params, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType))
	if err != nil || mediaType != echo.MIMEMultipartForm || params["boundary"] == "" {
		return nil, invalid("the Content-Type must be multipart/form-data with a boundary")
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	var content []byte
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for found := false; ; found = true {
		part, err := parts.NextRawPart()
		switch {
		case errors.Is(err, io.EOF) && found:
			return content, nil
		case errors.Is(err, io.EOF):
			return nil, invalid(uploadField + " is required")
		case err != nil:
			return nil, invalid("the body must be well-formed multipart/form-data")
		case found || part.FormName() != uploadField:
			return nil, invalid("the body must have exactly one field, " + uploadField)
		}
		if content, err = io.ReadAll(part); err != nil {
			return nil, invalid("the body must be well-formed multipart/form-data")
		}
	}
}

// selfSign ignores the body: some clients send "{}" and others none.
func selfSign(r *http.Request, grant *csr.Grant, id string) (none csr.NamedCertificate, _ error) {
	q := readQuery(r)
	days := q.integer("days_valid")
	if err := q.err(); err != nil {
		return none, err
	}
	return grant.SelfSign(r.Context(), id, days)
}

func selfSignNew(ctx context.Context, grant *csr.Grant, _ string, body csrWithDays) (csr.NamedCertificate, error) {
	return grant.SelfSignNew(ctx, body.newRequest(""), body.DaysValid)
}

// Package vapi is the ESX dialect: the paths, JSON shapes and error documents of
// vSphere Automation REST (/api) and of the older /rest session service.
//
// Sources: the vendor's page "esx attestation certificate csr: create" and what
// its SDKs send and accept; docs/divergences.md lists where we knowingly differ.
package vapi

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// SessionHeader has the session id. Logins set a cookie of the same name, which counts
// where the header is absent.
const SessionHeader = "vmware-api-session-id"

const (
	csrPath           = "/api/esx/attestation/certificate/csr"
	certificatePath   = "/api/esx/attestation/certificate"
	sessionPath       = "/api/session"
	legacySessionPath = "/rest/com/vmware/cis/session"
)

// Handle answers one request. The grant is nil where the route has no operation.
type Handle func(c echo.Context, grant *csr.Grant) error

// Sessions makes, returns and ends the sessions of this dialect. It takes the
// credentials from the request. Its errors are *csr.Error.
type Sessions interface {
	Login(c echo.Context) (id string, err error)
	Session(c echo.Context) (user string, created, lastAccessed time.Time, err error)
	Logout(c echo.Context) error
}

// Register hands every route of the dialect to add.
func Register(s Sessions, add func(method, path string, op csr.Operation, handle Handle)) {
	add(http.MethodPost, csrPath, csr.CreateCSR, withBody(createCSR))
	add(http.MethodGet, csrPath, csr.GetCSR, get((*csr.Grant).CSR, "csr"))
	add(http.MethodDelete, csrPath, csr.DeleteCSR, deleteCSR)
	add(http.MethodGet, certificatePath, csr.GetCertificate, get((*csr.Grant).Certificate, "certificate"))
	add(http.MethodPut, certificatePath, csr.SetCertificate, withBody(setCertificate))

	add(http.MethodPost, sessionPath, "", login(s, http.StatusCreated, cookiePath, bare))
	add(http.MethodGet, sessionPath, "", showSession(s, bare))
	add(http.MethodDelete, sessionPath, "", logout(s, http.StatusNoContent, cookiePath))
	add(http.MethodPost, legacySessionPath, "", legacyPost(s))
	add(http.MethodGet, legacySessionPath, "", showSession(s, legacy))
	add(http.MethodDelete, legacySessionPath, "", logout(s, http.StatusOK, legacyCookiePath))
}

// CreateSpec is the body of csr create. A nil pointer is an absent member or null.
type CreateSpec struct {
	KeySize          *int64   `json:"key_size,omitzero"`
	CommonName       *string  `json:"common_name,omitzero"`
	Organization     *string  `json:"organization" validate:"required"`
	OrganizationUnit *string  `json:"organization_unit" validate:"required"`
	Locality         *string  `json:"locality" validate:"required"`
	StateOrProvince  *string  `json:"state_or_province" validate:"required"`
	Country          *string  `json:"country" validate:"required"`
	EmailAddress     *string  `json:"email_address" validate:"required"`
	SubjectAltName   []string `json:"subject_alt_name,omitempty"`
}

// spec converts the body to what the core takes. An empty string makes no attribute,
// since clients in typed languages cannot omit a required field. They can omit the
// common name, so that an empty one is an error of the core.
func (s CreateSpec) spec() pkcs10.Spec {
	spec := pkcs10.Spec{KeySize: s.KeySize, Email: *s.EmailAddress}
	for _, a := range []struct {
		field pkcs10.Field
		value *string
	}{
		{pkcs10.Country, s.Country},
		{pkcs10.StateOrProvince, s.StateOrProvince},
		{pkcs10.Locality, s.Locality},
		{pkcs10.Organization, s.Organization},
		{pkcs10.OrganizationalUnit, s.OrganizationUnit},
	} {
		if *a.value != "" {
			spec.Subject = append(spec.Subject, pkcs10.Attribute{Type: a.field, Value: *a.value})
		}
	}
	if s.CommonName != nil {
		spec.Subject = append(spec.Subject, pkcs10.Attribute{Type: pkcs10.CommonName, Value: *s.CommonName})
	}
	for _, name := range s.SubjectAltName {
		spec.AltNames = append(spec.AltNames, pkcs10.AltName{Value: name})
	}
	return spec
}

// wireName is this dialect's name of a field.
func wireName(f pkcs10.Field) string {
	names := map[pkcs10.Field]string{
		pkcs10.KeySize:            "key_size",
		pkcs10.CommonName:         "common_name",
		pkcs10.Organization:       "organization",
		pkcs10.OrganizationalUnit: "organization_unit",
		pkcs10.Locality:           "locality",
		pkcs10.StateOrProvince:    "state_or_province",
		pkcs10.Country:            "country",
		pkcs10.EmailAddress:       "email_address",
		pkcs10.SubjectAltName:     "subject_alt_name",
		pkcs10.CertificateChain:   "certificate",
	}
	return cmp.Or(names[f], string(f))
}

// withBody reads the JSON body of a request before do answers it.
func withBody[Body any](do func(c echo.Context, grant *csr.Grant, body Body) error) Handle {
	in := strict.New[Body]()
	return func(c echo.Context, grant *csr.Grant) error {
		body, err := Decode(c, in)
		if err != nil {
			return err
		}
		return do(c, grant, body)
	}
}

func createCSR(c echo.Context, grant *csr.Grant, body CreateSpec) error {
	request, err := grant.CreateCSR(c.Request().Context(), body.spec())
	if err != nil {
		return err
	}
	return Reply(c, http.StatusCreated, map[string]string{"csr": request})
}

// get answers with the PEM text that the core returns, as the only member.
func get(fetch func(*csr.Grant, context.Context) (string, error), member string) Handle {
	return func(c echo.Context, grant *csr.Grant) error {
		if err := checkQuery(c); err != nil {
			return err
		}
		pem, err := fetch(grant, c.Request().Context())
		if err != nil {
			return err
		}
		return Reply(c, http.StatusOK, map[string]string{member: pem})
	}
}

func deleteCSR(c echo.Context, grant *csr.Grant) error {
	if err := checkQuery(c); err != nil {
		return err
	}
	if err := grant.DeleteCSR(c.Request().Context()); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

type setSpec struct {
	Certificate *string `json:"certificate" validate:"required"`
}

func setCertificate(c echo.Context, grant *csr.Grant, body setSpec) error {
	if err := grant.SetCertificate(c.Request().Context(), []byte(*body.Certificate)); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// Reply writes v as JSON. Nothing under /api is wrapped in a "value".
func Reply(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, body)
}

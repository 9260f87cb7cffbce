// Package vapi is the ESX dialect: the paths, JSON shapes and error documents of
// vSphere Automation REST (/api) and of the older /rest session service.
//
// Sources: the vendor's page "esx attestation certificate csr: create" and what
// its SDKs send and accept; docs/divergences.md lists where we knowingly differ.
package vapi

import (
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// SessionHeader carries the session id; a cookie of the same name is accepted.
const SessionHeader = "vmware-api-session-id"

const (
	csrPath           = "/api/esx/attestation/certificate/csr"
	certificatePath   = "/api/esx/attestation/certificate"
	sessionPath       = "/api/session"
	legacySessionPath = "/rest/com/vmware/cis/session"
)

// Handle answers one request. The grant is nil where the route has no operation.
type Handle func(c echo.Context, grant *csr.Grant) error

// Sessions makes, shows and ends the sessions of this dialect, for the
// credentials that a request carries. Errors are of package csr's kinds.
type Sessions interface {
	Login(c echo.Context) (id string, err error)
	Session(c echo.Context) (user string, created, lastAccessed time.Time, err error)
	Logout(c echo.Context) error
}

// Register hands every route of the dialect to add.
func Register(s Sessions, add func(method, path string, op csr.Operation, handle Handle)) {
	add(http.MethodPost, csrPath, csr.CreateCSR, createCSR(newDecoder[createSpec]()))
	add(http.MethodGet, csrPath, csr.GetCSR, getCSR)
	add(http.MethodDelete, csrPath, csr.DeleteCSR, deleteCSR)
	add(http.MethodGet, certificatePath, csr.GetCertificate, getCertificate)
	add(http.MethodPut, certificatePath, csr.SetCertificate, setCertificate(newDecoder[setSpec]()))

	api := sessionAPI{s}
	add(http.MethodPost, sessionPath, "", api.create)
	add(http.MethodGet, sessionPath, "", api.get)
	add(http.MethodDelete, sessionPath, "", api.delete)
	add(http.MethodPost, legacySessionPath, "", api.legacyPost)
	add(http.MethodDelete, legacySessionPath, "", api.legacyDelete)
}

// createSpec is the body of csr create. Pointers tell absent and null from "".
type createSpec struct {
	KeySize          *int64   `json:"key_size"`
	CommonName       *string  `json:"common_name"`
	Organization     *string  `json:"organization" validate:"required"`
	OrganizationUnit *string  `json:"organization_unit" validate:"required"`
	Locality         *string  `json:"locality" validate:"required"`
	StateOrProvince  *string  `json:"state_or_province" validate:"required"`
	Country          *string  `json:"country" validate:"required"`
	EmailAddress     *string  `json:"email_address" validate:"required"`
	SubjectAltName   []string `json:"subject_alt_name"`
}

// spec says the same in the core's terms. An empty string leaves its attribute
// out: clients in typed languages cannot omit a required field. An empty common
// name is not among them, since it can be omitted; the core refuses it.
func (s createSpec) spec() pkcs10.Spec {
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

// wireName is what this dialect calls the field of a violation.
func wireName(f pkcs10.Field) string {
	switch f {
	case pkcs10.KeySize:
		return "key_size"
	case pkcs10.CommonName:
		return "common_name"
	case pkcs10.Organization:
		return "organization"
	case pkcs10.OrganizationalUnit:
		return "organization_unit"
	case pkcs10.Locality:
		return "locality"
	case pkcs10.StateOrProvince:
		return "state_or_province"
	case pkcs10.Country:
		return "country"
	case pkcs10.EmailAddress:
		return "email_address"
	case pkcs10.SubjectAltName:
		return "subject_alt_name"
	case pkcs10.CertificateChain:
		return "certificate"
	}
	return string(f)
}

type info struct {
	CSR string `json:"csr"`
}

func createCSR(in *strict.Decoder[createSpec]) Handle {
	return func(c echo.Context, grant *csr.Grant) error {
		body, err := decode(c, in)
		if err != nil {
			return err
		}
		request, err := grant.CreateCSR(c.Request().Context(), body.spec())
		if err != nil {
			return err
		}
		return reply(c, http.StatusCreated, info{request})
	}
}

func getCSR(c echo.Context, grant *csr.Grant) error {
	if err := checkQuery(c); err != nil {
		return err
	}
	request, err := grant.CSR(c.Request().Context())
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, info{request})
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

type certificateInfo struct {
	Certificate string `json:"certificate"`
}

func getCertificate(c echo.Context, grant *csr.Grant) error {
	if err := checkQuery(c); err != nil {
		return err
	}
	certificate, err := grant.Certificate(c.Request().Context())
	if err != nil {
		return err
	}
	return reply(c, http.StatusOK, certificateInfo{certificate})
}

type setSpec struct {
	Certificate *string `json:"certificate" validate:"required"`
}

func setCertificate(in *strict.Decoder[setSpec]) Handle {
	return func(c echo.Context, grant *csr.Grant) error {
		body, err := decode(c, in)
		if err != nil {
			return err
		}
		if err := grant.SetCertificate(c.Request().Context(), []byte(*body.Certificate)); err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	}
}

// reply writes v as JSON. Nothing under /api is wrapped in a "value".
func reply(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, body)
}

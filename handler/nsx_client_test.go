package handler_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The members of the vendor's SDK's types: pointers and 64-bit integers, so that
// 2048.0, RFC 3339 times and objects for lists fail as they do there.
type nsxObject struct {
	ResourceType     *string  `json:"resource_type"`
	ID               *string  `json:"id"`
	DisplayName      *string  `json:"display_name"`
	Description      *string  `json:"description"`
	Tags             []nsxTag `json:"tags"`
	Path             *string  `json:"path"`
	ParentPath       *string  `json:"parent_path"`
	RelativePath     *string  `json:"relative_path"`
	UniqueID         *string  `json:"unique_id"`
	MarkedForDelete  *bool    `json:"marked_for_delete"`
	Overridden       *bool    `json:"overridden"`
	CreateUser       *string  `json:"_create_user"`
	CreateTime       *int64   `json:"_create_time"`
	LastModifiedUser *string  `json:"_last_modified_user"`
	LastModifiedTime *int64   `json:"_last_modified_time"`
	SystemOwned      *bool    `json:"_system_owned"`
	Protection       *string  `json:"_protection"`
	Revision         *int64   `json:"_revision"`
}

type nsxTag struct {
	Scope *string `json:"scope"`
	Tag   *string `json:"tag"`
}

type nsxCSR struct {
	nsxObject
	PEMEncoded *string `json:"pem_encoded"`
	KeySize    *int64  `json:"key_size"`
	Subject    *struct {
		Attributes []struct {
			Key   *string `json:"key"`
			Value *string `json:"value"`
		} `json:"attributes"`
	} `json:"subject"`
	Algorithm  *string `json:"algorithm"`
	IsCA       *bool   `json:"is_ca"`
	Extensions *struct {
		AltNames *struct {
			DNSNames    []string `json:"dns_names"`
			IPAddresses []string `json:"ip_addresses"`
		} `json:"subject_alt_names"`
	} `json:"extensions"`
}

type nsxCertificate struct {
	nsxObject
	PEMEncoded    *string `json:"pem_encoded"`
	HasPrivateKey *bool   `json:"has_private_key"`
	Purpose       *string `json:"purpose"`
	SHA256        *string `json:"sha256_thumbprint"`
	Details       []struct {
		Subject            *string `json:"subject"`
		SubjectCN          *string `json:"subject_cn"`
		Issuer             *string `json:"issuer"`
		IssuerCN           *string `json:"issuer_cn"`
		NotBefore          *int64  `json:"not_before"`
		NotAfter           *int64  `json:"not_after"`
		SerialNumber       *string `json:"serial_number"`
		PublicKeyAlgo      *string `json:"public_key_algo"`
		PublicKeyLength    *int64  `json:"public_key_length"`
		RSAModulus         *string `json:"rsa_public_key_modulus"`
		RSAExponent        *string `json:"rsa_public_key_exponent"`
		ECDSACurveName     *string `json:"ecdsa_curve_name"`
		Signature          *string `json:"signature"`
		SignatureAlgorithm *string `json:"signature_algorithm"`
		Version            *string `json:"version"`
		IsCA               *bool   `json:"is_ca"`
		IsValid            *bool   `json:"is_valid"`
	} `json:"details"`
}

type nsxList[T any] struct {
	Results       []T     `json:"results"`
	ResultCount   *int64  `json:"result_count"`
	SortBy        *string `json:"sort_by"`
	SortAscending *bool   `json:"sort_ascending"`
	Cursor        *string `json:"cursor"`
}

// nsxError is ApiError as a well-known client reads it: error_code is
// dereferenced without a look.
type nsxError struct {
	HTTPStatus *string `json:"httpStatus"`
	Code       *int64  `json:"error_code"`
	Module     *string `json:"module_name"`
	Message    *string `json:"error_message"`
	Details    *string `json:"details"`
}

func (a answer) nsxError(t testing.TB) nsxError {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != asJSON {
		t.Errorf("error with Content-Type %q", got)
	}
	e := decode[nsxError](t, a)
	if e.HTTPStatus == nil || e.Code == nil || e.Module == nil || e.Message == nil {
		t.Fatalf("incomplete error: %d %s", a.status, a.body)
	}
	name := strings.ReplaceAll(strings.ToUpper(http.StatusText(a.status)), " ", "_")
	if a.status == http.StatusRequestEntityTooLarge {
		name = "PAYLOAD_TOO_LARGE"
	}
	if *e.HTTPStatus != name {
		t.Errorf("httpStatus %s of a %d", *e.HTTPStatus, a.status)
	}
	return e
}

// wantNSXError checks status and code of an answer, and returns its message.
func (a answer) wantNSXError(t testing.TB, status int, code int64) string {
	t.Helper()
	e := a.nsxError(t)
	if a.status != status || *e.Code != code {
		t.Fatalf("%d with code %d, want %d with %d: %s", a.status, *e.Code, status, code, a.body)
	}
	return *e.Message
}

// nsxPath builds a URL as the SDK does: the id escaped, its slashes too, and the
// parameters in an order of their own.
func nsxPath(id string, params ...string) string {
	path := nsxCSRs
	if id != "" {
		path += "/" + url.PathEscape(id)
	}
	for i, p := range params {
		path += string("?&"[min(i, 1)]) + p
	}
	return path
}

func (s *stack) nsxCreate(id, body string) answer {
	s.t.Helper()
	return s.do(call{method: "POST", path: nsxPath(id, "action=create"), body: body})
}

func (s *stack) nsxMake(id, body string) nsxCSR {
	s.t.Helper()
	a := s.nsxCreate(id, body)
	if a.status != http.StatusCreated {
		s.t.Fatalf("create %q: %d %s", id, a.status, a.body)
	}
	return decode[nsxCSR](s.t, a)
}

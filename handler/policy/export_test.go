package policy

import (
	"crypto/x509"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// NewCursor and those below are functions of the package.
func NewCursor(p csr.Page, position []byte) string        { return newCursor(p, position) }
func ParseCursor(text string, p csr.Page) ([]byte, error) { return parseCursor(text, p) }
func ObjectID(c echo.Context) (string, error)             { return objectID(c) }
func UploadedFile(r *http.Request) ([]byte, error)        { return uploadedFile(r) }
func MarshalDetails(c *x509.Certificate, now time.Time) ([]byte, error) {
	return json.Marshal(newDetails(pkcs10.FactsOf(c), now))
}

// DecodeRequest reads a TlsCsr, or with days a TlsCsrWithDaysValid.
func DecodeRequest(body string, days bool) (csr.NewRequest, error) {
	var b csrBody
	var err error
	if days {
		var with csrWithDays
		with, err = decode(bodyRequest(body), strict.New[csrWithDays]())
		b = with.csrBody
	} else {
		b, err = decode(bodyRequest(body), strict.New[csrBody]())
	}
	if err != nil {
		return csr.NewRequest{}, err
	}
	return b.newRequest("id"), nil
}

// DecodeTrustData reads a TlsTrustData and returns its chain.
func DecodeTrustData(body string) (string, error) {
	b, err := decode(bodyRequest(body), strict.New[trustData]())
	if err != nil {
		return "", err
	}
	return *b.PEMEncoded, nil
}

// MarshalCSR is a TlsCsr in an answer.
func MarshalCSR(r csr.NamedRequest) (string, error) {
	b, err := json.Marshal(newTLSCSR(r))
	return string(b), err
}

func bodyRequest(body string) *http.Request {
	r, _ := http.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	return r
}

// ListQuery is the parameters of a list. Included is nil for all members.
type ListQuery struct {
	Page     csr.Page
	SortBy   string
	Included []string
}

// ReadListQuery reads the parameters of a list of TlsCsr.
func ReadListQuery(r *http.Request) (ListQuery, error) {
	q := readQuery(r)
	l := readListQuery(q, memberNames(reflect.TypeFor[tlsCSR]()))
	return ListQuery{l.page, l.sortBy, l.included}, q.err()
}

// ActionOf returns the operation of a POST to an object.
func ActionOf(r *http.Request) (csr.Operation, error) {
	return actions{"create": {csr.CreateNamedCSR, nil}, "import": {csr.ImportCertificate, nil}}.operation(r)
}

// DaysValid reads the parameter days_valid.
func DaysValid(r *http.Request) (*int64, error) {
	q := readQuery(r)
	days := q.integer("days_valid")
	return days, q.err()
}

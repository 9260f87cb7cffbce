// Package console is what the commands and the page of the service ask for beside the
// APIs of the two products. Its errors are documents of the ESX dialect.
package console

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
	"attestcsr/handler/vapi"
)

const (
	checkPath = "/console/check"
	statePath = "/console/state"
)

// Authorise grants the caller of a request an operation. Its errors are *csr.Error.
type Authorise func(csr.Operation) (*csr.Grant, error)

// Handle answers the request of a caller who is authenticated.
type Handle func(c echo.Context, caller csr.Caller, authorise Authorise) error

// Config is what the console is made of.
type Config struct {
	Enabled  bool // false: the check alone, which commands need
	HSTS     bool // browsers are to come by HTTPS alone
	Sessions Sessions
	Cookie   string // which has the session id

	Service  *csr.Service
	Registry prometheus.Gatherer
	Series   *Series
	Pool     func() error // an error: keys are being made until the pool is full once
	Version  string
}

// Register hands every route of the console to add or to open. A caller of the former must
// hold the privilege for one of the operations, if there are any, or the body is not read.
// The latter are for everybody, or find out by themselves who the caller is.
func Register(cfg Config, add func(method, path string, handle Handle, either ...csr.Operation), open func(method, path string, handle echo.HandlerFunc)) {
	add(http.MethodPost, checkPath, newCheck(), csr.CheckCertificate, csr.CheckImport)
	if !cfg.Enabled {
		return
	}
	registerSessions(cfg, open)
	registerDocument(cfg, open)
	registerPages(cfg, open)
	registerReads(cfg, add)
}

// registerReads has what the page reads of the service beside the APIs.
func registerReads(cfg Config, add func(method, path string, handle Handle, either ...csr.Operation)) {
	state := &stateReader{Config: cfg, started: time.Now()}
	add(http.MethodGet, statePath, state.handle)
	add(http.MethodGet, "/console/series", cfg.Series.handle)
	add(http.MethodGet, "/console/trail", readTrail, csr.ReadTrail)
	add(http.MethodGet, "/console/nsx/csrs", list(csr.ListNamedCSRs, (*csr.Grant).ListNamedCSRs, requestRow), csr.ListNamedCSRs)
	add(http.MethodGet, "/console/nsx/certificates", list(csr.ListNamedCertificates, (*csr.Grant).ListNamedCertificates, certificateRow), csr.ListNamedCertificates)
}

// checkSpec is the body of a check.
type checkSpec struct {
	Kind        *string `json:"kind" validate:"required"`
	ID          *string `json:"id"` // of the CSR, with the kind import
	Certificate *string `json:"certificate" validate:"required"`
}

// newCheck answers what a set of a certificate, or an import, would do.
func newCheck() Handle {
	in := strict.New[checkSpec]()
	return func(c echo.Context, _ csr.Caller, authorise Authorise) error {
		body, err := vapi.Decode(c, in)
		if err != nil {
			return err
		}
		report, err := check(c, authorise, body)
		if err != nil {
			return err
		}
		return vapi.Reply(c, http.StatusOK, newReport(report))
	}
}

func check(c echo.Context, authorise Authorise, body checkSpec) (csr.Report, error) {
	ctx, text := c.Request().Context(), []byte(*body.Certificate)
	switch {
	case *body.Kind == "certificate" && body.ID == nil:
		grant, err := authorise(csr.CheckCertificate)
		if err != nil {
			return csr.Report{}, err
		}
		return grant.CheckCertificate(ctx, text)
	case *body.Kind == "import" && body.ID != nil:
		grant, err := authorise(csr.CheckImport)
		if err != nil {
			return csr.Report{}, err
		}
		return grant.CheckImport(ctx, *body.ID, csr.Import{PEM: text})
	case *body.Kind == "certificate":
		return csr.Report{}, vapi.BadRequest("attestcsr.console.id", `Field "id" goes with the kind import only.`, "id")
	case *body.Kind == "import":
		return csr.Report{}, vapi.BadRequest("vapi.bindings.typeconverter.struct.field.missing", `Required field "id" is missing: which CSR does the certificate answer?`, "id")
	}
	return csr.Report{}, vapi.BadRequest("attestcsr.console.kind", `Field "kind" must be certificate or import.`, "kind")
}

// Report is the answer to a check.
type Report struct {
	Accepted     bool          `json:"accepted"`
	Key          string        `json:"key"` // "" where the certificate is for no key that it could be set for
	Anchored     bool          `json:"anchored"`
	Unchanged    bool          `json:"unchanged"`
	Active       string        `json:"active,omitzero"` // when it would become active; "": at once
	Staged       *Staged       `json:"staged,omitzero"`
	Certificates []Certificate `json:"certificates"`
	Checks       []Result      `json:"checks"`
}

// Staged is the certificate that waits to become active.
type Staged struct {
	Since  string `json:"since"`
	Active string `json:"active"`
	SHA256 string `json:"sha256"`
}

// Certificate is one of the chain that was checked.
type Certificate struct {
	Subject            string   `json:"subject"`
	Issuer             string   `json:"issuer"`
	Serial             string   `json:"serial"`
	NotBefore          string   `json:"not_before"`
	NotAfter           string   `json:"not_after"`
	KeyAlgorithm       string   `json:"key_algorithm"`
	KeyBits            int      `json:"key_bits"`
	SignatureAlgorithm string   `json:"signature_algorithm"`
	CA                 bool     `json:"ca"`
	Names              []string `json:"names"`
	SHA256             string   `json:"sha256"`
}

// Result is the answer of one check.
type Result struct {
	Check    string         `json:"check"`
	Result   string         `json:"result"`
	Messages []vapi.Message `json:"messages"`
}

func newReport(r csr.Report) Report {
	answer := Report{Accepted: r.Accepted, Key: string(r.Key), Anchored: r.Anchored, Unchanged: r.Unchanged}
	if !r.Due.IsZero() {
		answer.Active = formatTime(r.Due)
	}
	if s := r.Staged; s != nil {
		answer.Staged = &Staged{formatTime(s.Since), formatTime(s.Due), s.Certificate.SHA256}
	}
	for _, f := range r.Certificates {
		answer.Certificates = append(answer.Certificates, newCertificate(f))
	}
	for _, c := range r.Checks {
		messages := vapi.Messages(c.Violations)
		for _, note := range c.Notes {
			messages = append(messages, vapi.Message{ID: "attestcsr.console." + string(c.Check), Default: note, Args: []string{}})
		}
		answer.Checks = append(answer.Checks, Result{string(c.Check), string(c.Result), messages})
	}
	return answer
}

func newCertificate(f pkcs10.Facts) Certificate {
	return Certificate{
		Subject: f.Subject, Issuer: f.Issuer, Serial: f.Serial,
		NotBefore: formatTime(f.NotBefore), NotAfter: formatTime(f.NotAfter),
		KeyAlgorithm: f.KeyAlgorithm, KeyBits: f.KeyBits, SignatureAlgorithm: f.SignatureAlgorithm,
		CA: f.CA, Names: f.Names, SHA256: f.SHA256,
	}
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

package console

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/vapi"
)

// state is the answer of GET /console/state: what the page shows first. What the caller
// may not read is absent.
type state struct {
	User       string          `json:"user"`
	Privileges []csr.Privilege `json:"privileges"`
	Now        string          `json:"now"`
	Version    string          `json:"version"`
	Started    string          `json:"started"`
	Hostname   string          `json:"hostname"` // the common name of a CSR without one
	KeySizes   []int           `json:"key_sizes"`
	Parts      []part          `json:"parts"`
	Pool       []poolSize      `json:"pool"`
	Counts     counts          `json:"counts"`
	Publishing bool            `json:"publishing"`
	Published  []publishedKey  `json:"published"`
	Installed  *installed      `json:"installed,omitzero"`
	Pending    *pending        `json:"pending,omitzero"`
	Last       []audit.Line    `json:"last,omitzero"` // what happened last
	// Unreadable names what the caller may read and the service cannot.
	Unreadable []string `json:"unreadable,omitempty"`
}

// part is a part of the service, and whether it works. Why it does not is for those who
// may read the trail: the text is that of the log.
type part struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Why  string `json:"why,omitzero"`
}

type poolSize struct {
	Bits   int `json:"bits"`
	Ready  int `json:"ready"`
	Target int `json:"target"`
}

type counts struct {
	Sessions     int  `json:"sessions"`
	Connections  int  `json:"connections"`
	WaitingLines int  `json:"waiting_lines"` // changes that are not in the trail yet
	CSRs         *int `json:"csrs,omitzero"`
	Certificates *int `json:"certificates,omitzero"`
}

type publishedKey struct {
	KeyID     string       `json:"kid"`
	State     csr.KeyState `json:"state"`
	Since     string       `json:"since"`
	Algorithm string       `json:"key_algorithm"`
	Bits      int          `json:"key_bits"`
}

type installed struct {
	PEM   string `json:"certificate"`
	Since string `json:"since"`
	Report
}

type pending struct {
	PEM          string   `json:"csr"`
	SHA256       string   `json:"sha256"`
	Created      string   `json:"created"`
	CreatedBy    string   `json:"created_by"`
	Subject      string   `json:"subject"`
	Names        []string `json:"names"`
	KeyAlgorithm string   `json:"key_algorithm"`
	KeyBits      int      `json:"key_bits"`
}

// stateReader answers what the state is.
type stateReader struct {
	Config
	started time.Time

	mu sync.Mutex
	// The rest is that of the last look, for a second: many pages may ask at once.
	looked  time.Time
	health  []health
	figures figures
}

// health is a part, and why it does not work.
type health struct {
	name string
	err  error
}

const lookLifetime = time.Second

// look returns how the parts are, and the figures.
func (r *stateReader) look(ctx context.Context) ([]health, figures) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.looked) >= lookLifetime {
		ctx := context.WithoutCancel(ctx) // others get this result
		h := r.Service.Health(ctx)
		r.health = []health{{"store", h.Store}, {"trail", h.Trail}, {"custody", h.Custody}, {"pool", r.Pool()}}
		r.figures = gather(r.Registry)
		r.looked = time.Now()
	}
	return r.health, r.figures
}

func (r *stateReader) handle(c echo.Context, caller csr.Caller, authorise Authorise) error {
	if _, err := readQuery(c, nil); err != nil {
		return err
	}
	ctx := c.Request().Context()
	parts, f := r.look(ctx)
	policy := r.Service.Policy()
	s := state{
		User: caller.User, Privileges: caller.Privileges,
		Now: formatTime(time.Now()), Version: r.Version, Started: formatTime(r.started),
		Hostname: policy.Hostname, KeySizes: policy.KeySizes,
		Parts: partsOf(parts, caller.Holds(csr.AuditRead)), Pool: poolOf(f),
		Counts: countsOf(f, caller.May(csr.ListNamedCSRs)),
	}
	if s.Privileges == nil {
		s.Privileges = []csr.Privilege{}
	}
	if err := r.addPublished(ctx, &s); err != nil {
		s.Unreadable = append(s.Unreadable, "published")
	}
	if caller.May(csr.GetCertificate) {
		if err := addInstalled(ctx, authorise, &s); err != nil {
			s.Unreadable = append(s.Unreadable, "installed")
		}
	}
	if caller.May(csr.ReadTrail) {
		if err := addLast(ctx, authorise, &s); err != nil {
			s.Unreadable = append(s.Unreadable, "last")
		}
	}
	if caller.May(csr.GetCSR) {
		if err := addPending(ctx, authorise, &s); err != nil {
			s.Unreadable = append(s.Unreadable, "pending")
		}
	}
	return vapi.Reply(c, http.StatusOK, s)
}

func partsOf(all []health, tellWhy bool) (parts []part) {
	for _, h := range all {
		p := part{Name: h.name, OK: h.err == nil}
		if h.err != nil && tellWhy {
			p.Why = h.err.Error()
		}
		parts = append(parts, p)
	}
	return parts
}

func poolOf(f figures) []poolSize {
	targets, ready := f.by("attestcsr_key_pool_target", "size"), f.by("attestcsr_key_pool_keys", "size")
	sizes := []poolSize{}
	for _, size := range sortedKeys(targets) {
		bits, err := strconv.Atoi(size)
		if err == nil {
			sizes = append(sizes, poolSize{bits, int(ready[size]), int(targets[size])})
		}
	}
	return sizes
}

func countsOf(f figures, objects bool) counts {
	c := counts{
		Sessions:     int(f.sum("attestcsr_sessions", nil)),
		Connections:  int(f.sum("attestcsr_connections", nil)),
		WaitingLines: int(f.sum("attestcsr_audit_outbox_notes", nil)),
	}
	if objects {
		csrs, certificates := int(f.sum("attestcsr_objects", is("collection", "csrs"))), int(f.sum("attestcsr_objects", is("collection", "certificates")))
		c.CSRs, c.Certificates = &csrs, &certificates
	}
	return c
}

func (r *stateReader) addPublished(ctx context.Context, s *state) error {
	s.Published = []publishedKey{}
	set, err := r.Service.Published(ctx)
	if csr.Is(err, csr.NotFound) {
		return nil // nothing is published
	}
	if err != nil {
		return err
	}
	s.Publishing = true
	for _, k := range set.Keys {
		s.Published = append(s.Published, publishedKey{k.KeyID, k.State, formatTime(k.Since), algorithmOf(k.Public), pkcs10.KeyBits(k.Public)})
	}
	return nil
}

func algorithmOf(public crypto.PublicKey) string {
	switch public.(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return "ECDSA"
	}
	return ""
}

func addInstalled(ctx context.Context, authorise Authorise, s *state) error {
	grant, err := authorise(csr.GetCertificate)
	if err != nil {
		return err
	}
	held, err := grant.Installed(ctx)
	if err == nil {
		s.Installed = &installed{held.PEM, formatTime(held.Created), newReport(held.Report)}
	}
	return err
}

// lastLines is how many lines of the trail the first view has.
const lastLines = 8

func addLast(ctx context.Context, authorise Authorise, s *state) error {
	grant, err := authorise(csr.ReadTrail)
	if err != nil {
		return err
	}
	page, err := grant.Trail(ctx, audit.Query{Limit: lastLines})
	s.Last = append([]audit.Line{}, page.Lines...)
	return err
}

func addPending(ctx context.Context, authorise Authorise, s *state) error {
	grant, err := authorise(csr.GetCSR)
	if err != nil {
		return err
	}
	p, err := grant.Pending(ctx)
	if csr.Is(err, csr.NotFound) {
		return nil
	}
	if err == nil {
		s.Pending = &pending{p.PEM, p.SHA256, formatTime(p.Created), p.CreatedBy, p.Subject, p.Names, p.KeyAlgorithm, p.KeyBits}
	}
	return err
}

package csr

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

const (
	initialLifetimeYears = 10

	// maxAttempts bounds how often an operation starts again after another caller
	// changed the slot. Only many different renewals at once can use it up.
	maxAttempts = 16

	busyRetryAfter        = 2 * time.Second
	unavailableRetryAfter = 5 * time.Second
)

// Config is what a Service is made of.
type Config struct {
	Keys *keystore.Keystore // the caller closes it, after the last operation
	// KeySizes are the RSA key sizes in bits that a Spec may ask for. 2048, the
	// default, is one of them.
	KeySizes []int
	// Hostname is the common name of a subject without one: 1 to 64 characters.
	Hostname string
	// MaxRequests and MaxCertificates are how many named certification requests and
	// named certificates there may be at a time.
	MaxRequests, MaxCertificates int
	// Anchors returns the trust anchors at this moment; nil, or a function that returns
	// nil: certificates need none.
	Anchors func() *pkcs10.Anchors
	// Names is NamesWarn where it is empty.
	Names NameRule
	// ActivateAfter is how long after the CSR its certificate becomes active, at the
	// earliest; 0: at once. It is for those who verify signatures, see Publish.
	ActivateAfter time.Duration
	Publish       Publish
	// SignatureRate is how many signatures a second each caller gets; 0: no bound.
	SignatureRate int
	// Audit gets a note with the commit of every change, and every refusal for want
	// of a privilege. The caller closes it. Nil: nothing is audited.
	Audit  *audit.Log
	Logger *slog.Logger
	Now    func() time.Time
}

// Service is the core. It is safe for concurrent use.
type Service struct {
	activateAfter time.Duration
	visible       visibleSince
	publish       Publish
	published     publishedSet
	rates         rates
	signatures    *prometheus.CounterVec

	keys         *keystore.Keystore
	policy       pkcs10.Policy
	requests     collection
	certificates collection
	anchors      func() *pkcs10.Anchors
	names        NameRule
	warnings     *prometheus.CounterVec
	audit        *audit.Log
	log          *slog.Logger
	now          func() time.Time
}

// New returns a Service, or an error that names the setting to change.
func New(c Config) (*Service, error) {
	if !slices.Contains(c.KeySizes, pkcs10.DefaultKeySize) {
		return nil, fmt.Errorf("key_sizes: %d, the size of a CSR that names none, must be among them", pkcs10.DefaultKeySize)
	}
	policy := pkcs10.Policy{KeySizes: slices.Clone(c.KeySizes), Hostname: c.Hostname}
	_, _, err := policy.Resolve(pkcs10.Spec{}) // its common name is the hostname
	if broken, ok := errors.AsType[pkcs10.Violations](err); ok {
		return nil, fmt.Errorf("hostname: %s: it is the default common name; set hostname to another name",
			broken[0].Describe(fmt.Sprintf("%.64q", c.Hostname)))
	}
	if err != nil {
		return nil, err
	}
	if c.Anchors == nil {
		c.Anchors = func() *pkcs10.Anchors { return nil }
	}
	return &Service{
		keys:         c.Keys,
		policy:       policy,
		requests:     collection{collectionRequests, Collection, c.MaxRequests},
		certificates: collection{collectionCertificates, CertificateCollection, c.MaxCertificates},
		anchors:      c.Anchors,
		names:        c.Names,
		warnings:     newWarnings(),

		activateAfter: c.ActivateAfter,
		visible:       visibleSince{start: c.Now()},
		publish:       c.Publish,
		rates:         rates{limit: float64(c.SignatureRate), callers: map[string]*rate.Limiter{}},
		signatures:    newSignatures(),

		audit: c.Audit,
		log:   c.Logger,
		now:   c.Now,
	}, nil
}

// Prepare makes a key and a self-signed certificate where none is installed: the
// product always has a certificate. One that cannot be read stays: a set replaces it,
// and until then the service is not ready. A crash before the commit leaves the slot empty,
// and the next start makes both.
//
// The operator's settings order this signature. The audit trail has it as the service's.
func (s *Service) Prepare(ctx context.Context) error {
	record, err := s.keys.Get(ctx, installedSlot())
	if unreadable(record, err) != "" {
		return nil
	}
	if err == nil {
		s.warnOfOldName(record)
	}
	if !errors.Is(err, keystore.ErrNotFound) {
		return classify(err)
	}
	spec, t, err := s.policy.Resolve(pkcs10.Spec{})
	if err != nil {
		return classify(err)
	}
	at := keystore.Target{Slot: installedSlot(), Expect: keystore.Absent}
	_, err = s.keys.Replace(ctx, at, keySpec(spec), func(key crypto.Signer) (keystore.Change, error) {
		notBefore := s.timestamp()
		text, err := t.SelfSign(key, x509.KeyUsageDigitalSignature, notBefore, notBefore.AddDate(initialLifetimeYears, 0, 0))
		if err != nil {
			return keystore.Change{}, err
		}
		event := audit.Event{
			Request: audit.ByService(), Operation: "certificate.prepare", Slot: installedSlot().String(),
		}
		made, err := newSelfSigned(text, spec)
		if err != nil {
			return keystore.Change{}, err
		}
		made.Created = notBefore
		return s.change(made, event)
	})
	if errors.Is(err, keystore.ErrConflict) {
		return nil // another process on the same store made them first
	}
	return classify(err)
}

// warnOfOldName logs that the certificate of a first start has another name than the
// host has now. Only a CA's certificate replaces it.
func (s *Service) warnOfOldName(installed keystore.Record) {
	p, err := decodePayload(installed)
	if err != nil {
		return // it is shown as unreadable
	}
	facts := p.facts()
	if len(facts) != 1 || facts[0].Subject != facts[0].Issuer || strings.EqualFold(facts[0].SubjectCN, s.policy.Hostname) {
		return
	}
	s.log.Warn("the self-signed attestation certificate of the first start has an old name of the host: make a CSR, and set the certificate of a CA",
		"name", facts[0].SubjectCN, "hostname", s.policy.Hostname)
}

// Policy is what a Spec may ask for, and what it says where it says nothing.
func (s *Service) Policy() pkcs10.Policy {
	return pkcs10.Policy{KeySizes: slices.Clone(s.policy.KeySizes), Hostname: s.policy.Hostname}
}

// Health says why parts of the service do not work. nil: they do.
type Health struct {
	Store   error // takes commits
	Custody error // the keys of the ESX slots open, and what is beside them can be read
	Trail   error // has room for the lines of changes, and can be written
}

// Health looks at each part.
func (s *Service) Health(ctx context.Context) Health {
	slots := []keystore.Slot{pendingSlot(), installedSlot()}
	h := Health{
		Store:   classify(s.keys.Writes(ctx)),
		Custody: s.keys.Opens(ctx, slots...),
		Trail:   classify(errors.Join(s.audit.Admit(ctx), s.audit.Ready())),
	}
	for _, slot := range slots {
		if h.Custody != nil {
			break
		}
		record, err := s.keys.Get(ctx, slot)
		if unreadable(record, err) != "" {
			_, h.Custody = storedPEM(record)
		}
	}
	h.Custody = classify(h.Custody)
	return h
}

// Ready reports whether operations can be expected to succeed.
func (s *Service) Ready(ctx context.Context) error {
	h := s.Health(ctx)
	return classify(errors.Join(h.Store, h.Custody, h.Trail))
}

// keySpec says which key a resolved spec asks for.
func keySpec(s pkcs10.Spec) keystore.KeySpec {
	return keystore.KeySpec{Algorithm: keystore.Algorithm(s.Algorithm), Bits: int(*s.KeySize)}
}

// timestamp is the time now in whole seconds, as certificates have it.
func (s *Service) timestamp() time.Time { return s.now().UTC().Truncate(time.Second) }

// change is what a commit stores: a payload, the note of the event, and the index
// entries of a named object.
func (s *Service) change(p payload, event audit.Event, index ...keystore.IndexEntry) (keystore.Change, error) {
	b, err := p.encode()
	if err != nil {
		return keystore.Change{}, err
	}
	describe(&event, b, p)
	note, err := s.audit.Note(event)
	return keystore.Change{Payload: b, Note: note, Index: index}, err
}

// classify turns the error of an operation into an *Error. An error that has no kind
// of its own is Internal: a commit that failed, for example. errors.Is still finds the
// cause.
func classify(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if broken, ok := errors.AsType[pkcs10.Violations](err); ok {
		return &Error{Kind: Invalid, Violations: broken}
	}
	e := &Error{Err: err}
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		e.Kind = NotFound
	case errors.Is(err, keystore.ErrConflict):
		e.Kind = Conflict
	case errors.Is(err, keystore.ErrBusy):
		e.Kind, e.RetryAfter = Busy, busyRetryAfter
		if busy, ok := errors.AsType[*keystore.BusyError](err); ok {
			e.RetryAfter = busy.RetryAfter
		}
	case errors.Is(err, keystore.ErrUnavailable), errors.Is(err, audit.ErrBacklog):
		e.Kind, e.RetryAfter = Unavailable, unavailableRetryAfter
	}
	return e
}

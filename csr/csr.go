// Package csr is the core of the service: who may do what (Caller, Privilege,
// Grant), the operations on the attestation key and on named objects, and what is
// stored of them. Package pkcs10 below it has the rules and the encodings.
//
// It knows nothing of HTTP, of the names that fields have on the wire, or of
// where keys and records live. Every operation is reached through a Grant, which
// Service.Authorise gives out before any of the request's body is read.
package csr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
)

// Privilege is something a caller may be allowed to do.
type Privilege string

// The privileges, in the names that the vendor's products give them. SecurityRead is
// ours. Management includes it, and Crud includes Read.
const (
	SecurityManagement    Privilege = "SECURITY_MGMT"
	SecurityRead          Privilege = "SECURITY_READ"
	PolicyCertificateRead Privilege = "policy_certificate:read"
	PolicyCertificateCRUD Privilege = "policy_certificate:crud"
)

// AuditRead is for the audit trail. The vendor's products have none.
const AuditRead Privilege = "audit:read"

// The privileges to sign, with the installed attestation key and with those of named
// certificates. The vendor's products have none.
const (
	AttestationSign       Privilege = "attestation:sign"
	PolicyCertificateSign Privilege = "policy_certificate:sign"
)

// Privileges lists every privilege there is.
func Privileges() []Privilege {
	return []Privilege{SecurityManagement, SecurityRead, AttestationSign, PolicyCertificateRead, PolicyCertificateCRUD, PolicyCertificateSign, AuditRead}
}

// Caller is an authenticated principal, with the request that it sends.
type Caller struct {
	audit.Request
	Privileges []Privilege
	// Keys are the keys that the caller may sign with and see; nil: those that its
	// privileges cover.
	Keys []KeyName
}

// Holds reports whether the caller has the privilege, itself or through one
// that includes it.
func (c Caller) Holds(p Privilege) bool {
	return slices.Contains(c.Privileges, p) ||
		p == SecurityRead && slices.Contains(c.Privileges, SecurityManagement) ||
		p == PolicyCertificateRead && slices.Contains(c.Privileges, PolicyCertificateCRUD)
}

// Kind says what went wrong. Each dialect chooses a document and a status for it. The
// zero value is Internal: an error without a kind is the service's fault.
type Kind int

// The kinds of error.
const (
	Internal        Kind = iota // our fault; the cause is for the log only
	Invalid                     // the request breaks a rule; Violations say which
	Unauthenticated             // no or bad credentials
	Unauthorized                // the caller lacks the privilege
	NotFound                    // the object does not exist
	Exists                      // the object to be created exists already
	Conflict                    // the object changed in the meantime
	Busy                        // too much to do; try again after RetryAfter
	Unavailable                 // not able to serve now; try again after RetryAfter
	Stale                       // the caller names a revision that is not the stored one
	TooMany                     // the caller asks for more than its rate; try again after RetryAfter
	Forged                      // another site may have made the caller's browser send this
)

func (k Kind) String() string {
	names := [...]string{"internal", "invalid", "unauthenticated", "unauthorized", "not_found", "exists", "conflict", "busy", "unavailable", "stale", "too_many", "forged"}
	if k < 0 || int(k) >= len(names) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return names[k]
}

// Kinds lists every kind, so that tests and metrics can walk them.
func Kinds() []Kind {
	return []Kind{Internal, Invalid, Unauthenticated, Unauthorized, NotFound, Exists, Conflict, Busy, Unavailable, Stale, TooMany, Forged}
}

// Error is the error of every operation of this package. Err is the cause, for the log
// alone: no client sees it.
type Error struct {
	Kind       Kind
	Privilege  Privilege          // with Unauthorized: the one that the caller lacks
	Violations []pkcs10.Violation // with Invalid: every broken rule
	RetryAfter time.Duration      // with Busy, Unavailable and TooMany: when to try again
	Err        error
}

func (e *Error) Error() string {
	parts := []string{e.Kind.String()}
	for _, v := range e.Violations {
		parts = append(parts, string(v.Field), string(v.Rule))
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// Is reports whether an error is one of this package, and of that kind.
func Is(err error, kind Kind) bool {
	e, is := errors.AsType[*Error](err)
	return is && e.Kind == kind
}

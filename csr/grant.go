package csr

import (
	"context"
	"fmt"
	"slices"

	"attestcsr/csr/audit"
)

// Operation is something a caller can be granted.
type Operation string

// The operations on the ESX attestation key. Gets need SecurityRead, the others
// SecurityManagement.
const (
	CreateCSR      Operation = "csr.create"
	GetCSR         Operation = "csr.get"
	DeleteCSR      Operation = "csr.delete"
	GetCertificate Operation = "certificate.get"
	SetCertificate Operation = "certificate.set"
	// CheckCertificate is a dry run of SetCertificate.
	CheckCertificate Operation = "certificate.check"
)

// The operations on named certification requests and named certificates. Gets
// and lists need PolicyCertificateRead, the others PolicyCertificateCRUD.
const (
	CreateNamedCSR         Operation = "named_csr.create"
	GetNamedCSR            Operation = "named_csr.get"
	ListNamedCSRs          Operation = "named_csr.list"
	DeleteNamedCSR         Operation = "named_csr.delete"
	ImportCertificate      Operation = "named_csr.import"
	CheckImport            Operation = "named_csr.check" // a dry run of ImportCertificate
	SelfSign               Operation = "named_csr.self_sign"
	SelfSignNew            Operation = "named_certificate.self_sign"
	GetNamedCertificate    Operation = "named_certificate.get"
	ListNamedCertificates  Operation = "named_certificate.list"
	DeleteNamedCertificate Operation = "named_certificate.delete"
)

// The operation on the audit trail, which needs AuditRead.
const (
	ReadTrail Operation = "trail.read"
)

// The operations on a key that signs, for AuthoriseKey. SignKey needs the privilege to
// sign with that key, the others that or the one to read its certificate.
const (
	SignKey   Operation = "key.sign"
	VerifyKey Operation = "key.verify"
	ReadKey   Operation = "key.public"
)

// privilege is what the operation needs.
func (o Operation) privilege() (Privilege, bool) {
	switch o {
	case GetCSR, GetCertificate:
		return SecurityRead, true
	case CreateCSR, DeleteCSR, SetCertificate, CheckCertificate:
		return SecurityManagement, true
	case GetNamedCSR, ListNamedCSRs, GetNamedCertificate, ListNamedCertificates:
		return PolicyCertificateRead, true
	case CreateNamedCSR, DeleteNamedCSR, ImportCertificate, CheckImport, SelfSign, SelfSignNew, DeleteNamedCertificate:
		return PolicyCertificateCRUD, true
	case ReadTrail:
		return AuditRead, true
	}
	return "", false
}

// May reports whether the caller holds the privilege for an operation.
func (c Caller) May(o Operation) bool {
	need, known := o.privilege()
	return known && c.Holds(need)
}

// Grant lets one caller do one operation, any number of times. There is no
// other way to the operations.
type Grant struct {
	service   *Service
	operation Operation
	caller    Caller // who makes the changes
	key       KeyName
}

// Authorise returns the Grant for an operation. A caller without the privilege gets an
// Unauthorized error, and the audit trail a line. Nothing of the request is needed but
// its route: the body is read only for callers who may send it.
func (s *Service) Authorise(caller Caller, o Operation) (*Grant, error) {
	need, known := o.privilege()
	if !known {
		return nil, &Error{Err: fmt.Errorf("unknown operation %q", o)}
	}
	if !caller.Holds(need) {
		s.audit.Refuse(audit.Refusal{Request: caller.Request, Operation: string(o), Outcome: Unauthorized.String()})
		return nil, &Error{Kind: Unauthorized, Privilege: need, Err: fmt.Errorf("%s needs the privilege %s", o, need)}
	}
	return &Grant{service: s, operation: o, caller: caller}, nil
}

// AuthoriseKey is Authorise for an operation on a key that signs.
func (s *Service) AuthoriseKey(caller Caller, o Operation, key KeyName) (*Grant, error) {
	if !o.onKey() {
		return nil, &Error{Err: fmt.Errorf("%q is no operation on a key", o)}
	}
	if !caller.mayUse(o, key) {
		s.audit.Refuse(audit.Refusal{Request: caller.Request, Operation: string(o), Outcome: Unauthorized.String()})
		need, _ := key.privileges()
		return nil, &Error{Kind: Unauthorized, Privilege: need, Err: fmt.Errorf("%s of %s needs the privilege %s, and the key among those of the caller", o, key, need)}
	}
	return &Grant{service: s, operation: o, caller: caller, key: key}, nil
}

// onKey reports whether it is an operation on a key that signs.
func (o Operation) onKey() bool { return o == SignKey || o == VerifyKey || o == ReadKey }

// privileges are those to sign with a key, and to read its certificate.
func (k KeyName) privileges() (sign, read Privilege) {
	if k.NSX == "" {
		return AttestationSign, SecurityRead
	}
	return PolicyCertificateSign, PolicyCertificateRead
}

func (c Caller) mayUse(o Operation, key KeyName) bool {
	if c.Keys != nil && !slices.Contains(c.Keys, key) {
		return false
	}
	sign, read := key.privileges()
	return c.Holds(sign) || o != SignKey && c.Holds(read)
}

// permits returns an Internal error when the grant is for another operation.
func (g *Grant) permits(o Operation) error {
	if g.operation != o {
		return &Error{Err: fmt.Errorf("a grant for %s was used for %s", g.operation, o)}
	}
	return nil
}

// permitsChange is permits for an operation that changes something. It is refused,
// before a key is taken, while the audit trail cannot take its line.
func (g *Grant) permitsChange(ctx context.Context, o Operation) error {
	if err := g.permits(o); err != nil {
		return err
	}
	return classify(g.service.audit.Admit(ctx))
}

package pkcs10

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Field names a part of a request in the terms of X.509. Each dialect has a name of its
// own for it.
type Field string

// The attributes of a subject, in the short names of RFC 4519 section 2. They are
// part of the stored format.
const (
	CommonName         Field = "CN"
	Organization       Field = "O"
	OrganizationalUnit Field = "OU"
	Locality           Field = "L"
	StateOrProvince    Field = "ST"
	Country            Field = "C"
)

// The other fields of a certification request, and a certificate chain.
const (
	KeySize          Field = "key size"
	KeyAlgorithm     Field = "key algorithm"
	EmailAddress     Field = "e-mail address"
	SubjectAltName   Field = "subject alternative name"
	CertificateChain Field = "certificate"
	DaysValid        Field = "days valid"
)

// Violation is one broken rule.
type Violation struct {
	Field Field
	Rule  Rule
	Place int    // which certificate of a chain, counted from 1; 0: none of them, or all
	Value string // what breaks it, shortened and printable; empty where it does not help
	Limit string // what the rule asks for: a bound, a choice of values, or the broken part of the rule as what follows "must"
	Cause string // what it is, or what a library says of it, printable; empty where it does not help
}

// Rule identifies a rule. Clients may depend on the names.
type Rule string

// The rules that a request for a certification request can break.
const (
	Required         Rule = "required"
	Empty            Rule = "empty"
	EmptyItem        Rule = "empty_item"
	TooLong          Rule = "too_long"
	TooMany          Rule = "too_many"
	NotAllowed       Rule = "not_allowed"
	InvalidUTF8      Rule = "invalid_utf8"
	ControlCharacter Rule = "control_character"
	LostText         Rule = "lost_text"
	UnknownCountry   Rule = "unknown_country"
	NotAMailbox      Rule = "not_a_mailbox"
	NotAURI          Rule = "not_a_uri"
	NotAnIPAddress   Rule = "not_an_ip_address"
	NotADNSName      Rule = "not_a_dns_name"
	NotAName         Rule = "not_a_name"
	NotAnID          Rule = "not_an_id"
	OutOfRange       Rule = "out_of_range"
	Full             Rule = "full"
	WrongLength      Rule = "wrong_length"
	NotForSigning    Rule = "not_for_signing"
)

// Describe says in one sentence, without a full stop, what is wrong and what the rule
// asks for. The sentence begins with the name that the dialect has for the field, the
// place of the certificate, and the quoted value.
func (v Violation) Describe(name string) string {
	subject := name
	if v.Place > 0 {
		if name != string(CertificateChain) {
			subject += ": " + string(CertificateChain)
		}
		subject += " " + strconv.Itoa(v.Place)
	}
	if v.Value != "" {
		subject += " " + strconv.Quote(v.Value)
	}
	subject += " " + v.predicate()
	if v.Cause != "" {
		subject += ": " + v.Cause
	}
	return subject
}

func (v Violation) predicate() string {
	if _, text := v.certificateRule(); text != "" {
		return text
	}
	switch v.Rule {
	case NotAMailbox, NotAURI, NotAnIPAddress, NotADNSName, NotAName, UnknownCountry:
		if v.Limit != "" {
			return "must " + v.Limit
		}
	}
	switch v.Rule {
	case Required:
		return "is required"
	case Empty:
		return "must not be empty"
	case EmptyItem:
		return "must not have an empty entry"
	case TooLong:
		return "must be at most " + v.Limit + " characters"
	case TooMany:
		return "must have at most " + v.Limit + " entries"
	case NotAllowed:
		return "must be one of " + v.Limit
	case InvalidUTF8:
		return "must be valid UTF-8"
	case ControlCharacter:
		return "must not contain control or text direction characters"
	case LostText:
		return "must not contain U+FFFD, which stands for text that was lost on its way here"
	case UnknownCountry:
		return "must be an ISO 3166-1 alpha-2 country code"
	case NotAMailbox:
		return "must be an e-mail address (RFC 5321, ASCII)"
	case NotAURI:
		return "must be a URI: a scheme, :// and a host, or a URN"
	case NotAnIPAddress:
		return "must be an IP address without zone or prefix length"
	case NotADNSName:
		return "must be a DNS name (RFC 1123)"
	case NotAName:
		return "must be a DNS name, IP address, e-mail address or URI"
	case NotAnID:
		return "must be " + v.Limit + " bytes of UTF-8 without control characters, and neither . nor .."
	case OutOfRange:
		return "must be from " + v.Limit
	case WrongLength:
		return "must be " + v.Limit + " bytes long"
	case NotForSigning:
		return "must not sign: " + v.Limit
	case Full:
		return "is full: it takes " + v.Limit + " objects"
	}
	return "breaks the rule " + string(v.Rule)
}

// How many characters of a value and of a library's words a Violation has.
const (
	maxPrintable = 64
	maxCause     = 160
)

// printable returns at most maxPrintable characters of a value. A character that is not
// printable becomes U+FFFD. It is not strict.Printable, which has a full stop there:
// both are in answers, and this package imports nothing.
func printable(value string) string { return printableUpTo(maxPrintable, value) }

func printableUpTo(limit int, value string) string {
	var b strings.Builder
	n := 0
	for _, r := range value { // a byte that is not UTF-8 comes as U+FFFD
		if n == limit {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

// Violations are broken rules, each once. The text of the error has no values: it is
// for the log.
type Violations []Violation

func (vs Violations) Error() string {
	parts := []string{"broken rules"}
	for _, v := range vs {
		parts = append(parts, string(v.Field)+" "+string(v.Rule))
	}
	return strings.Join(parts, ": ")
}

// Add adds a violation if it is new, with a printable value.
func (vs *Violations) Add(v Violation) {
	v.Value, v.Cause = printable(v.Value), printableUpTo(maxCause, v.Cause)
	if !slices.Contains(*vs, v) {
		*vs = append(*vs, v)
	}
}

// Err returns the violations, or nil when there are none.
func (vs Violations) Err() error {
	if len(vs) == 0 {
		return nil
	}
	return vs
}

// Check is one of the questions that a certificate has to pass. A dry run answers each of
// them. The names are part of the API of the console.
type Check string

// The checks, in the order in which they are made. A check whose answer depends on one
// that failed is not made.
const (
	CheckEncoding   Check = "encoding"   // it can be read: PEM or PKCS#7, base64, DER, X.509
	CheckAlgorithms Check = "algorithms" // keys and signatures of every certificate are strong enough
	CheckOrder      Check = "order"      // each certificate is issued by the next one, leaf first
	CheckValidity   Check = "validity"   // every certificate is valid now
	CheckUse        Check = "use"        // the leaf may be used for what it is asked for, and has no unknown critical extension
	CheckAnchor     Check = "anchor"     // a path leads to a trust anchor; not made without anchors
	CheckKey        Check = "key"        // it answers a CSR or the installed key
	CheckNames      Check = "names"      // subject and alternative names are those that were asked for
	CheckRenewal    Check = "renewal"    // it ends no earlier than what it renews
)

// Checks lists every check in the order in which they are made.
func Checks() []Check {
	return []Check{CheckEncoding, CheckAlgorithms, CheckOrder, CheckValidity, CheckUse, CheckAnchor, CheckKey, CheckNames, CheckRenewal}
}

// certificateRule returns the check that a rule of certificates belongs to, and what it
// asks for. Both are empty for a violation of another kind.
func (v Violation) certificateRule() (Check, string) {
	for _, rule := range []func(Violation) (Check, string){
		encodingRule, derRule, pkcs7Rule, algorithmRule, orderRule, useRule, anchorRule, answerRule,
	} {
		if check, text := rule(v); check != "" {
			return check, text
		}
	}
	return "", ""
}

// Check returns the check that a violation of a certificate belongs to, or "" for a
// violation of another kind.
func (v Violation) Check() Check {
	check, _ := v.certificateRule()
	return check
}

// The rules that compare a certificate with what was asked for. The core knows what that
// is: Limit says it.
const (
	KeyMismatch Rule = "key_mismatch"
	NamesDiffer Rule = "names_differ"
)

// answerRule is encodingRule for these rules.
func answerRule(v Violation) (Check, string) {
	switch v.Rule {
	case KeyMismatch:
		return CheckKey, "does not answer the current CSR: " + v.Limit
	case NamesDiffer:
		return CheckNames, "must have the names that the CSR asked for: " + v.Limit
	}
	return "", ""
}

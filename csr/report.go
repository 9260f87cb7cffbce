package csr

import (
	"slices"

	"attestcsr/csr/pkcs10"
)

// Report says what a set of a certificate would do. Nothing was changed for it.
type Report struct {
	Accepted     bool           // a set would succeed
	Key          Key            // whose key the certificate is for
	Checks       []CheckResult  // of all checks, in the order of pkcs10.Checks
	Certificates []pkcs10.Facts // the chain as it would be stored; none if it cannot be read
	Anchored     bool           // a path leads to a trust anchor
	Unchanged    bool           // the same chain is installed already: a set would change nothing
}

// Key says which key a certificate is for.
type Key string

// The keys.
const (
	NoKey        Key = ""          // none that it could be set for
	PendingKey   Key = "pending"   // that of the CSR
	InstalledKey Key = "installed" // that of the installed certificate, which it would renew
)

// CheckResult is the answer of one check.
type CheckResult struct {
	Check      pkcs10.Check
	Result     Result
	Violations []pkcs10.Violation // with CheckFailed: the rules that are broken
	Notes      []string           // with CheckWarns and CheckNotMade: sentences that say why
}

// Result is how a check ended. The names are part of the API of the console.
type Result string

// The results.
const (
	CheckPassed  Result = "passed"
	CheckFailed  Result = "failed"
	CheckWarns   Result = "warning"  // the certificate is accepted all the same
	CheckNotMade Result = "not_made" // it does not apply, or another check failed before
)

// report writes down a verdict.
func (v verdict) report() Report {
	r := Report{Accepted: len(v.broken) == 0, Key: v.key, Certificates: factsOf(v.accepted.Chain), Anchored: v.accepted.Anchored, Unchanged: v.unchanged}
	for _, check := range pkcs10.Checks() {
		c := CheckResult{Check: check, Result: CheckNotMade}
		if slices.Contains(v.made, check) {
			c.Result = CheckPassed
		}
		for _, n := range v.notes {
			if n.check == check {
				c.Notes = append(c.Notes, n.text)
				if n.warns {
					c.Result = CheckWarns
				}
			}
		}
		for _, broken := range v.broken {
			if broken.Check() == check {
				c.Result, c.Violations = CheckFailed, append(c.Violations, broken)
			}
		}
		r.Checks = append(r.Checks, c)
	}
	return r
}

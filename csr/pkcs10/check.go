package pkcs10

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
	for _, rule := range []func(Violation) (Check, string){encodingRule, derRule, pkcs7Rule, chainRule, answerRule} {
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

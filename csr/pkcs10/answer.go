package pkcs10

// The rules that compare a certificate with what was asked for. The core knows what that
// is.
const (
	KeyMismatch Rule = "key_mismatch"
)

// answerRule is encodingRule for the rules of this file.
func answerRule(v Violation) (Check, string) {
	if v.Rule == KeyMismatch {
		return CheckKey, "does not answer the current CSR"
	}
	return "", ""
}

package kit

import (
	"strings"
	"testing"
	"unicode"

	"attestcsr/csr/pkcs10"
)

// Rules is a compact form of violations: "field: rule".
func Rules(vs []pkcs10.Violation) []string {
	var s []string
	for _, v := range vs {
		s = append(s, string(v.Field)+": "+string(v.Rule))
	}
	return s
}

// CheckSentences fails unless every violation can be shown to a client and written to
// a log as one line.
func CheckSentences(t testing.TB, vs []pkcs10.Violation) {
	t.Helper()
	for _, v := range vs {
		sentence := v.Describe("some_field")
		if !strings.HasPrefix(sentence, "some_field") || len(sentence) > 1000 ||
			strings.ContainsFunc(sentence, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%+v: %q", v, sentence)
		}
	}
}

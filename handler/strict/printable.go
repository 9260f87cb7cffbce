package strict

import (
	"strconv"
	"strings"
)

// Printable makes text of a client fit for an answer or a log. It cuts the text to
// limit characters, and replaces characters that do not print with full stops: a
// terminal could act on them.
func Printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(s, ".") {
		if n == limit {
			b.WriteRune('…')
			break
		}
		if !strconv.IsPrint(r) {
			r = '.'
		}
		b.WriteRune(r)
		n++
	}
	return b.String()
}

package strict

import (
	"strconv"
	"strings"
)

// Printable cuts a client's own words, before they are sent back or logged, to at
// most limit characters. One that a terminal would not show, or act on, becomes a
// full stop.
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

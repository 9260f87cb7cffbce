package auth

import (
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxBasic is the length of the longest base64 text that can hold a user name, a
// colon and a password within their bounds.
const maxBasic = (maxUserName + 1 + maxPassword + 2) / 3 * 4

// isBasic reports whether an Authorization header names the Basic scheme, which
// is compared without case (RFC 9110, section 11.1).
func isBasic(authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Basic")
}

// parseBasic reads the credentials of an Authorization header of the Basic scheme
// (RFC 7617, section 2, in UTF-8). It refuses what is not usable.
func parseBasic(authorization string) (user, password string, ok bool) {
	if !isBasic(authorization) {
		return "", "", false
	}
	_, encoded, _ := strings.Cut(authorization, " ")
	encoded = strings.TrimLeft(encoded, " ") // 1*SP between scheme and credentials
	// The decoder would pass over line breaks, which credentials may not hold.
	if len(encoded) > maxBasic || strings.ContainsAny(encoded, "\r\n") {
		return "", "", false
	}
	var buf [maxBasic / 4 * 3]byte
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(encoded))
	if err != nil {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(buf[:n]), ":")
	if !ok || !usable(user, password) {
		return "", "", false
	}
	return user, password, true
}

// usable reports whether there can be such a user and such a password. No users file
// has a name that is empty, longer than 255 bytes, not UTF-8, or has control
// characters. Passwords are UTF-8 of at most 1,024 bytes. bcrypt reads only 72 of
// them, but htpasswd accepts longer passwords, which then have to work here.
func usable(user, password string) bool {
	return user != "" && len(user) <= maxUserName && len(password) <= maxPassword &&
		utf8.ValidString(user) && utf8.ValidString(password) && !strings.ContainsFunc(user, unicode.IsControl)
}

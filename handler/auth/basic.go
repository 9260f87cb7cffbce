package auth

import (
	"encoding/base64"
	"errors"
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
func parseBasic(authorization string) (user, password string, err error) {
	if !isBasic(authorization) {
		return "", "", errUnreadable
	}
	_, encoded, _ := strings.Cut(authorization, " ")
	encoded = strings.TrimLeft(encoded, " ") // 1*SP between scheme and credentials
	// The decoder would pass over line breaks, which credentials may not hold.
	if len(encoded) > maxBasic || strings.ContainsAny(encoded, "\r\n") {
		return "", "", errUnreadable
	}
	var buf [maxBasic / 4 * 3]byte
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(encoded))
	if err != nil {
		return "", "", errUnreadable
	}
	user, password, ok := strings.Cut(string(buf[:n]), ":")
	if !ok {
		return "", "", errUnreadable
	}
	if err := usable(user, password); err != nil {
		return "", "", err
	}
	return user, password, nil
}

// What is wrong with credentials that are not checked. Clients that send Latin-1 have
// an error of their own: their user is sure that the password is right.
var (
	errUnreadable = errors.New("no usable user name and password")
	errNotUTF8    = errors.New("the user name or the password is not UTF-8: the client sends another encoding, such as Latin-1")
)

// usable says why there cannot be such a user and such a password. No users file has a
// name that is empty, longer than 255 bytes, not UTF-8, or has control characters.
// Passwords are UTF-8 of at most 1,024 bytes. bcrypt reads only 72 of them, but htpasswd
// accepts longer passwords, which then have to work here.
func usable(user, password string) error {
	switch {
	case !utf8.ValidString(user), !utf8.ValidString(password):
		return errNotUTF8
	case user == "", len(user) > maxUserName, len(password) > maxPassword, strings.ContainsFunc(user, unicode.IsControl):
		return errUnreadable
	}
	return nil
}

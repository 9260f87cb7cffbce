package strict

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind is a kind of problem.
type Kind int

// The kinds of problems, in this order: of the body, which is no JSON in UTF-8; of what
// its text says; of what a member must be.
const (
	NotObject     Kind = iota // the body is no JSON object
	UTF16                     // the body is UTF-16
	ByteOrderMark             // the body begins with one; what follows is read
	Malformed                 // syntax error at Offset
	NotUTF8                   // a string has a byte at Offset that is not UTF-8
	LoneSurrogate             // a string has half of a surrogate pair as an escape at Offset or after it
	Duplicate                 // a member occurs more than once
	Unknown                   // there is no such member
	WrongType                 // a value is not of type Expected
	Missing                   // a member is absent or null
	Broken                    // a member breaks Rule, a validate tag with the parameter Limit
)

// The values of Problem.Expected.
const (
	Integer       = "an integer of 64 bits"
	QuotedInteger = "an integer, as a number or as a string"
	String        = "a string"
	Boolean       = "true or false"
	QuotedBoolean = "true or false, also as a string"
	List          = "a list"
	Object        = "an object"
	Other         = "of another type"
)

// Problem is one thing that is wrong with a body.
type Problem struct {
	Kind     Kind
	Name     string // of the member, as subject.attributes[0].key; up to Unknown it can be text of the client
	Expected string // with WrongType
	Found    string // with WrongType: what is there instead
	Hint     string // with WrongType: what to send instead, where that is clear
	Offset   int64  // in bytes
	Rule     string // with Broken
	Limit    string // with Broken
}

// Problems are all problems of a body.
type Problems []Problem

// OfEncoding reports whether the body is no JSON in UTF-8.
func (p Problem) OfEncoding() bool { return p.Kind <= LoneSurrogate }

// Encoding says in words what is wrong with the encoding. The words follow the name of
// the member where there is one. The name is not in them, since the log must not have it.
func (p Problem) Encoding() string {
	at := " at byte " + strconv.FormatInt(p.Offset, 10)
	switch p.Kind {
	case UTF16:
		return "the body is UTF-16: send UTF-8"
	case ByteOrderMark:
		return "the body begins with a byte order mark: send UTF-8 without one"
	case Malformed:
		return "malformed" + at
	case NotUTF8:
		return "is not UTF-8" + at + ": send the body in UTF-8"
	case LoneSurrogate:
		return "has half of a surrogate pair" + at + ": write the character itself, or both halves"
	}
	return "the body is not a JSON object"
}

// found says in words what a value is, and what to send instead where the client surely
// means an integer or a Boolean.
func found(expected string, value jsontext.Value) (what, hint string) {
	kind, inner := value.Kind(), string(value)
	switch kind {
	case '"':
		inner = unquote(value)
		_, isInteger := ParseInteger(inner)
		isBoolean := inner == "true" || inner == "false"
		switch {
		case expected == QuotedInteger, expected == QuotedBoolean:
			return "another string", ""
		case expected == Integer && isInteger:
			return "a string", "send the number " + inner + " without quotes"
		case expected == Boolean && isBoolean:
			return "a string", "send " + inner + " without quotes"
		}
		return "a string", ""
	case '0':
		switch {
		case expected != Integer && expected != QuotedInteger:
			return "a number", ""
		case strings.ContainsAny(inner, ".eE"):
			return "a number with a fraction or an exponent", roundHint(inner)
		}
		return "another number", ""
	case '{':
		return Object, ""
	case '[':
		return List, ""
	}
	return inner, "" // true, false or null
}

// roundHint is the hint for a number like 2048.0 or 2e3. Beyond 2^53 a float64 does not
// tell which integer is meant.
func roundHint(number string) string {
	f, err := strconv.ParseFloat(number, 64)
	n := int64(f)
	if err != nil || float64(n) != f || n > 1<<53 || n < -1<<53 {
		return ""
	}
	return "send " + strconv.FormatInt(n, 10)
}

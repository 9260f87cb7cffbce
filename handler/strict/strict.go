// Package strict reads the JSON objects that clients send, and explains why it
// refuses one. It refuses what it does not know: a client that misspells key_size must
// not get a weaker key without notice.
//
// A dialect describes a body as a struct with json tags and with the validate tags of
// go-playground/validator. It makes the text of an answer from the problems itself.
package strict

import (
	"cmp"
	"errors"
	"reflect"
	"strings"

	"github.com/go-playground/validator/v10"
)

// Decoder reads bodies of one kind. It is safe for concurrent use.
type Decoder[T any] struct {
	members  members
	validate *validator.Validate
	lenient  bool
}

// New makes a Decoder for the struct T. A field whose zero value is a value of its
// own is a pointer: nil is absent or null. An integer with the tag `strict:"quoted"`
// may also come as a string.
func New[T any]() *Decoder[T] {
	d := &Decoder[T]{members: members{}, validate: validator.New(validator.WithRequiredStructEnabled())}
	d.validate.RegisterTagNameFunc(func(f reflect.StructField) string { return cmp.Or(Member(f), embedded) })
	d.members.add(reflect.TypeFor[T]())
	return d
}

// NewLenient makes a Decoder that ignores unknown members, and takes integers and
// Booleans also as strings: "" is null. Everything else is as strict as with New.
func NewLenient[T any]() *Decoder[T] {
	d := New[T]()
	d.lenient = true
	return d
}

// Value is what an optional member says: *p, or the zero value where it is absent or null.
func Value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// embedded stands for an embedded struct, which has no name in a body.
const embedded = "-"

// Member is the JSON name of a struct's field, or "".
func Member(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// Decode reads a body, or returns all problems of it: first those of the text, in its
// order, then missing members and broken rules. Reading ends at a syntax error only. A
// member has no second problem of the other kind: one of the wrong type is not missing as
// well.
func (d *Decoder[T]) Decode(body []byte) (T, Problems) {
	var into, none T
	problems, whole := read(body, d.members, d.lenient, &into)
	if whole {
		problems = append(problems, d.check(into, problems)...)
	}
	if len(problems) > 0 {
		return none, problems
	}
	return into, nil
}

// check returns what the validate tags refuse, without members with known problems.
func (d *Decoder[T]) check(body T, known Problems) Problems {
	var broken validator.ValidationErrors
	if !errors.As(d.validate.Struct(body), &broken) {
		return nil
	}
	told := map[string]bool{}
	for _, p := range known {
		told[p.Name] = true
	}
	var problems Problems
	for _, field := range broken {
		p := Problem{Kind: Broken, Name: ruleName(field), Rule: field.Tag(), Limit: field.Param()}
		if p.Rule == "required" {
			p = Problem{Kind: Missing, Name: p.Name}
		}
		if !told[p.Name] {
			problems = append(problems, p)
		}
	}
	return problems
}

// ruleName is Problem.Name for an error of the validator.
func ruleName(field validator.FieldError) string {
	_, path, _ := strings.Cut(field.Namespace(), ".") // after the name of T
	return strings.ReplaceAll(path, embedded+".", "")
}

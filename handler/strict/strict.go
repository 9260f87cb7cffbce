// Package strict reads the JSON objects that clients send, and says what is wrong
// with one that it refuses. It refuses whatever it does not fully understand: a
// misspelt key_size must not make a weaker key in silence.
//
// A dialect describes a body as a struct with json tags, and with validate tags
// for what must be there (go-playground/validator). Problems come back without
// words for the client: those are the dialect's.
package strict

import (
	"errors"
	"reflect"
	"strings"

	"github.com/go-playground/validator/v10"
)

// Options is what a dialect is lenient about.
type Options struct {
	IgnoreUnknown bool // members that the struct does not have are passed over
	Quoted        bool // an integer or a boolean may come as a string
}

// Decoder reads bodies of one kind. It is safe for concurrent use.
type Decoder[T any] struct {
	options  Options
	shape    *shape
	embedded map[string]bool // names of embedded structs, which no body has
	validate *validator.Validate
}

// New makes a Decoder for the struct T. Its fields are pointers where absent and
// null have to be told from a value. The tag `strict:"quoted"` on a field is
// Options.Quoted for that field.
func New[T any](o Options) *Decoder[T] {
	d := &Decoder[T]{options: o, embedded: map[string]bool{}, validate: validator.New(validator.WithRequiredStructEnabled())}
	d.validate.RegisterTagNameFunc(Member)
	t := reflect.TypeFor[T]()
	d.shape = shapeOf(t)
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous {
			d.embedded[f.Name] = true
		}
	}
	return d
}

// Member is the JSON name of a struct's field, or "".
func Member(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// Decode reads a body, or returns all that is wrong with it: first with its text,
// in the order of the text, then with its shape. The text is read up to where it is
// no JSON or a name repeats. A member of which something is told already is not told
// to be missing.
func (d *Decoder[T]) Decode(body []byte) (T, Problems) {
	var into, none T
	problems, whole := read(body, d.shape, d.options, reflect.ValueOf(&into).Elem())
	if whole {
		problems = append(problems, d.shapeProblems(into, problems)...)
	}
	if len(problems) > 0 {
		return none, problems
	}
	return into, nil
}

func (d *Decoder[T]) shapeProblems(body T, known Problems) Problems {
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
		p := Problem{Kind: Broken, Name: d.nameOf(field), Rule: field.Tag(), Limit: field.Param()}
		if p.Rule == "required" {
			p = Problem{Kind: Missing, Name: p.Name}
		}
		if !told[p.Name] {
			problems = append(problems, p)
		}
	}
	return problems
}

// nameOf writes what a rule is broken by as Problem.Name.
func (d *Decoder[T]) nameOf(field validator.FieldError) string {
	_, path, _ := strings.Cut(field.Namespace(), ".") // after the name of T
	var parts []string
	for part := range strings.SplitSeq(path, ".") {
		if !d.embedded[part] {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ".")
}

// Kind is a kind of problem.
type Kind int

// The kinds of problems: of a text, and from Missing on of the shape.
const (
	NotObject Kind = iota // the body is another JSON value, or none
	Malformed             // it is no JSON from Offset on
	Duplicate             // a member occurs more than once
	Unknown               // there is no such member
	WrongType             // a value is not what Expected says
	Missing               // a member is absent or null
	Broken                // a member breaks Rule, a tag of the validator, whose parameter is Limit
)

// What a value can be expected to be.
const (
	Integer       = "an integer of 64 bits"
	QuotedInteger = "an integer, as a number or as a string"
	String        = "a string"
	Boolean       = "true or false"
	List          = "a list"
	Object        = "an object"
	Other         = "of another type"
)

// Problem is one thing that is wrong with a body.
type Problem struct {
	Kind     Kind
	Name     string // of the member, as subject.attributes[0].key; the client's own words with Duplicate and Unknown
	Expected string // with WrongType
	Offset   int64  // with Malformed: the first byte that is no JSON
	Rule     string // with Broken
	Limit    string // with Broken
}

// Problems are all that is wrong with a body.
type Problems []Problem

// First is the first problem of the text. Where the text has none, it is all
// problems of the shape.
func (p Problems) First() Problems {
	if len(p) > 0 && p[0].Kind < Missing {
		return p[:1]
	}
	return p
}

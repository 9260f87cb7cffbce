package strict

import (
	"bytes"
	"errors"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// shape is the JSON type that a Go type is read from.
type shape struct {
	expected string
	members  map[string]member // of an object
	item     *shape            // of a list
	quoted   bool              // the tag strict:"quoted"
}

type member struct {
	index []int // see reflect.Value.FieldByIndex
	shape *shape
}

// shapeOf returns the shape of a type, which must not be recursive. A type with its
// own UnmarshalJSON is not looked into.
func shapeOf(t reflect.Type) *shape {
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return &shape{expected: Other}
	case t.Kind() == reflect.Pointer:
		return shapeOf(t.Elem())
	case t.Kind() == reflect.Slice:
		return &shape{expected: List, item: shapeOf(t.Elem())}
	case t.Kind() == reflect.Struct:
		s := &shape{expected: Object, members: map[string]member{}}
		for _, f := range reflect.VisibleFields(t) {
			name := Member(f)
			if name == "" {
				continue
			}
			m := member{f.Index, shapeOf(f.Type)}
			if f.Tag.Get("strict") == "quoted" {
				m.shape.quoted, m.shape.expected = true, QuotedInteger
			}
			s.members[name] = m
		}
		return s
	case t.Kind() == reflect.Int64:
		return &shape{expected: Integer}
	case t.Kind() == reflect.String:
		return &shape{expected: String}
	case t.Kind() == reflect.Bool:
		return &shape{expected: Boolean}
	}
	return &shape{expected: Other}
}

// reader reads a text once. A method that returns an error has added it to problems.
type reader struct {
	text     *jsontext.Decoder
	options  Options
	problems Problems
}

// read fills into from a body. whole: it has read the text to its end.
func read(body []byte, s *shape, o Options, into reflect.Value) (problems Problems, whole bool) {
	if jsontext.Value(body).Kind() != '{' {
		return Problems{{Kind: NotObject}}, false
	}
	r := &reader{text: jsontext.NewDecoder(bytes.NewBuffer(body)), options: o}
	if err := r.object(s, into); err != nil {
		return r.problems, false
	}
	end := int(r.text.InputOffset())
	if rest := bytes.TrimLeft(body[end:], " \t\r\n"); len(rest) > 0 {
		r.add(Problem{Kind: Malformed, Offset: int64(len(body) - len(rest))})
		return r.problems, false
	}
	return r.problems, true
}

func (r *reader) add(p Problem) { r.problems = append(r.problems, p) }

// here is the name of the member that was read last.
func (r *reader) here() string { return nameOf(r.text.StackPointer()) }

// stop adds the problem of an error of the decoder.
func (r *reader) stop(err error) error {
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok:
		r.add(Problem{Kind: Malformed, Offset: r.text.InputOffset()})
	case errors.Is(err, jsontext.ErrDuplicateName):
		r.add(Problem{Kind: Duplicate, Name: nameOf(syntax.JSONPointer)})
	default:
		r.add(Problem{Kind: Malformed, Offset: syntax.ByteOffset})
	}
	return err
}

// token skips a token.
func (r *reader) token() error {
	if _, err := r.text.ReadToken(); err != nil {
		return r.stop(err)
	}
	return nil
}

func (r *reader) value(s *shape, into reflect.Value) error {
	switch kind := r.text.PeekKind(); {
	case s.members != nil && kind == '{':
		return r.object(s, indirect(into))
	case s.item != nil && kind == '[':
		return r.list(s, indirect(into))
	case kind == '{' || kind == '[':
		if s.expected == Object || s.expected == List || s.expected == Boolean {
			return r.skipWrongType(s)
		}
	}
	return r.single(s, into)
}

// indirect returns what v points to, which it makes.
func indirect(v reflect.Value) reflect.Value {
	for v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	return v
}

func (r *reader) object(s *shape, into reflect.Value) error {
	if err := r.token(); err != nil {
		return err
	}
	for r.text.PeekKind() != '}' {
		quoted, err := r.text.ReadValue()
		if err != nil {
			return r.stop(err)
		}
		m, known := s.members[unquote(quoted)]
		if !known && !r.options.IgnoreUnknown {
			r.add(Problem{Kind: Unknown, Name: r.here()})
		}
		if known {
			err = r.value(m.shape, into.FieldByIndex(m.index))
		} else {
			_, err = r.raw()
		}
		if err != nil {
			return err
		}
	}
	return r.token()
}

func (r *reader) list(s *shape, into reflect.Value) error {
	if err := r.token(); err != nil {
		return err
	}
	into.Set(reflect.MakeSlice(into.Type(), 0, 0))
	for r.text.PeekKind() != ']' {
		item := reflect.New(into.Type().Elem()).Elem()
		if err := r.value(s.item, item); err != nil {
			return err
		}
		into.Set(reflect.Append(into, item))
	}
	return r.token()
}

// skipWrongType skips an object or a list where s wants another type. It adds that
// problem before problems inside of the object.
func (r *reader) skipWrongType(s *shape) error {
	if err := r.token(); err != nil {
		return err
	}
	r.add(Problem{Kind: WrongType, Name: r.here(), Expected: s.expected})
	for depth := r.text.StackDepth(); r.text.StackDepth() >= depth; {
		if err := r.token(); err != nil {
			return err
		}
	}
	return nil
}

// single reads a value as a whole.
func (r *reader) single(s *shape, into reflect.Value) error {
	value, err := r.raw()
	if err != nil {
		return err
	}
	if s.quoted || r.options.Quoted {
		value = unquoted(s, value)
	}
	if err := json.Unmarshal(value, into.Addr().Interface()); err != nil {
		r.add(Problem{Kind: WrongType, Name: r.here(), Expected: s.expected})
	}
	return nil
}

// unquoted returns an integer or a boolean without its quotes, if it has any. For a
// value that should be one and is none, it returns nil, which is no JSON value.
func unquoted(s *shape, value jsontext.Value) jsontext.Value {
	text := string(value)
	switch value.Kind() {
	case 'n':
		return value
	case '"':
		text = unquote(value)
	}
	_, isInteger := ParseInteger(text)
	switch {
	case s.expected != Integer && s.expected != QuotedInteger && s.expected != Boolean:
		return value
	case s.expected == Boolean && (text == "true" || text == "false"), s.expected != Boolean && isInteger:
		return jsontext.Value(text)
	}
	return nil
}

// unquote returns the text of a JSON string that the decoder has read.
func unquote(quoted jsontext.Value) string {
	text, _ := jsontext.AppendUnquote(nil, quoted)
	return string(text)
}

// ParseInteger reads an integer of 64 bits. It accepts one spelling of each: no plus
// sign, no leading zeros, no blanks, no -0.
func ParseInteger(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == text
}

func (r *reader) raw() (jsontext.Value, error) {
	value, err := r.text.ReadValue()
	if err != nil {
		return nil, r.stop(err)
	}
	return value, nil
}

// nameOf writes a JSON pointer (RFC 6901) as subject.attributes[0].key.
func nameOf(p jsontext.Pointer) string {
	var name strings.Builder
	for token := range p.Tokens() {
		_, isIndex := ParseInteger(token)
		switch {
		case name.Len() == 0:
			name.WriteString(token)
		case isIndex:
			name.WriteString("[" + token + "]")
		default:
			name.WriteString("." + token)
		}
	}
	return name.String()
}

package strict

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// members are the members of each struct that a body is read into.
type members map[reflect.Type]map[string]reflect.StructField

// add adds the struct that is t, or that pointers and lists of t lead to, and the
// structs inside of it.
func (m members) add(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || m[t] != nil {
		return
	}
	m[t] = map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(t) {
		if name := Member(f); name != "" {
			m[t][name] = f
			m.add(f.Type)
		}
	}
}

// reader goes through a text once. The JSON library fills the values. It asks value
// before each of them, which goes on where the library would stop.
type reader struct {
	members  members
	quoted   bool // an integer may be a string, see New
	lenient  bool // see NewLenient
	problems Problems
}

// read fills into, a pointer to a struct, from a body. It is whole where all of the
// text was read. The JSON library is told to accept what it would stop at: we note it and
// go on.
func read(body []byte, m members, lenient bool, into any) (problems Problems, whole bool) {
	r := &reader{members: m, lenient: lenient}
	if bytes.HasPrefix(body, []byte(byteOrderMark)) {
		r.add(Problem{Kind: ByteOrderMark})
		body = append([]byte("   "), body[len(byteOrderMark):]...) // offsets stay
	}
	switch {
	case isUTF16(body):
		return Problems{{Kind: UTF16}}, false
	case jsontext.Value(body).Kind() != '{':
		r.add(Problem{Kind: NotObject})
		return r.problems, false
	}
	text := jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err := json.UnmarshalDecode(text, into, json.WithUnmarshalers(json.UnmarshalFromFunc(r.value))); err != nil {
		if errors.Is(err, errEnough) {
			return r.problems, false
		}
		at := text.InputOffset()
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			at = syntax.ByteOffset
		}
		r.add(Problem{Kind: Malformed, Offset: at})
		return r.problems, false
	}
	end := int(text.InputOffset())
	if rest := bytes.TrimLeft(body[end:], " \t\r\n"); len(rest) > 0 {
		r.add(Problem{Kind: Malformed, Offset: int64(len(body) - len(rest))})
		return r.problems, false
	}
	return r.problems, true
}

const byteOrderMark = "\ufeff"

// isUTF16 reports whether a body begins as JSON in UTF-16 does, with or without a byte
// order mark.
func isUTF16(body []byte) bool {
	return slices.ContainsFunc([]string{"\xfe\xff", "\xff\xfe", "{\x00", "\x00{"}, func(begin string) bool {
		return bytes.HasPrefix(body, []byte(begin))
	})
}

// maxProblems is how many are looked for, which bounds the time and the memory of a body
// that has nothing else.
const maxProblems = 4096

var errEnough = errors.New("enough problems")

func (r *reader) add(p Problem) { r.problems = append(r.problems, p) }

// valid reports whether a value or a name that was just read is UTF-8 and has no name
// twice. Otherwise it notes the first such place.
func (r *reader) valid(text *jsontext.Decoder, value jsontext.Value) bool {
	if value.IsValid() {
		return true
	}
	_, err := jsontext.NewDecoder(bytes.NewBuffer(value)).ReadValue()
	syntax, _ := errors.AsType[*jsontext.SyntacticError](err)
	p := Problem{
		Kind: LoneSurrogate, Name: nameOf(text.StackPointer() + syntax.JSONPointer),
		Offset: text.InputOffset() - int64(len(value)) + syntax.ByteOffset,
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		p.Kind, p.Offset = Duplicate, 0
	} else if c, width := utf8.DecodeRune(value[syntax.ByteOffset:]); c == utf8.RuneError && width == 1 {
		p.Kind = NotUTF8
	}
	r.add(p)
	return false
}

// value reads a value of any type. With ErrUnsupported it leaves a list, or a pointer to
// an object, to the library, which comes back with what is inside.
func (r *reader) value(text *jsontext.Decoder, into any) error {
	if len(r.problems) >= maxProblems {
		return errEnough
	}
	v, kind := reflect.ValueOf(into).Elem(), text.PeekKind()
	expected := r.expected(v.Type())
	switch {
	case expected == Object && kind == '{' && v.Kind() == reflect.Struct:
		return r.object(text, v)
	case expected == Object && kind == '{', expected == List && kind == '[':
		return errors.ErrUnsupported
	case (expected == Object || expected == List || expected == Boolean || expected == QuotedBoolean) && (kind == '{' || kind == '['):
		return r.skipWrongType(text, expected)
	}
	value, err := text.ReadValue()
	if err != nil {
		return err
	}
	if !r.valid(text, value) {
		return nil
	}
	readable := value
	if expected == QuotedInteger || expected == QuotedBoolean {
		readable = r.unquoted(expected, value)
	}
	if err := json.Unmarshal(readable, into); err != nil {
		r.wrongType(text, expected, value)
	}
	return nil
}

// expected says what a type is read from. Types that read themselves are not looked
// into.
func (r *reader) expected(t reflect.Type) string {
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return Other
	case t.Kind() == reflect.Pointer:
		return r.expected(t.Elem())
	case t.Kind() == reflect.Struct:
		return Object
	case t.Kind() == reflect.Slice:
		return List
	case t.Kind() == reflect.String:
		return String
	case t.Kind() == reflect.Bool && r.lenient:
		return QuotedBoolean
	case t.Kind() == reflect.Bool:
		return Boolean
	case t.Kind() == reflect.Int64 && (r.quoted || r.lenient):
		return QuotedInteger
	case t.Kind() == reflect.Int64:
		return Integer
	}
	return Other
}

func (r *reader) object(text *jsontext.Decoder, into reflect.Value) error {
	if _, err := text.ReadToken(); err != nil {
		return err
	}
	times := map[string]int{}
	for text.PeekKind() != '}' {
		if len(r.problems) >= maxProblems {
			return errEnough
		}
		quoted, err := text.ReadValue()
		if err != nil {
			return err
		}
		name, valid := unquote(quoted), r.valid(text, quoted)
		if times[name]++; times[name] == 2 {
			r.add(Problem{Kind: Duplicate, Name: nameOf(text.StackPointer())})
		}
		member, known := r.members[into.Type()][name]
		if known {
			r.quoted = member.Tag.Get("strict") == "quoted"
			err = json.UnmarshalDecode(text, into.FieldByIndex(member.Index).Addr().Interface())
		} else {
			if valid && times[name] == 1 && !r.lenient {
				r.add(Problem{Kind: Unknown, Name: nameOf(text.StackPointer())})
			}
			_, err = text.ReadValue()
		}
		if err != nil {
			return err
		}
	}
	_, err := text.ReadToken()
	return err
}

// wrongType notes a value of the wrong type. An object or a list comes as its first
// character.
func (r *reader) wrongType(text *jsontext.Decoder, expected string, value jsontext.Value) {
	p := Problem{Kind: WrongType, Name: nameOf(text.StackPointer()), Expected: expected}
	p.Found, p.Hint = found(expected, value)
	r.add(p)
}

// skipWrongType goes past an object or a list that should be something else. Its problem
// comes before those inside of it.
func (r *reader) skipWrongType(text *jsontext.Decoder, expected string) error {
	outside := text.StackDepth()
	begin, err := text.ReadToken()
	if err != nil {
		return err
	}
	r.wrongType(text, expected, jsontext.Value(begin.String()))
	for text.StackDepth() > outside {
		if _, err := text.ReadToken(); err != nil {
			return err
		}
	}
	return nil
}

// unquoted returns null as it is, and an integer or a Boolean without the quotes that it
// may have. Anything else becomes nothing, which is of no type.
func (r *reader) unquoted(expected string, value jsontext.Value) jsontext.Value {
	text := string(value)
	if value.Kind() == '"' {
		text = unquote(value)
	}
	_, isInteger := ParseInteger(text)
	isBoolean := text == "true" || text == "false"
	switch {
	case value.Kind() == 'n', r.lenient && text == "":
		return jsontext.Value("null")
	case isInteger && expected == QuotedInteger, isBoolean && expected == QuotedBoolean:
		return jsontext.Value(text)
	}
	return nil
}

// unquote returns what a string says that the decoder has read.
func unquote(quoted jsontext.Value) string {
	text, _ := jsontext.AppendUnquote(nil, quoted)
	return string(text)
}

// ParseInteger reads an integer of 64 bits in the one way to write it: no plus
// sign, no leading zeros, no blanks, no -0.
func ParseInteger(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == text
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

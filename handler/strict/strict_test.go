package strict_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"attestcsr/handler/strict"
)

// body has a member of each kind that a dialect has.
type body struct {
	common
	Size    *int64   `json:"size"`
	Either  *int64   `json:"either" strict:"quoted"`
	Flag    *bool    `json:"flag"`
	Names   []string `json:"names" validate:"omitempty,min=1,max=2"`
	Subject *subject `json:"subject" validate:"required"`
}

type common struct {
	Title *string        `json:"title" validate:"required"`
	Any   jsontext.Value `json:"any"`
}

type subject struct {
	Attributes []attribute `json:"attributes" validate:"required,min=1,dive"`
}

type attribute struct {
	Key   *string `json:"key" validate:"required,oneof=CN O"`
	Value *string `json:"value" validate:"required"`
}

const whole = `"title":"t","subject":{"attributes":[{"key":"CN","value":"x"}]}`

func TestProblems(t *testing.T) {
	t.Parallel()
	wrong := func(name, expected, found, hint string) strict.Problem {
		return strict.Problem{Kind: strict.WrongType, Name: name, Expected: expected, Found: found, Hint: hint}
	}
	missing := func(name string) strict.Problem { return strict.Problem{Kind: strict.Missing, Name: name} }
	unknown := func(name string) strict.Problem { return strict.Problem{Kind: strict.Unknown, Name: name} }
	twice := func(name string) strict.Problem { return strict.Problem{Kind: strict.Duplicate, Name: name} }
	malformed := func(at int64) strict.Problem { return strict.Problem{Kind: strict.Malformed, Offset: at} }
	rule := func(name, rule, limit string) strict.Problem {
		return strict.Problem{Kind: strict.Broken, Name: name, Rule: rule, Limit: limit}
	}
	notUTF8 := func(name string, at int64) strict.Problem {
		return strict.Problem{Kind: strict.NotUTF8, Name: name, Offset: at}
	}
	lone := func(name string, at int64) strict.Problem {
		return strict.Problem{Kind: strict.LoneSurrogate, Name: name, Offset: at}
	}
	utf16 := strict.Problems{{Kind: strict.UTF16}}
	bom := strict.Problem{Kind: strict.ByteOrderMark}
	const fraction = "a number with a fraction or an exponent"
	for _, c := range []struct {
		name, text string
		want       strict.Problems // nil: accepted
	}{
		{"whole", "{" + whole + "}", nil},
		{"blanks around", " \r\n{" + whole + "}\t\n", nil},
		{"null is absent", "{" + whole + `,"size":null,"flag":null,"names":null,"any":null,"either":null}`, nil},
		{"empty", "", strict.Problems{{Kind: strict.NotObject}}},
		{"null", "null", strict.Problems{{Kind: strict.NotObject}}},
		{"a list", "[{}]", strict.Problems{{Kind: strict.NotObject}}},
		{"trailing bytes", `{` + whole + `} {}`, strict.Problems{malformed(66)}},
		{"cut", `{"title":"t"`, strict.Problems{malformed(12)}},
		{"byte order mark", "\ufeff{" + whole + "}", strict.Problems{bom}},
		{"byte order mark and more", "\ufeff{\"x\":1}}", strict.Problems{bom, unknown("x"), malformed(10)}},
		{"byte order mark before a list", "\ufeff[]", strict.Problems{bom, {Kind: strict.NotObject}}},
		{"UTF-16, little-endian", "\xff\xfe{\x00}\x00", utf16},
		{"UTF-16, big-endian", "\xfe\xff\x00{\x00}", utf16},
		{"UTF-16 without a mark", "{\x00}\x00", utf16},
		{"UTF-16 without a mark, big-endian", "\x00{\x00}", utf16},
		{"not UTF-8", "{\"title\":\"M\xfcller\",\"flag\":1,\"x\xfc\":1,\"any\":{\"a\":\"\xff\"}," + `"subject":{}}`, strict.Problems{
			notUTF8("title", 11), wrong("flag", strict.Boolean, "a number", ""), notUTF8("x\ufffd", 29), notUTF8("any.a", 46), missing("subject.attributes")}},
		{"not UTF-8 outside of strings", "{\"title\":\xff}", strict.Problems{malformed(9)}},
		{"lone surrogate", `{"title":"a\ud800","subject":{"attributes":[{"key":"CN","value":"\udc00\ud800"}]},"\udfff":1}`, strict.Problems{
			lone("title", 11), lone("subject.attributes[0].value", 65), lone("\ufffd", 83)}},
		{"surrogate pair", `{"title":"\ud83d\ude00",` + whole[len(`"title":"t",`):] + "}", nil},
		{"nothing is there", "{}", strict.Problems{missing("title"), missing("subject")}},
		{"rules of the shape", `{"title":"t","names":["a","b","c"],"subject":{"attributes":[{"key":"X"},null]}}`, strict.Problems{
			rule("names", "max", "2"), rule("subject.attributes[0].key", "oneof", "CN O"), missing("subject.attributes[0].value"),
			missing("subject.attributes[1].key"), missing("subject.attributes[1].value"),
		}},
		{"letter case", `{` + whole + `,"Size":1}`, strict.Problems{unknown("Size")}},
		{"wrong types", `{"size":2048.0,"flag":"true","names":["a",7,[]],"subject":{"attributes":{"key":"CN"}},"title":{},"either":"+1"}`, strict.Problems{
			wrong("size", strict.Integer, fraction, "send 2048"), wrong("flag", strict.Boolean, "a string", "send true without quotes"),
			wrong("names[1]", strict.String, "a number", ""), wrong("names[2]", strict.String, "a list", ""),
			wrong("subject.attributes", strict.List, "an object", ""), wrong("title", strict.String, "an object", ""),
			wrong("either", strict.QuotedInteger, "another string", ""), rule("names", "max", "2"),
		}},
		{"all at once", `{"keysize":1,"size":"1","":2,"subject":{"x":[1,{"y":2}],"attributes":[{"key":7,"value":"v"}]}}`, strict.Problems{
			unknown("keysize"), wrong("size", strict.Integer, "a string", "send the number 1 without quotes"), unknown(""), unknown("subject.x"),
			wrong("subject.attributes[0].key", strict.String, "a number", ""), missing("title"),
		}},
		{"names that repeat", `{"x":1,"title":"t","title":7,"title":"u","x":[2],"y":2}`, strict.Problems{
			unknown("x"), twice("title"), wrong("title", strict.String, "a number", ""), twice("x"), unknown("y"), missing("subject")}},
		{"repeats inside", `{"any":{"a":[{"b":1,"b":1}]}}`, strict.Problems{twice("any.a[0].b"), missing("title"), missing("subject")}},
		{"repeats in a list", `{` + whole[:len(whole)-2] + `,{"key":"O","value":"a","value":"b"}]}}`, strict.Problems{twice("subject.attributes[1].value")}},
		{"malformed after others", `{"x":1,"size":[],"flag":tru}`, strict.Problems{unknown("x"), wrong("size", strict.Integer, "a list", ""), malformed(27)}},
	} {
		got, problems := strict.New[body]().Decode([]byte(c.text))
		if !reflect.DeepEqual(problems, c.want) {
			t.Errorf("%s: problems\n%+v\nwant\n%+v", c.name, problems, c.want)
		}
		if problems != nil && !reflect.DeepEqual(got, body{}) {
			t.Errorf("%s: refused and yet %+v", c.name, got)
		}
	}
}

// The hint is what to send, where it is clear.
func TestHints(t *testing.T) {
	t.Parallel()
	d := strict.New[body]()
	for _, c := range []struct{ member, found, hint string }{
		{`"size":"3072"`, "a string", "send the number 3072 without quotes"},
		{`"size":"3072 "`, "a string", ""},
		{`"size":"03072"`, "a string", ""},
		{`"size":"\u0031"`, "a string", "send the number 1 without quotes"},
		{`"size":3072.0`, "a number with a fraction or an exponent", "send 3072"},
		{`"size":2e3`, "a number with a fraction or an exponent", "send 2000"},
		{`"size":3072.5`, "a number with a fraction or an exponent", ""},
		{`"size":1e300`, "a number with a fraction or an exponent", ""},
		{`"size":1e999`, "a number with a fraction or an exponent", ""},
		{`"size":9223372036854775808`, "another number", ""},
		{`"size":true`, "true", ""},
		{`"size":{}`, "an object", ""},
		{`"size":[]`, "a list", ""},
		{`"either":"2048.0"`, "another string", ""},
		{`"either":2048.0`, "a number with a fraction or an exponent", "send 2048"},
		{`"flag":"false"`, "a string", "send false without quotes"},
		{`"flag":"False"`, "a string", ""},
		{`"flag":0`, "a number", ""},
		{`"names":"a"`, "a string", ""},
		{`"names":false`, "false", ""},
	} {
		_, problems := d.Decode([]byte("{" + whole + "," + c.member + "}"))
		if len(problems) != 1 || problems[0].Kind != strict.WrongType || problems[0].Found != c.found || problems[0].Hint != c.hint {
			t.Errorf("%s: %+v", c.member, problems)
		}
	}
}

func TestQuoted(t *testing.T) {
	t.Parallel()
	d := strict.New[body]()
	for _, seven := range []string{`-7`, `"-7"`} {
		got, problems := d.Decode([]byte(`{` + whole + `,"either":` + seven + `,"names":["1"]}`))
		if problems != nil || *got.Either != -7 || got.Names[0] != "1" {
			t.Errorf("%s: %+v, problems %+v", seven, got, problems)
		}
	}
	for _, text := range []string{`"either":"x"`, `"either":" 1"`, `"either":"null"`, `"either":true`, `"either":-0`, `"size":"1"`, `"flag":"true"`, `"names":[1]`, `"title":1`} {
		if _, problems := d.Decode([]byte("{" + text + "," + strings.Replace(whole, `"title"`, `"any"`, strings.Count(text, "title")) + "}")); len(problems) != 1 || problems[0].Kind != strict.WrongType {
			t.Errorf("%s: %+v", text, problems)
		}
	}
}

// FuzzDecode: the JSON library and the validator accept the same bodies and read the
// same values. A refused body gives no value and at least one problem.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"{" + whole + "}", "{" + whole + `,"size":3072,"flag":false,"names":["a"],"any":{"a":[1]}}`, `{"size":2048.0}`, `{"size":9223372036854775808}`, `{"Size":1}`,
		`{"title":"a","title":"b"}`, `{"title":"\ud800"}`, "{\"title\":\"\xff\"}", `[]`, `null`, `""`, ``, `{}{}`, `{"names":[null]}`, `{"names":[[]]}`,
		`{"subject":{"attributes":[{"key":"CN","value":"\u0000"},null,{}]}}`, `{"subject":[{"a":1,"a":2}]}`, `{"flag":[1,"a}`, `{""`, `{"":1,"":2}`, `{{"a":1}`,
		"\ufeff{" + whole + "}", "\ufeff[", "\xff\xfe{\x00}\x00", "{\x00}\x00", `{"any":{"a":1,"a":"\ud800"},"title":"\udc00","title":7}`, "{\"\xff\":{\"\xff\":1}}", `{"size":"1","size":1.0,"flag":"true"}`,
	} {
		f.Add([]byte(seed))
	}
	d := strict.New[body]()
	f.Fuzz(func(t *testing.T, text []byte) {
		got, problems := d.Decode(text)
		var want body
		err := jsonv2.Unmarshal(text, &want, jsonv2.RejectUnknownMembers(true))
		ofText := len(problems) > 0 && problems[0].Kind < strict.Missing
		if quoted := strings.Contains(string(text), "either"); !quoted && ofText != (err != nil || jsontext.Value(text).Kind() != '{') {
			t.Fatalf("%q: problems %+v, the library says %v", text, problems, err)
		} else if !quoted && problems == nil && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: %+v, want %+v", text, got, want)
		}
		if problems != nil && !reflect.DeepEqual(got, body{}) {
			t.Fatalf("refused and yet %+v", got)
		}
		for i, p := range problems {
			if i > 0 && (p.Kind == strict.NotObject && problems[0].Kind != strict.ByteOrderMark || problems[i-1].Kind >= strict.Missing && p.Kind < strict.Missing) {
				t.Fatalf("order of %+v", problems)
			}
			if p.Offset < 0 || p.Offset > int64(len(text)) || p.Kind == strict.WrongType && p.Expected == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// FuzzQuoted: an integer is a decimal number with or without quotes, and nothing else.
func FuzzQuoted(f *testing.F) {
	for _, seed := range []string{`2048`, `"2048"`, `2048.0`, `"02048"`, `"+1"`, `-0`, `"-0"`, `-1`, `9223372036854775808`, `1e3`, `""`, `true`, `{}`, `"\u0031"`} {
		f.Add(seed)
	}
	d := strict.New[body]()
	f.Fuzz(func(t *testing.T, text string) {
		got, problems := d.Decode([]byte("{" + whole + `,"either":` + text + "}"))
		if problems != nil || got.Either == nil {
			return
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return // more members beside it
		}
		digits, quoted := value.(string)
		if !quoted {
			digits = strings.TrimSpace(text)
		}
		if digits != strconv.FormatInt(*got.Either, 10) {
			t.Fatalf("%s gave %d", text, *got.Either)
		}
	})
}

// FuzzPrintable: any text becomes short and printable, and a text that is so already
// stays the same.
func FuzzPrintable(f *testing.F) {
	for _, seed := range []string{"", "a", "ä b", "a\nb\x1b[2J", "\xff\xfe", "\u202e", strings.Repeat("漢", 64), strings.Repeat("x", 65), "\u200d", "…"} {
		f.Add(seed, 64)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = int(uint(limit) % 1000)
		got := strict.Printable(text, limit)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > limit+1 || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q became %q", text, got)
		}
		plain := utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
		if plain && utf8.RuneCountInString(text) <= limit && got != text {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

// A lenient decoder takes integers and Booleans as strings, and what it does not know.
func TestLenient(t *testing.T) {
	t.Parallel()
	d := strict.NewLenient[body]()
	for name, text := range map[string]string{
		"as themselves":  `"size":7,"flag":true`,
		"as strings":     `"size":"7","flag":"true","either":"7"`,
		"beside unknown": `"size":7,"flag":true,"Size":8,"more":{"flag":1,"flag":[{}]}`,
	} {
		got, problems := d.Decode([]byte("{" + whole + "," + text + "}"))
		if problems != nil || *got.Size != 7 || !*got.Flag {
			t.Errorf("%s: %+v, problems %+v", name, got, problems)
		}
	}
	got, problems := d.Decode([]byte("{" + whole + `,"size":"","flag":"","either":null,"names":null}`))
	if problems != nil || got.Size != nil || got.Flag != nil || got.Either != nil || got.Names != nil {
		t.Errorf("empty strings: %+v, problems %+v", got, problems)
	}
	for _, text := range []string{`"size":"x"`, `"size":" 7"`, `"size":7.0`, `"size":"7.0"`, `"size":true`, `"size":[7]`, `"flag":"True"`, `"flag":"1"`, `"flag":1`, `"flag":[true]`, `"flag":{}`, `"names":[1]`, `"any":1,"title":1`} {
		if _, problems := d.Decode([]byte("{" + strings.Replace(whole, `"title"`, `"more"`, strings.Count(text, "title")) + "," + text + "}")); len(problems) != 1 || problems[0].Kind != strict.WrongType {
			t.Errorf("%s: %+v", text, problems)
		}
	}
	if _, problems := d.Decode([]byte("{" + whole + `,"x":1,"x":2}`)); len(problems) != 1 || problems[0].Kind != strict.Duplicate {
		t.Errorf("the same unknown member twice: %+v", problems)
	}
}

// A body with nothing but problems is read as far as the first few thousand.
func TestEnoughProblems(t *testing.T) {
	t.Parallel()
	list := "[" + strings.Repeat("1,", 1e6) + "1]"
	var object strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&object, `"%d":1,"%d":1,`, i, i)
	}
	for name, text := range map[string]string{"in a list": `{"subject":{"attributes":` + list + "}}", "in an object": "{" + object.String() + `"title":"t"}`} {
		if _, problems := strict.NewLenient[body]().Decode([]byte(text)); len(problems) < 4096 || len(problems) > 4100 {
			t.Errorf("%s: %d problems", name, len(problems))
		}
	}
}

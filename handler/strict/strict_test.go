package strict_test

import (
	"encoding/json"
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
	wrong := func(name, expected string) strict.Problem {
		return strict.Problem{Kind: strict.WrongType, Name: name, Expected: expected}
	}
	missing := func(name string) strict.Problem { return strict.Problem{Kind: strict.Missing, Name: name} }
	unknown := func(name string) strict.Problem { return strict.Problem{Kind: strict.Unknown, Name: name} }
	twice := func(name string) strict.Problem { return strict.Problem{Kind: strict.Duplicate, Name: name} }
	malformed := func(at int64) strict.Problem { return strict.Problem{Kind: strict.Malformed, Offset: at} }
	rule := func(name, rule, limit string) strict.Problem {
		return strict.Problem{Kind: strict.Broken, Name: name, Rule: rule, Limit: limit}
	}
	for _, c := range []struct {
		name, text string
		want       strict.Problems // nil: accepted
		first      int             // how many of them are told where the first of the text hides the rest
	}{
		{"whole", "{" + whole + "}", nil, 0},
		{"blanks around", " \r\n{" + whole + "}\t\n", nil, 0},
		{"null is absent", "{" + whole + `,"size":null,"flag":null,"names":null,"any":null,"either":null}`, nil, 0},
		{"empty", "", strict.Problems{{Kind: strict.NotObject}}, 1},
		{"null", "null", strict.Problems{{Kind: strict.NotObject}}, 1},
		{"a list", "[{}]", strict.Problems{{Kind: strict.NotObject}}, 1},
		{"trailing bytes", `{` + whole + `} {}`, strict.Problems{malformed(66)}, 1},
		{"cut", `{"title":"t"`, strict.Problems{malformed(12)}, 1},
		{"not UTF-8", "{\"title\":\"\xff\"}", strict.Problems{malformed(10)}, 1},
		{"lone surrogate", `{"title":"\ud800"}`, strict.Problems{malformed(10)}, 1},
		{"nothing is there", "{}", strict.Problems{missing("title"), missing("subject")}, 2},
		{"rules of the shape", `{"title":"t","names":["a","b","c"],"subject":{"attributes":[{"key":"X"},null]}}`, strict.Problems{
			rule("names", "max", "2"), rule("subject.attributes[0].key", "oneof", "CN O"), missing("subject.attributes[0].value"),
			missing("subject.attributes[1].key"), missing("subject.attributes[1].value"),
		}, 5},
		{"letter case", `{` + whole + `,"Size":1}`, strict.Problems{unknown("Size")}, 1},
		{"wrong types", `{"size":2048.0,"flag":"true","names":["a",7,[]],"subject":{"attributes":{"key":"CN"}},"title":{},"either":"+1"}`, strict.Problems{
			wrong("size", strict.Integer), wrong("flag", strict.Boolean), wrong("names[1]", strict.String), wrong("names[2]", strict.String),
			wrong("subject.attributes", strict.List), wrong("title", strict.String), wrong("either", strict.QuotedInteger),
			rule("names", "max", "2"),
		}, 1},
		{"all at once", `{"keysize":1,"size":"1","":2,"subject":{"x":[1,{"y":2}],"attributes":[{"key":7,"value":"v"}]}}`, strict.Problems{
			unknown("keysize"), wrong("size", strict.Integer), unknown(""), unknown("subject.x"), wrong("subject.attributes[0].key", strict.String),
			missing("title"),
		}, 1},
		{"a name that repeats ends it", `{"x":1,"title":"t","title":"u","y":2}`, strict.Problems{unknown("x"), twice("title")}, 1},
		{"repeats inside", `{"any":{"a":[{"b":1,"b":1}]}}`, strict.Problems{twice("any.a[0].b")}, 1},
		{"malformed after others", `{"x":1,"size":[],"flag":tru}`, strict.Problems{unknown("x"), wrong("size", strict.Integer), malformed(27)}, 1},
	} {
		got, problems := strict.New[body]().Decode([]byte(c.text))
		if !reflect.DeepEqual(problems, c.want) {
			t.Errorf("%s: problems\n%+v\nwant\n%+v", c.name, problems, c.want)
		}
		if problems != nil && !reflect.DeepEqual(got, body{}) {
			t.Errorf("%s: refused and yet %+v", c.name, got)
		}
		if first := problems.First(); len(first) != c.first || c.first > 0 && !reflect.DeepEqual(first, c.want[:c.first]) {
			t.Errorf("%s: first %+v", c.name, first)
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
			if i > 0 && (p.Kind == strict.NotObject || problems[i-1].Kind >= strict.Missing && p.Kind < strict.Missing) {
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

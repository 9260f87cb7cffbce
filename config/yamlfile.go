package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The parser's time and memory grow with the square of its input (64 kB of "["
// cost it 20 s and 6 GB), so the input is bounded before it runs.
const (
	maxFileSize = 1 << 20 // bytes
	maxTokens   = 50_000  // 10,000 users with a privilege each
	maxNesting  = 8       // of brackets and braces; settings need 2
)

// document is the settings file being read. The walk over its syntax tree is
// our own rather than the library's decoding into a struct: it finds every
// problem in one go, and it converts nothing, so that a number is no string.
type document struct {
	*loader
	name string
}

// file lays a file over the defaults. It returns false when the file cannot be
// read far enough to tell what it sets.
func (l *loader) file(name string) bool {
	d := document{loader: l, name: name}
	if printable(name) != nil {
		d.name = strconv.Quote(name)
	}
	data, err := readFile(name)
	if err != nil {
		l.problems = append(l.problems, fmt.Errorf("settings file: %w", err))
		return false
	}
	root, err := d.parse(data)
	if err != nil {
		l.problems = append(l.problems, err)
		return false
	}
	d.section("", root, d.name)
	return true
}

func readFile(name string) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxFileSize)
	}
	return data, err
}

// parse returns the body of the only document, or nil when it has none.
func (d document) parse(data []byte) (ast.Node, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for line, text := range bytes.Split(data, []byte("\n")) {
		if !utf8.Valid(text) {
			return nil, fmt.Errorf("%s:%d: is not valid UTF-8", d.name, line+1)
		}
	}
	tokens := lexer.Tokenize(string(data))
	if len(tokens) > maxTokens {
		return nil, fmt.Errorf("%s: is too long for a settings file: more than %d words and signs", d.name, maxTokens)
	}
	nesting := 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			nesting++
		case token.SequenceEndType, token.MappingEndType:
			nesting--
		}
		if nesting > maxNesting {
			return nil, fmt.Errorf("%s: brackets and braces are nested too deep, more than %d levels", d.at(t), maxNesting)
		}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // section reports duplicates with the rest
	if err != nil {
		// The message alone: the whole error shows lines of the file, and with
		// them whatever was put there by mistake.
		if syntax, ok := errors.AsType[yaml.Error](err); ok {
			return nil, fmt.Errorf("%s: not YAML: %s", d.at(syntax.GetToken()), syntax.GetMessage())
		}
		return nil, fmt.Errorf("%s: not YAML", d.name)
	}
	if len(file.Docs) == 0 {
		return nil, nil
	}
	if first := file.Docs[0].Body; first != nil && first.Type() == ast.DirectiveType {
		return nil, fmt.Errorf("%s: directives (%%) are not used here", d.at(first.GetToken()))
	}
	if len(file.Docs) > 1 {
		second := file.Docs[1].Start
		if second == nil && file.Docs[1].Body != nil {
			second = file.Docs[1].Body.GetToken()
		}
		return nil, fmt.Errorf("%s: a second document begins here; all settings must be in one", d.at(second))
	}
	return file.Docs[0].Body, nil
}

// at writes a position the way compilers do.
func (d document) at(t *token.Token) string {
	if t == nil || t.Position == nil {
		return d.name
	}
	return fmt.Sprintf("%s:%d:%d", d.name, t.Position.Line, t.Position.Column)
}

// section applies the settings of a mapping: the whole file, with an empty name
// and prefix, or one section of it. A section that holds nothing sets nothing.
func (d document) section(prefix string, node ast.Node, origin string) {
	if node == nil || node.Type() == ast.NullType {
		return
	}
	allowed := d.allowed(prefix)
	for _, e := range d.entries(prefix, node, origin) {
		key := prefix + e.key
		if !slices.Contains(allowed, e.key) {
			d.problem(e.origin, printableKey(key), "is not a setting; allowed here: %s", strings.Join(allowed, ", "))
			continue
		}
		switch s, ok := d.setting(key); {
		case !ok:
			d.section(key+".", e.value, e.origin)
		case s.value == nil:
			s.assign(d, s, e)
		default:
			d.assign(s, e)
		}
	}
}

func (d document) setting(key string) (setting, bool) {
	for _, s := range d.settings {
		if s.key == key {
			return s, true
		}
	}
	return setting{}, false
}

// allowed lists the keys, sections among them, that may follow prefix.
func (d document) allowed(prefix string) []string {
	var keys []string
	for _, s := range d.settings {
		rest, ok := strings.CutPrefix(s.key, prefix)
		name, _, _ := strings.Cut(rest, ".")
		if ok && (len(keys) == 0 || keys[len(keys)-1] != name) {
			keys = append(keys, name)
		}
	}
	return keys
}

// entry is one key of a mapping; origin is where the key stands.
type entry struct {
	key, origin string
	value       ast.Node
}

// entries takes a mapping apart. A key that is there twice is a problem: one of
// the two is not what holds, and nobody sees which.
func (d document) entries(prefix string, node ast.Node, origin string) []entry {
	mapping, ok := node.(ast.MapNode)
	if !ok {
		d.problem(origin, sectionName(prefix), "must be a mapping of keys to values, not %s", describe(node))
		return nil
	}
	var entries []entry
	seen := map[string]string{}
	for it := mapping.MapRange(); it.Next(); {
		at := d.at(it.Key().GetToken())
		var key string
		switch n := it.Key().(type) {
		case *ast.StringNode:
			key = n.Value
		case *ast.IntegerNode:
			key = n.GetToken().Value
		default:
			d.problem(at, sectionName(prefix), "a key must be a plain word or a number, not %s", describe(n))
			continue
		}
		if first, twice := seen[key]; twice {
			d.problem(at, printableKey(prefix+key), "is there twice; first at %s", first)
			continue
		}
		seen[key] = at
		entries = append(entries, entry{key, at, it.Value()})
	}
	return entries
}

func sectionName(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return printableKey(strings.TrimSuffix(prefix, "."))
}

// printableKey shows a key that may be anything, since it is no setting's.
func printableKey(key string) string {
	if len(key) > 80 || printable(key) != nil {
		return fmt.Sprintf("%.80q", key)
	}
	return key
}

// assign applies the value of a setting.
func (d document) assign(s setting, e entry) {
	many, kind := s.value.shape()
	var nodes []ast.Node
	if !many {
		nodes = []ast.Node{e.value}
	} else if nodes = d.elements(s.key, s.wants, e); nodes == nil {
		return
	}
	items := make([]item, 0, len(nodes))
	for _, node := range nodes {
		if it, ok := d.scalar(s.key, s.wants, node, kind); ok {
			items = append(items, it)
		}
	}
	if !many && len(items) == 0 {
		return
	}
	d.apply(s, e.origin, items)
}

// elements returns the elements of a list, not nil, or reports that e is none.
func (d document) elements(key, wants string, e entry) []ast.Node {
	list, ok := e.value.(*ast.SequenceNode)
	if !ok {
		d.problem(d.at(e.value.GetToken()), key, "must be a list in [ ] or with one - on each line (%s), not %s", wants, describe(e.value))
		return nil
	}
	return append([]ast.Node{}, list.Values...)
}

func (d document) scalar(key, wants string, node ast.Node, kind scalar) (item, bool) {
	at := d.at(node.GetToken())
	switch n := node.(type) {
	case *ast.StringNode:
		if kind == aString {
			return item{n.Value, at}, true
		}
	case *ast.IntegerNode:
		if kind == aNumber {
			return item{n.GetToken().Value, at}, true
		}
	case *ast.BoolNode:
		if kind == aBoolean {
			return item{n.GetToken().Value, at}, true
		}
	}
	d.problem(at, key, "must be %s (%s), not %s", kind, wants, describe(node))
	return item{}, false
}

func describe(node ast.Node) string {
	switch node.Type() {
	case ast.NullType:
		return "nothing"
	case ast.BoolType:
		return "true or false"
	case ast.IntegerType:
		return "a number"
	case ast.FloatType, ast.InfinityType, ast.NanType:
		return "a fraction"
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.StringType:
		return "a string"
	case ast.LiteralType:
		return "a block of text"
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		return "an anchor, alias, tag or merge key, which are not used here"
	default:
		return "something else"
	}
}

package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const maxFileSize = 1 << 20 // bytes; 40,000 users with a privilege each

// file applies the settings file. We walk its syntax tree ourselves rather than let
// the library decode it into a struct: the walk finds all problems at once and
// converts nothing, so that a number is not accepted as a string.
func (l *loader) file(name string) {
	l.config.file = name
	data, err := readFile(name)
	if err != nil {
		l.problems = append(l.problems, fmt.Errorf("settings file: %w", err))
		return
	}
	root, err := l.parse(data)
	if err != nil {
		l.problems = append(l.problems, err)
		return
	}
	l.section("", root)
}

func readFile(name string) (data []byte, err error) {
	if err := printable(name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if target, linkErr := os.Readlink(name); linkErr == nil && errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s is a symbolic link to %.200q, which does not exist", name, target)
	}
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

// parse returns the body of the only YAML document, or nil when there is none.
func (l *loader) parse(data []byte) (ast.Node, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for line, text := range bytes.Split(data, []byte("\n")) {
		if !utf8.Valid(text) {
			return nil, fmt.Errorf("%s:%d: is not valid UTF-8", l.config.file, line+1)
		}
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // entries reports duplicates
	if err != nil {
		// The message alone: the whole error quotes lines of the file, and they may
		// hold a secret in the wrong place.
		if syntax, ok := errors.AsType[yaml.Error](err); ok {
			return nil, fmt.Errorf("%s: not YAML: %s", l.position(syntax.GetToken()), syntax.GetMessage())
		}
		return nil, fmt.Errorf("%s: not YAML", l.config.file)
	}
	switch len(file.Docs) {
	case 0:
		return nil, nil
	case 1:
		return file.Docs[0].Body, nil
	}
	return nil, fmt.Errorf("%s: a second YAML document begins here; put all settings into one", l.position(file.Docs[1].Start))
}

// position writes file:line:column, as compilers do.
func (l *loader) position(t *token.Token) string {
	if t == nil || t.Position == nil {
		return l.config.file
	}
	return fmt.Sprintf("%s:%d:%d", l.config.file, t.Position.Line, t.Position.Column)
}

// problemAtNode records what is wrong at a node.
func (l *loader) problemAtNode(node ast.Node, key, format string, args ...any) {
	l.problemAt(l.position(node.GetToken()), key, format, args...)
}

// section applies one section of the file, or the whole file when prefix is empty.
// An empty section sets nothing.
func (l *loader) section(prefix string, node ast.Node) {
	if node == nil || node.Type() == ast.NullType {
		return
	}
	allowed := l.allowed(prefix)
	for _, e := range l.entries(prefix, node) {
		key := prefix + e.name
		if !slices.Contains(allowed, e.name) {
			l.problemAtNode(e.key, fmt.Sprintf("%.80q", key), "is not a setting; allowed here: %s", strings.Join(allowed, ", "))
			continue
		}
		i := slices.IndexFunc(l.settings, func(s setting) bool { return s.key == key })
		if i < 0 {
			l.section(key+".", e.value)
			continue
		}
		l.config.origins[key] = l.position(e.key.GetToken())
		l.settings[i].value.fromFile(l, l.settings[i], e.value)
	}
}

// allowed lists the names of settings and sections that may follow prefix.
func (l *loader) allowed(prefix string) []string {
	var names []string
	for _, s := range l.settings {
		if rest, ok := strings.CutPrefix(s.key, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			names = append(names, name)
		}
	}
	return slices.Compact(names)
}

// entry is one key of a mapping with its value.
type entry struct {
	name       string
	key, value ast.Node
}

// entries returns the entries of the mapping under prefix. It reports and leaves
// out keys that are set twice: it would not be clear which of the two holds.
func (l *loader) entries(prefix string, node ast.Node) []entry {
	section := cmp.Or(strings.TrimSuffix(prefix, "."), "the file")
	mapping, ok := node.(ast.MapNode)
	if !ok {
		l.problemAtNode(node, section, "must be a mapping of keys to values, not %s", describe(node))
		return nil
	}
	var entries []entry
	first := map[string]string{} // where each key stands
	for it := mapping.MapRange(); it.Next(); {
		e := entry{key: it.Key(), value: it.Value()}
		switch n := it.Key().(type) {
		case *ast.StringNode:
			e.name = n.Value
		case *ast.IntegerNode:
			e.name = n.GetToken().Value
		default:
			l.problemAtNode(n, section, "a key must be a plain word or a number, not %s", describe(n))
			continue
		}
		if where, twice := first[e.name]; twice {
			l.problemAtNode(e.key, fmt.Sprintf("%.80q", prefix+e.name), "is set twice, first at %s; remove one", where)
			continue
		}
		first[e.name] = l.position(e.key.GetToken())
		entries = append(entries, e)
	}
	return entries
}

// scalar returns the text of a single value, or reports that node is none of the kind.
func (l *loader) scalar(s setting, node ast.Node, k kind) (text string, ok bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		text, ok = n.Value, k == aString
	case *ast.IntegerNode:
		text, ok = n.GetToken().Value, k == aNumber
	case *ast.BoolNode:
		text, ok = n.GetToken().Value, k == aBoolean
	}
	if !ok {
		l.problemAtNode(node, s.key, "must be %s (%s), not %s", k, s.wants, describe(node))
	}
	return text, ok
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

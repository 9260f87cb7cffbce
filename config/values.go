package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// value adapts a field of Config to the settings file.
type value interface {
	// fromFile sets the field to what node says, and reports what is wrong with it.
	fromFile(d document, s setting, node ast.Node)
	// yaml returns the value as YAML: on the line of its key, or on lines below it.
	yaml() (line string, below []string)
}

// textValue is a value that flags and variables can set too: all but mappings.
type textValue interface {
	value
	fromText(text string) error
	text() string // what fromText reads as the same value
	isList() bool
}

// kind is how YAML writes a single value.
type kind string

const (
	aString  kind = "a string"
	aNumber  kind = "a whole number"
	aBoolean kind = "true or false"
)

// single is a value that is neither a list nor a mapping.
type single[T any] struct {
	field  *T
	kind   kind
	parse  func(string) (T, error)
	format func(T) string
}

func (v *single[T]) text() string { return v.format(*v.field) }
func (v *single[T]) isList() bool { return false }

func (v *single[T]) fromText(text string) (err error) {
	*v.field, err = v.parse(text)
	return err
}

func (v *single[T]) fromFile(d document, s setting, node ast.Node) {
	if text, ok := d.scalar(s, node, v.kind); ok {
		if err := v.fromText(text); err != nil {
			d.problemAtNode(node, s.key, "%w", err)
		}
	}
}

func (v *single[T]) yaml() (line string, below []string) { return v.kind.quote(v.text()), nil }

// quote writes a string in double quotes. For valid UTF-8, Go's escapes are a
// subset of YAML's (YAML 1.2.2 section 5.7).
func (k kind) quote(text string) string {
	if k == aString {
		return strconv.Quote(text)
	}
	return text
}

// text is a string that check accepts.
func text(field *string, check func(string) error) value {
	parse := func(s string) (string, error) { return s, check(s) }
	return &single[string]{field, aString, parse, func(s string) string { return s }}
}

// number is a whole number from lowest to highest.
func number(field *int, lowest, highest int) value {
	parse := func(s string) (int, error) {
		n, ok := decimal(s)
		if !ok || n < lowest || n > highest {
			return 0, fmt.Errorf("%.64q is not a whole number from %d to %d", s, lowest, highest)
		}
		return n, nil
	}
	return &single[int]{field, aNumber, parse, strconv.Itoa}
}

// boolean is true or false and no other word for it.
func boolean(field *bool) value {
	parse := func(s string) (bool, error) {
		if s != "true" && s != "false" {
			return false, fmt.Errorf("%.64q is not true or false", s)
		}
		return s == "true", nil
	}
	return &single[bool]{field, aBoolean, parse, strconv.FormatBool}
}

// duration is over 0 and at most longest.
func duration(field *time.Duration, longest time.Duration) value {
	parse := func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > longest {
			return 0, fmt.Errorf("%.64q is not a duration such as 90s, 30m or 1h30m, over 0 and at most %s", s, shortDuration(longest))
		}
		return d, nil
	}
	return &single[time.Duration]{field, aString, parse, shortDuration}
}

// shortDuration writes 30m where Duration.String writes 30m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a number of bytes from smallest to largest.
func size(field *int64, smallest, largest int64) value {
	parse := func(s string) (int64, error) {
		n, ok := parseBytes(s)
		if !ok || n < smallest || n > largest {
			return 0, fmt.Errorf("%.64q is not a size such as 512KiB, 64MiB or 1GiB, from %s to %s", s, formatBytes(smallest), formatBytes(largest))
		}
		return n, nil
	}
	return &single[int64]{field, aString, parse, formatBytes}
}

// memoryLimit is a size, auto or off.
func memoryLimit(field *int64) value {
	parse := func(s string) (int64, error) {
		switch n, ok := parseBytes(s); {
		case s == "auto":
			return MemoryAuto, nil
		case s == "off":
			return MemoryOff, nil
		case ok && n >= minMemory && n <= maxMemory:
			return n, nil
		}
		return 0, fmt.Errorf("%.64q is not auto, off or a size such as 512MiB or 1GiB, from %s to %s", s, formatBytes(minMemory), formatBytes(maxMemory))
	}
	format := func(n int64) string {
		switch n {
		case MemoryAuto:
			return "auto"
		case MemoryOff:
			return "off"
		}
		return formatBytes(n)
	}
	return &single[int64]{field, aString, parse, format}
}

// list holds different elements, at most maxElements. Flags and variables separate
// them by commas and optional spaces; the empty text is the empty list.
type list[T comparable] struct {
	field *[]T
	kind  kind
	parse func(string) (T, error)
}

func (v *list[T]) isList() bool { return true }
func (v *list[T]) text() string { return strings.Join(v.elements(), ",") }

func (v *list[T]) elements() []string {
	var texts []string
	for _, element := range *v.field {
		texts = append(texts, fmt.Sprint(element))
	}
	return texts
}

func (v *list[T]) fromText(text string) error {
	*v.field = nil
	if text == "" {
		return nil
	}
	for element := range strings.SplitSeq(text, ",") {
		if err := v.add(strings.TrimSpace(element)); err != nil {
			return err
		}
	}
	return nil
}

func (v *list[T]) fromFile(d document, s setting, node ast.Node) {
	*v.field = nil
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.problemAtNode(node, s.key, "must be a list in [ ] or with one - on each line (%s), not %s", s.wants, describe(node))
		return
	}
	for _, element := range sequence.Values {
		if text, ok := d.scalar(s, element, v.kind); ok {
			if err := v.add(text); err != nil {
				d.problemAtNode(element, s.key, "%w", err)
			}
		}
	}
}

func (v *list[T]) add(text string) error {
	element, err := v.parse(text)
	switch {
	case err != nil:
		return err
	case slices.Contains(*v.field, element):
		return fmt.Errorf("%.64q is listed twice", text)
	case len(*v.field) == maxElements:
		return fmt.Errorf("%.64q is one too many: at most %d are allowed", text, maxElements)
	}
	*v.field = append(*v.field, element)
	return nil
}

func (v *list[T]) yaml() (line string, below []string) {
	texts := v.elements()
	for i, text := range texts {
		texts[i] = v.kind.quote(text)
	}
	return "[" + strings.Join(texts, ", ") + "]", nil
}

// mapping has an entry for each user, or each key size.
type mapping[K cmp.Ordered, V any] struct {
	field     *map[K]V
	parseName func(string) (K, error)
	wants     string // what an entry looks like
	entry     func(d document, field *V) value
	quote     func(K) string
}

func (m mapping[K, V]) fromFile(d document, s setting, node ast.Node) {
	*m.field = map[K]V{}
	for _, e := range d.entries(s.key+".", node) {
		name, err := m.parseName(e.name)
		if err != nil {
			d.problemAtNode(e.key, s.key, "%w", err)
			continue
		}
		var read V
		m.entry(d, &read).fromFile(d, setting{key: s.key + "." + e.name, wants: m.wants}, e.value)
		(*m.field)[name] = read
	}
}

func (m mapping[K, V]) yaml() (line string, below []string) {
	for _, name := range slices.Sorted(maps.Keys(*m.field)) {
		element := (*m.field)[name]
		line, _ := m.entry(document{}, &element).yaml()
		below = append(below, m.quote(name)+": "+line)
	}
	if len(below) == 0 {
		return "{}", nil
	}
	return "", below
}

// userPrivileges is a list of privileges for each user.
func userPrivileges(field *map[string][]string) value {
	parseName := func(s string) (string, error) { return s, userName(s) }
	entry := func(d document, field *[]string) value { return &list[string]{field, aString, d.privilege} }
	return mapping[string, []string]{field, parseName, "privileges", entry, strconv.Quote}
}

func (d document) privilege(name string) (string, error) {
	if slices.Contains(d.privileges, name) {
		return name, nil
	}
	return "", fmt.Errorf("%.64q is not a privilege: %s are allowed", name, strings.Join(d.privileges, ", "))
}

// poolTargets is a number of keys for each size in bits.
func poolTargets(field *map[int]int) value {
	entry := func(_ document, field *int) value { return number(field, 1, maxPool) }
	return mapping[int, int]{field, keySize, "keys", entry, strconv.Itoa}
}

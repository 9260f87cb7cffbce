package config

import (
	"cmp"
	"errors"
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
	fromFile(l *loader, s setting, node ast.Node)
	// yaml returns the value as YAML: on the line of its key, or on lines below it.
	yaml() (line string, below []string)
}

// kind is how YAML writes a single value.
type kind string

const (
	aString  kind = "a string"
	aNumber  kind = "a whole number"
	aBoolean kind = "true or false"
)

// textValue is a single value or a list, which flags and variables can set too.
type textValue struct {
	kind  kind
	set   func(text string) error // sets the single value, or appends to the list
	clear func()                  // empties the list; nil for a single value
	texts func() []string         // what set takes as the same value
}

func (v *textValue) isList() bool { return v.clear != nil }

// text is what fromText reads as the same value.
func (v *textValue) text() string { return strings.Join(v.texts(), ",") }

// fromText separates the elements of a list by commas and optional spaces; the empty
// text is the empty list.
func (v *textValue) fromText(text string) error {
	if !v.isList() {
		return v.set(text)
	}
	v.clear()
	if text == "" {
		return nil
	}
	for element := range strings.SplitSeq(text, ",") {
		if err := v.set(strings.TrimSpace(element)); err != nil {
			return err
		}
	}
	return nil
}

func (v *textValue) fromFile(l *loader, s setting, node ast.Node) {
	elements := []ast.Node{node}
	if v.isList() {
		v.clear()
		sequence, ok := node.(*ast.SequenceNode)
		if !ok {
			l.problemAtNode(node, s.key, "must be a list in [ ] or with one - on each line (%s), not %s", s.wants, describe(node))
			return
		}
		elements = sequence.Values
	}
	for _, element := range elements {
		if text, ok := l.scalar(s, element, v.kind); ok {
			if err := v.set(text); err != nil {
				l.problemAtNode(element, s.key, "%w", err)
			}
		}
	}
}

func (v *textValue) yaml() (line string, below []string) {
	texts := v.texts()
	for i, text := range texts {
		texts[i] = v.kind.quote(text)
	}
	line = strings.Join(texts, ", ")
	if v.isList() {
		line = "[" + line + "]"
	}
	return line, nil
}

// quote writes a string in double quotes. For valid UTF-8, Go's escapes are a
// subset of YAML's (YAML 1.2.2 section 5.7).
func (k kind) quote(text string) string {
	if k == aString {
		return strconv.Quote(text)
	}
	return text
}

// single is a value that is neither a list nor a mapping.
func single[T any](field *T, k kind, parse func(string) (T, error), format func(T) string) value {
	return &textValue{
		kind: k,
		set: func(text string) (err error) {
			*field, err = parse(text)
			return err
		},
		texts: func() []string { return []string{format(*field)} },
	}
}

// text is a string that check accepts.
func text(field *string, check func(string) error) value {
	parse := func(s string) (string, error) { return s, check(s) }
	return single(field, aString, parse, func(s string) string { return s })
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
	return single(field, aNumber, parse, strconv.Itoa)
}

// boolean is true or false and no other word for it.
func boolean(field *bool) value {
	parse := func(s string) (bool, error) {
		if s != "true" && s != "false" {
			return false, fmt.Errorf("%.64q is not true or false", s)
		}
		return s == "true", nil
	}
	return single(field, aBoolean, parse, strconv.FormatBool)
}

// duration is over 0 and at most longest.
func duration(field *time.Duration, longest time.Duration) value {
	return durationFrom(field, 1, longest, "over 0")
}

// durationOrNone may also be 0s.
func durationOrNone(field *time.Duration, longest time.Duration) value {
	return durationFrom(field, 0, longest, "not under 0")
}

func durationFrom(field *time.Duration, shortest, longest time.Duration, bound string) value {
	parse := func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < shortest || d > longest {
			return 0, fmt.Errorf("%.64q is not a duration such as 90s, 30m or 1h30m, %s and at most %s", s, bound, shortDuration(longest))
		}
		return d, nil
	}
	return single(field, aString, parse, shortDuration)
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
	return single(field, aString, parse, formatBytes)
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
	return single(field, aString, parse, format)
}

// list holds different elements, at most maxElements.
func list[T comparable](field *[]T, k kind, parse func(string) (T, error)) value {
	set := func(text string) error {
		element, err := parse(text)
		switch {
		case err != nil:
			return err
		case slices.Contains(*field, element):
			return fmt.Errorf("%.64q is listed twice", text)
		case len(*field) == maxElements:
			return fmt.Errorf("%.64q is one too many: at most %d are allowed", text, maxElements)
		}
		*field = append(*field, element)
		return nil
	}
	texts := func() (texts []string) {
		for _, element := range *field {
			texts = append(texts, fmt.Sprint(element))
		}
		return texts
	}
	return &textValue{kind: k, set: set, clear: func() { *field = nil }, texts: texts}
}

// mapping has an entry for each user, or each key size.
type mapping[K cmp.Ordered, V any] struct {
	field     *map[K]V
	parseName func(string) (K, error)
	wants     string // what an entry looks like
	entry     func(field *V) value
	quote     func(K) string
}

func (m mapping[K, V]) fromFile(l *loader, s setting, node ast.Node) {
	*m.field = map[K]V{}
	for _, e := range l.entries(s.key+".", node) {
		name, err := m.parseName(e.name)
		if err != nil {
			l.problemAtNode(e.key, s.key, "%w", err)
			continue
		}
		var read V
		m.entry(&read).fromFile(l, setting{key: s.key + "." + e.name, wants: m.wants}, e.value)
		(*m.field)[name] = read
	}
}

func (m mapping[K, V]) yaml() (line string, below []string) {
	for _, name := range slices.Sorted(maps.Keys(*m.field)) {
		element := (*m.field)[name]
		line, _ := m.entry(&element).yaml()
		below = append(below, m.quote(name)+": "+line)
	}
	if len(below) == 0 {
		return "{}", nil
	}
	return "", below
}

// userPrivileges is a list of privileges for each user, each one of allowed.
func userPrivileges(field *map[string][]string, allowed []string) value {
	parseName := func(s string) (string, error) { return s, userName(s) }
	parse := func(name string) (string, error) {
		if !slices.Contains(allowed, name) {
			return "", fmt.Errorf("%.64q is not a privilege: %s are allowed", name, strings.Join(allowed, ", "))
		}
		return name, nil
	}
	entry := func(field *[]string) value { return list(field, aString, parse) }
	return mapping[string, []string]{field, parseName, "privileges", entry, strconv.Quote}
}

// ParsePrivileges reads a file of privileges alone: YAML as the value of auth.privileges
// has it. name is for errors, which are those of Load.
func ParsePrivileges(name string, data []byte, allowed []string) (map[string][]string, error) {
	l := &loader{config: &Config{file: name}}
	root, err := l.parse(data)
	if err != nil {
		return nil, err
	}
	table := map[string][]string{}
	if root != nil && root.Type() != ast.NullType {
		userPrivileges(&table, allowed).fromFile(l, setting{key: "privileges"}, root)
	}
	return table, errors.Join(l.problems...)
}

// FormatPrivileges is the reverse of ParsePrivileges.
func FormatPrivileges(table map[string][]string) []byte {
	_, lines := userPrivileges(&table, nil).yaml()
	if len(lines) == 0 {
		return []byte("{}\n")
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// poolTargets is a number of keys for each size in bits.
func poolTargets(field *map[int]int) value {
	entry := func(field *int) value { return number(field, 1, maxPool) }
	return mapping[int, int]{field, keySize, "keys", entry, strconv.Itoa}
}

// signerKeys is a list of names of keys for each user or group.
func signerKeys(field *map[string][]string) value {
	parseName := func(s string) (string, error) { return s, process(s) }
	entry := func(field *[]string) value { return list(field, aString, keyName) }
	return mapping[string, []string]{field, parseName, "keys", entry, strconv.Quote}
}

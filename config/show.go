package config

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Show writes the settings as YAML that Load accepts and reads as the same
// settings, each with where it came from as a comment. It shows names of files,
// never what is in them; no setting holds a secret.
func (c *Config) Show(w io.Writer) error {
	var b bytes.Buffer
	section := ""
	for _, s := range c.settings() {
		name, indent := s.key, ""
		if before, after, ok := strings.Cut(s.key, "."); ok {
			if before != section {
				fmt.Fprintf(&b, "%s:\n", before)
			}
			section, name, indent = before, after, "  "
		}
		switch {
		case s.value != nil:
			fmt.Fprintf(&b, "%s%s: %s # %s\n", indent, name, yamlText(s.value), c.origins[s.key])
		case len(s.entries()) == 0:
			fmt.Fprintf(&b, "%s%s: {} # %s\n", indent, name, c.origins[s.key])
		default:
			fmt.Fprintf(&b, "%s%s: # %s\n", indent, name, c.origins[s.key])
			for _, line := range s.entries() {
				fmt.Fprintf(&b, "%s  %s\n", indent, line)
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// yamlText writes a value as one line of YAML.
func yamlText(v value) string {
	many, kind := v.shape()
	items := v.items()
	if kind == aString {
		items = quoted(items)
	}
	if !many {
		return items[0]
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// quoted writes strings in double quotes. For valid UTF-8, Go's escapes are a
// subset of YAML's (YAML 1.2.2 section 5.7).
func quoted(items []string) []string {
	out := make([]string, len(items))
	for i, s := range items {
		out[i] = strconv.Quote(s)
	}
	return out
}

package config

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Show writes the settings as YAML that Load reads as the same settings. A comment
// says where each one came from. Show writes names of files, never what is in them;
// no setting holds a secret.
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
		line, below := s.value.yaml()
		if line != "" {
			line += " "
		}
		fmt.Fprintf(&b, "%s%s: %s# %s\n", indent, name, line, c.origins[s.key])
		for _, entry := range below {
			fmt.Fprintf(&b, "%s  %s\n", indent, entry)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Texts returns the value of every setting, as Show writes it.
func (c *Config) Texts() map[string]string {
	texts := map[string]string{}
	for _, s := range c.settings() {
		line, below := s.value.yaml()
		texts[s.key] = strings.Join(append([]string{line}, below...), "\n")
	}
	return texts
}

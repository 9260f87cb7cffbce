package main

import (
	"fmt"
	"strings"
)

// markdown is the whole book as one page.
func (b book) markdown() string {
	var w strings.Builder
	w.WriteString("# Commands\n\n" +
		"Made from the commands by `make docs/commands.md`; each command says the same with `--help`, and `make man` makes man pages of it.\n\n")
	for _, c := range b.commands {
		fmt.Fprintf(&w, "- [%s](#%s): %s\n", c.path, c.manName(), inline(c.short))
	}
	w.WriteString("\n## Exit statuses\n\n| status | when |\n|---|---|\n")
	for _, s := range b.statuses {
		fmt.Fprintf(&w, "| %d | %s |\n", s.Status, inline(s.When))
	}
	w.WriteString("\n## Settings\n\n" +
		"`serve` and the commands beside it take every setting as a flag, and as an environment variable. The file that `--config` names has them too.\n" +
		"A flag beats the environment, and the environment beats the file.\n\n")
	flagTable(&w, b.settings)
	if len(b.connection) > 0 {
		w.WriteString("\n## Connection\n\nThe commands that ask a server share these flags.\n\n")
		flagTable(&w, b.connection)
	}
	for _, c := range b.commands {
		b.section(&w, c)
	}
	return w.String()
}

func (b book) section(w *strings.Builder, c chapter) {
	fmt.Fprintf(w, "\n## %s\n\n%s.\n\n```console\n%s\n```\n", c.path, inline(c.short), c.usage)
	for _, p := range paragraphs(c.long) {
		if p.verbatim {
			fmt.Fprintf(w, "\n```text\n%s\n```\n", dedent(p.text))
		} else {
			fmt.Fprintf(w, "\n%s\n", inline(p.text))
		}
	}
	if len(c.children) > 0 {
		return
	}
	if len(c.flags) > 0 {
		w.WriteString("\n")
		flagTable(w, c.flags)
	}
	if c.settings {
		w.WriteString("\nIt takes the flags and the environment of every [setting](#settings).\n")
	}
	if c.connection {
		w.WriteString("\nIt takes the flags and the environment of every [connection](#connection).\n")
	}
	if c.example != "" {
		fmt.Fprintf(w, "\n```console\n%s\n```\n", c.example)
	}
	fmt.Fprintf(w, "\nExit status: %s. [What they mean](#exit-statuses)\n", b.statusesOf(c))
}

// flagTable has a column for the environment where a flag has a variable.
func flagTable(w *strings.Builder, flags []flag) {
	withEnvironment := false
	for _, f := range flags {
		withEnvironment = withEnvironment || f.environment != ""
	}
	if withEnvironment {
		w.WriteString("| flag | environment | meaning |\n|---|---|---|\n")
	} else {
		w.WriteString("| flag | meaning |\n|---|---|\n")
	}
	for _, f := range flags {
		fmt.Fprintf(w, "| %s |", code(f.String()))
		switch {
		case f.environment != "":
			fmt.Fprintf(w, " `%s` |", f.environment)
		case withEnvironment:
			w.WriteString(" |")
		}
		w.WriteString(" " + cell(f.usage))
		if f.absent != "" {
			w.WriteString(" (default " + code(f.absent) + ")")
		}
		w.WriteString(" |\n")
	}
}

// code is a cell with text that stays as it is.
func code(text string) string { return "`" + strings.ReplaceAll(text, "|", `\|`) + "`" }

func cell(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(inline(text), "|", `\|`), "\n", " ")
}

// inline keeps Markdown and HTML from taking the signs of plain text for theirs.
func inline(text string) string {
	return strings.NewReplacer("<", `\<`, "*", `\*`, "`", "\\`", "[", `\[`, "]", `\]`).Replace(text)
}

package main

import (
	"fmt"
	"slices"
	"strings"
)

// man is the man page of a command, in the macros of man(7).
func (b book) man(c chapter) string {
	var w strings.Builder
	fmt.Fprintf(&w, ".TH %s 1 %s attestcsr \"attestcsr commands\"\n", roff(strings.ToUpper(c.manName())), b.date)
	fmt.Fprintf(&w, ".SH NAME\n%s \\- %s\n", roff(c.manName()), roff(c.short))
	fmt.Fprintf(&w, ".SH SYNOPSIS\n.B %s\n", roff(c.usage))
	w.WriteString(".SH DESCRIPTION\n")
	prose := paragraphs(c.long)
	if len(prose) == 0 {
		prose = []paragraph{{text: c.short + "."}}
	}
	for i, p := range prose {
		if i > 0 {
			w.WriteString(".PP\n")
		}
		if p.verbatim {
			verbatim(&w, dedent(p.text))
		} else {
			w.WriteString(roff(p.text) + "\n")
		}
	}
	if len(c.children) > 0 {
		w.WriteString(".SH COMMANDS\n")
		for _, child := range b.commands {
			if strings.HasPrefix(child.path, c.path+" ") && !strings.Contains(child.path[len(c.path)+1:], " ") {
				fmt.Fprintf(&w, ".TP\n.BR %s (1)\n%s\n", roff(child.manName()), roff(child.short))
			}
		}
	} else {
		b.options(&w, c)
	}
	if c.example != "" {
		w.WriteString(".SH EXAMPLES\n")
		verbatim(&w, c.example)
	}
	w.WriteString(".SH EXIT STATUS\n")
	for _, s := range b.statuses[:b.highest(c)+1] {
		fmt.Fprintf(&w, ".TP\n.B %d\n%s\n", s.Status, roff(s.When))
	}
	b.seeAlso(&w, c)
	return w.String()
}

// options has the settings in the page of serve alone: there are many.
func (b book) options(w *strings.Builder, c chapter) {
	flags := c.flags
	if c.connection {
		flags = append(slices.Clip(flags), b.connection...)
	}
	if c.settings && c.path == "attestcsr serve" {
		flags = append(slices.Clip(flags), b.settings...)
	}
	w.WriteString(".SH OPTIONS\n")
	for _, f := range flags {
		fmt.Fprintf(w, ".TP\n.B %s\n%s", roff(f.String()), roff(f.usage))
		if f.absent != "" {
			fmt.Fprintf(w, " (default %s)", roff(f.absent))
		}
		w.WriteString("\n")
		if f.environment != "" {
			fmt.Fprintf(w, ".br\nEnvironment: %s\n", roff(f.environment))
		}
	}
	fmt.Fprintf(w, ".TP\n.B %s\nprint what this page says\n", roff("-h, --help"))
	if c.settings && c.path != "attestcsr serve" {
		w.WriteString(".PP\nThe settings of\n.BR attestcsr\\-serve (1)\nare options of this command, too, and so is their environment.\n")
	}
}

func (b book) seeAlso(w *strings.Builder, c chapter) {
	var others []string
	if at := strings.LastIndexByte(c.path, ' '); at >= 0 {
		others = append(others, c.path[:at])
	}
	others = append(others, c.children...)
	if c.settings && c.path != "attestcsr serve" {
		others = append(others, "attestcsr serve")
	}
	w.WriteString(".SH SEE ALSO\n")
	for i, path := range others {
		comma := ","
		if i == len(others)-1 {
			comma = ""
		}
		fmt.Fprintf(w, ".BR %s (1)%s\n", roff(strings.ReplaceAll(path, " ", "-")), comma)
	}
}

func verbatim(w *strings.Builder, text string) {
	fmt.Fprintf(w, ".nf\n.RS 4\n%s\n.RE\n.fi\n", roff(strings.TrimRight(text, "\n")))
}

// roff keeps troff from taking the signs of plain text for requests of its own.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// TestEveryCommand: the page and the man pages have each command with all its flags, and
// each command says what it does.
func TestEveryCommand(t *testing.T) {
	t.Parallel()
	b := newBook()
	page := b.markdown()
	if len(b.commands) < 29 || len(b.settings) < 50 {
		t.Fatalf("%d commands, %d settings", len(b.commands), len(b.settings))
	}
	for _, c := range b.commands {
		man := b.man(c)
		if c.short == "" || strings.HasSuffix(c.short, ".") {
			t.Errorf("%s: says in short %q", c.path, c.short)
		}
		if !strings.Contains(page, "\n## "+c.path+"\n") {
			t.Errorf("%s has no section", c.path)
		}
		for _, f := range c.flags {
			if !strings.Contains(page, code(f.String())) || !strings.Contains(man, "\n.B "+roff(f.String())+"\n") {
				t.Errorf("%s: no --%s", c.path, f.name)
			}
		}
		var sections []string
		for line := range strings.Lines(man) {
			if name, is := strings.CutPrefix(line, ".SH "); is {
				sections = append(sections, strings.TrimSpace(name))
			}
		}
		for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"} {
			if !slices.Contains(sections, section) {
				t.Errorf("%s: the man page has no %s", c.path, section)
			}
		}
	}
	for _, f := range b.settings {
		if f.environment == "" || !strings.Contains(page, "`"+f.environment+"`") {
			t.Errorf("the setting %s has no environment", f.name)
		}
	}
}

// TestText: signs of plain text are not taken for those of Markdown or of troff.
func TestText(t *testing.T) {
	t.Parallel()
	if got, want := cell("a <b> | [c]\n*d*"), `a \<b> \| \[c\] \*d\*`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := roff("--a 'b' \\c\n.d"), `\-\-a \(aqb\(aq \ec`+"\n"+`\&.d`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got := paragraphs("one\ntwo\n\n  as is\n   as it is\nthree\n")
	want := []paragraph{{"one\ntwo", false}, {"  as is\n   as it is", true}, {"three", false}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// TestCommandLine: a man page for each command is written, and nothing without an order.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	if err := run([]string{"man", dir, "2026-11-29"}); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(newBook().commands) {
		t.Errorf("%d files, %v", len(files), err)
	}
	if page := string(kit.Read(t, dir, "attestcsr-serve.1")); !strings.HasPrefix(page, `.TH ATTESTCSR\-SERVE 1 2026-11-29 `) {
		t.Errorf("it begins with %.60q", page)
	}
	for _, wrong := range [][]string{nil, {"man"}, {"html", dir}} {
		if err := run(wrong); err == nil {
			t.Errorf("%v was taken", wrong)
		}
	}
}

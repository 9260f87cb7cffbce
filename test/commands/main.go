// Command commands writes what is to be read about the commands, from the commands
// themselves: one page in Markdown, or a folder of man pages.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "commands:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "markdown":
		return os.WriteFile(args[1], []byte(newBook().markdown()), 0o644) //nolint:gosec // a page of the documentation
	case len(args) == 3 && args[0] == "man":
		b := newBook()
		b.date = args[2]
		return b.writeMan(args[1])
	}
	return errors.New("usage: commands markdown FILE | commands man DIRECTORY DATE")
}

// writeMan writes a man page for each command.
func (b book) writeMan(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // man pages are for everybody
		return err
	}
	for _, c := range b.commands {
		if err := os.WriteFile(filepath.Join(dir, c.manName()+".1"), []byte(b.man(c)), 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}

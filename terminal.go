package main

// Everything that people read on a terminal, with its rules: it goes to stderr
// (stdout carries the log and what a command was asked for), in lower case
// without a full stop, and says what to do next. Secrets appear in one place
// only: a password on the terminal of whoever started the service.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// usageError is a wrong command line: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func usage(cmd *cobra.Command, err error) error {
	return &usageError{fmt.Errorf("%w; %q lists what there is", err, cmd.CommandPath()+" --help")}
}

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// needsSubcommand is what a command does that is only a group of others.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	return usage(cmd, fmt.Errorf("%s needs a command", cmd.CommandPath()))
}

func report(w io.Writer, err error) {
	// Joined errors are one line each.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(w, "attestcsr: "+strings.TrimRight(line, "\n")) //nolint:errcheck // there is nowhere left to say it
	}
}

func warn(w io.Writer, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintln(w, "attestcsr: warning: "+text) //nolint:errcheck // as in report
	}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// showListening prints the block that serve shows once it listens. It is written
// in one piece, so that nothing comes in between.
func showListening(w io.Writer, l listening) error {
	var text bytes.Buffer
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "  %s\t%s\n", name, value) } //nolint:errcheck // Flush reports it
	fmt.Fprintf(t, "attestcsr %s is serving\n", version())                        //nolint:errcheck // Flush reports it
	if len(l.addresses) == 1 {
		row("address", l.addresses[0])
	} else {
		row("address", l.addresses[0]+" (API)")
		row("address", l.addresses[1]+" (health and metrics)")
	}
	row("data", l.dataDir)
	if l.fingerprint == "" {
		row("certificate", l.certFile)
	} else {
		row("certificate", l.certFile+" (self-signed: tell clients to trust it, or set tls.cert_file and tls.key_file)")
		row("SHA-256", l.fingerprint)
	}
	if l.user != "" {
		row("user", l.user)
		row("password", whereIs(l.password))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// whereIs says how the built-in admin's password can be known.
func whereIs(p password) string {
	switch {
	case p.shown != "":
		return p.shown + "   (shown once)"
	case p.file != "":
		return "in " + p.file
	}
	return "set before (attestcsr reset-password makes a new one)"
}

// confirm asks on stderr for a word on stdin.
func confirm(in io.Reader, out io.Writer, question, word string) (bool, error) {
	if _, err := fmt.Fprintf(out, "%s\ntype %q to go on: ", question, word); err != nil {
		return false, err
	}
	line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, err
	}
	return strings.TrimSpace(line) == word, nil
}

// askPassword reads one line, without echo where stdin is a terminal.
func (p process) askPassword() (string, error) {
	if f, ok := p.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if _, err := fmt.Fprint(p.stderr, "password: "); err != nil {
			return "", err
		}
		secret, err := term.ReadPassword(int(f.Fd()))
		if _, printErr := fmt.Fprintln(p.stderr); err == nil {
			err = printErr
		}
		return string(secret), err
	}
	line, err := bufio.NewReader(io.LimitReader(p.stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

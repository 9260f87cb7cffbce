package main

// Everything that people read on a terminal, with its rules: it goes to stderr
// (stdout carries the log and what a command was asked for), in lower case
// without a full stop, and says what to do next. Secrets appear in one place
// only: a password on the terminal of whoever started the service.

import (
	"bufio"
	"bytes"
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

// banner is the block that serve prints once it listens.
type banner struct {
	version     string
	addresses   []string
	dataDir     string
	fingerprint string // of a self-signed server certificate, or ""
	certFile    string
	user        string   // the built-in admin, or ""
	password    password // how its password is known
}

// print writes the block in one piece, so that nothing comes in between.
func (b banner) print(w io.Writer) error {
	var text bytes.Buffer
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "  %s\t%s\n", name, value) } //nolint:errcheck // Flush reports it
	fmt.Fprintf(t, "attestcsr %s is serving\n", b.version)                        //nolint:errcheck // Flush reports it
	for _, address := range b.addresses {
		row("address", address)
	}
	row("data", b.dataDir)
	if b.fingerprint == "" {
		row("certificate", b.certFile)
	} else {
		row("certificate", b.certFile+" (self-signed: tell clients to trust it, or set tls.cert_file and tls.key_file)")
		row("SHA-256", b.fingerprint)
	}
	if b.user != "" {
		row("user", b.user)
		row("password", b.password.sentence())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
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

package command

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/backup"
	"attestcsr/server/control"
)

// Everything that people read on a terminal is in this file, and these are its
// rules. It goes to stderr: stdout has the log, and what a command was asked for. It
// is in lower case without a full stop, and says what to do next. One secret is
// shown, and only on the terminal of whoever started the service: a new password.

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
func showListening(w io.Writer, l server.Listening) error {
	var text bytes.Buffer
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "  %s\t%s\n", name, value) } //nolint:errcheck // Flush reports it
	fmt.Fprintf(t, "attestcsr %s is serving\n", version())                        //nolint:errcheck // Flush reports it
	if len(l.Addresses) == 1 {
		row("address", l.Addresses[0])
	} else {
		row("address", l.Addresses[0]+" (API)")
		row("address", l.Addresses[1]+" (health and metrics)")
	}
	row("data", l.DataDir)
	if l.SelfSigned {
		row("certificate", l.CertFile+" (self-signed: make clients trust it, or set tls.cert_file and tls.key_file)")
	} else {
		row("certificate", l.CertFile)
	}
	row("fingerprint", l.Fingerprints.PublicKey+" (of the public key)")
	row("", l.Fingerprints.Certificate+" (of the certificate)")
	if l.User != "" {
		row("user", l.User)
		row("password", whereIs(l.Password))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes())
	return err
}

// printText prints a text as a whole line.
func (p process) printText(text string) error {
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintln(p.stdout, strings.TrimSuffix(text, "\n"))
	return err
}

func showKeyset(w io.Writer, status control.KeysetStatus) error {
	var text bytes.Buffer
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, status.File) //nolint:errcheck // Flush reports it
	for _, key := range status.Keys {
		fmt.Fprintf(t, "  %s\t%s\n", key.ID, key.Use) //nolint:errcheck // Flush reports it
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if status.Pending > 0 {
		fmt.Fprintf(&text, "%d records wait to be re-sealed\n", status.Pending)
	}
	if status.Compaction {
		fmt.Fprintln(&text, "done but for compaction at the next start: older sealed keys are still in free pages of the store")
	}
	if status.Note != "" {
		fmt.Fprintln(&text, status.Note)
	}
	_, err := w.Write(text.Bytes())
	return err
}

func showStoreCheck(w io.Writer, found server.StoreCheck) error {
	var text bytes.Buffer
	for _, problem := range found.Problems {
		fmt.Fprintf(&text, "%s: %s\n", problem.Where, problem.What)
	}
	if found.More > 0 {
		fmt.Fprintf(&text, "and %d more problems\n", found.More)
	}
	fmt.Fprintf(&text, "store: %d records, %d problems\n", found.Records, len(found.Problems)+found.More)
	for _, s := range found.Trail {
		text.WriteString(s.String())
	}
	_, err := w.Write(text.Bytes())
	return err
}

// showBackup says what a backup holds, and what it does not.
func showBackup(w io.Writer, saved backup.Saved, r control.BackupReport) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "the backup of %s holds %d files, and the store at revision %d\n", r.Created.Format(time.RFC3339), r.Files, r.Revision)
	for _, what := range r.Without {
		fmt.Fprintf(&text, "not in it: %s\n", what)
	}
	for _, file := range saved.Removed {
		fmt.Fprintf(&text, "removed: %s\n", file)
	}
	_, err := w.Write(text.Bytes())
	return err
}

func showBackupCheck(w io.Writer, found server.BackupCheck) error {
	m := found.Manifest
	_, err := fmt.Fprintf(w, "backup of %s, made at %s: %d files, store at revision %d, primary sealing key %s\n",
		m.Hostname, m.Created.Format(time.RFC3339), len(m.Files), m.Revision, m.Keyset)
	if err != nil {
		return err
	}
	return showStoreCheck(w, found.StoreCheck)
}

func showRestored(w io.Writer, cfg *config.Config, done server.Restored) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s holds the backup of %s; its files belong to user %d\n", cfg.DataDir, done.Created.Format(time.RFC3339), done.Owner)
	for _, what := range done.Without {
		fmt.Fprintf(&text, "not in the backup: %s\n", what)
	}
	if cfg.Sealing.KeysetFile != "" && done.Has(server.KeysetFile) {
		fmt.Fprintf(&text, "put %s there in the place of sealing.keyset_file, %s\n", server.KeysetFile, cfg.Sealing.KeysetFile)
	}
	_, err := w.Write(text.Bytes())
	return err
}

func showUsers(w io.Writer, users []control.User) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "USER\tIN\tPRIVILEGES FROM\tPRIVILEGES") //nolint:errcheck // Flush reports it
	for _, u := range users {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", u.Name, u.Source, cmp.Or(u.PrivilegesFrom, "-"), cmp.Or(strings.Join(u.Privileges, " "), "-")) //nolint:errcheck // Flush reports it
	}
	return t.Flush()
}

// showUserChange says what is in effect now.
func showUserChange(w io.Writer, action control.UserAction, u control.User) error {
	may := "may log in and do nothing"
	if len(u.Privileges) > 0 {
		may = "has " + strings.Join(u.Privileges, ", ")
	}
	var err error
	switch action {
	case control.RemoveUser:
		_, err = fmt.Fprintf(w, "%s is removed, and the sessions of %s have ended\n", u.Name, u.Name)
	case control.SetPassword:
		_, err = fmt.Fprintf(w, "%s has another password, and the sessions of %s have ended\n", u.Name, u.Name)
	default:
		_, err = fmt.Fprintf(w, "%s %s\n", u.Name, may)
	}
	return err
}

// whereIs says how the built-in admin's password can be known.
func whereIs(p server.Password) string {
	switch {
	case p.Shown != "":
		return p.Shown + "   (shown once)"
	case p.File != "":
		return "in " + p.File
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

// prompt asks for one line. Without an answer it is the default.
func (p process) prompt(ctx context.Context, what, otherwise string) (string, error) {
	question := what + ": "
	if otherwise != "" {
		question = fmt.Sprintf("%s [%s]: ", what, otherwise)
	}
	if _, err := fmt.Fprint(p.stderr, question); err != nil {
		return "", err
	}
	line, err := p.unlessInterrupted(ctx, func() (string, error) { return readLine(p.stdin) })
	return cmp.Or(strings.TrimSpace(line), otherwise), err
}

// errInterrupted: somebody pressed Ctrl-C at a question.
var errInterrupted = errors.New("interrupted")

// unlessInterrupted waits for an answer, or for the end of the command.
func (p process) unlessInterrupted(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := read()
		answered <- answer{text, err}
	}()
	select {
	case a := <-answered:
		return a.text, a.err
	case <-ctx.Done():
		_, err := fmt.Fprintln(p.stderr)
		return "", errors.Join(errInterrupted, err)
	}
}

// readLine reads up to the end of a line and no further: the next question reads on.
func readLine(from io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < 4096; {
		n, err := from.Read(one)
		if n == 1 && one[0] == '\n' || errors.Is(err, io.EOF) && len(line) > 0 {
			break
		}
		line = append(line, one[:n]...)
		if err != nil {
			return "", err
		}
	}
	return strings.TrimSuffix(string(line), "\r"), nil
}

// askPassword reads one line, without echo where stdin is a terminal.
func (p process) askPassword(ctx context.Context) (secret string, err error) {
	f, ok := p.stdin.(*os.File)
	if !ok || !isTerminal(f) {
		line, err := readLine(p.stdin)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return line, err
	}
	fd := int(f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	// Who types ahead sees nothing of it either.
	silent, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, silent); err != nil {
		return "", err
	}
	if _, err := fmt.Fprint(p.stderr, "password: "); err != nil {
		return "", err
	}
	secret, err = p.unlessInterrupted(ctx, func() (string, error) {
		text, err := term.ReadPassword(fd)
		return string(text), err
	})
	if !errors.Is(err, errInterrupted) { // which has ended the line
		_, printErr := fmt.Fprintln(p.stderr)
		err = errors.Join(err, printErr)
	}
	return secret, err
}

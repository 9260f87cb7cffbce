package command

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"attestcsr/handler/client"
	"attestcsr/handler/strict"
)

// What client commands print. The result goes to stdout, and what is said about it to
// stderr, as terminal.go has it.

// print prints a result in the form that --output names. A result without PEM has "".
func (c *connection) print(text string, value any, pem string) error {
	switch c.output {
	case "json":
		var b strings.Builder
		if err := json.MarshalWrite(&b, value, json.Deterministic(true), jsontext.WithIndent("  ")); err != nil {
			return err
		}
		text = b.String()
	case "pem":
		if pem == "" {
			return c.wrong(errors.New("--output pem is for what can be written in PEM: use text or json"))
		}
		text = pem
	case "text":
	default:
		return c.wrong(fmt.Errorf("--output is text, json or pem, not %q", c.output))
	}
	return c.printText(c.coloured(text))
}

// coloured makes lines that people should look at yellow, or red, on a terminal. NO_COLOR
// with any value turns that off (no-color.org).
func (c *connection) coloured(text string) string {
	if c.output != "text" || !isTerminal(c.stdout) || c.getenv("NO_COLOR") != "" || c.getenv("TERM") == "dumb" {
		return text
	}
	const red, yellow, off = "\x1b[31m", "\x1b[33m", "\x1b[0m"
	var b strings.Builder
	for line := range strings.Lines(text) {
		line, colour := strings.TrimSuffix(line, "\n"), ""
		switch {
		case strings.HasSuffix(line, expired), strings.HasSuffix(line, doesNotVerify):
			colour = red
		case strings.HasPrefix(line, "differs "), strings.HasPrefix(line, "note "), strings.HasSuffix(line, notYetValid):
			colour = yellow
		}
		if colour != "" {
			line = colour + line + off
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// What "show" says of what is wrong.
const (
	expired       = " (expired)"
	notYetValid   = " (not valid yet)"
	doesNotVerify = ", which does not verify: the CSR is damaged"
)

// row is a line of a name and a value. A value of several lines is one line each.
type row struct{ name, value string }

// rows lines up values.
func rows(all ...row) string {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, r := range all {
		if r.value == "" {
			continue
		}
		name := r.name
		for line := range strings.Lines(r.value) {
			fmt.Fprintf(t, "%s\t%s\n", name, strings.TrimSuffix(line, "\n")) //nolint:errcheck // a Builder takes everything
			name = ""
		}
	}
	_ = t.Flush() // likewise
	return text.String()
}

// moment writes a time for people.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// advise adds to an error what to do next.
func advise(err error) error {
	if err == nil {
		return nil
	}
	advice := ""
	switch e, _ := errors.AsType[*client.Error](err); {
	case errors.Is(err, client.ErrUntrusted):
		if key := client.PublicKey(err); key != "" {
			advice = "its public key is " + key + ": if that is what serve or healthcheck prints on its host, give --fingerprint " + key + ", or else --ca-file"
		}
	case errors.Is(err, client.ErrUnreachable):
		advice = "is the service running, and is the address right?"
	case e == nil:
	case e.Status == 401:
		advice = "log in with: attestcsr session login"
	case e.Status == 403:
		advice = "the user needs that privilege: ask whoever runs the service"
	case (e.Status == 503 || e.Status == 429) && e.RetryAfter > 0:
		advice = fmt.Sprintf("try again in %d seconds", int(e.RetryAfter.Seconds()))
	case e.Status >= 300 && e.Status < 400:
		advice = "it answers with a redirect, which is not followed: name the server that it leads to"
	}
	if advice == "" {
		return err
	}
	return fmt.Errorf("%w\n%s", err, advice)
}

// table has a line for each row, cut to what a terminal can show. It is empty without rows.
func table(head []string, lines [][]string) string {
	if len(lines) == 0 {
		return ""
	}
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{head}, lines...) {
		for i, cell := range cells {
			cells[i] = strict.Printable(cell, 80)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t")) //nolint:errcheck // a Builder takes everything
	}
	_ = t.Flush() // likewise
	return text.String()
}

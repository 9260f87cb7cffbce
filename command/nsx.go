package command

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/policy"
	"attestcsr/handler/strict"
)

func (p process) nsxCommand() *cobra.Command {
	return group("nsx", "Make CSRs and import certificates in the NSX dialect: of this service or the vendor's NSX",
		group("csr", "Act on CSRs, each with an id of its own",
			p.nsxCreateCommand(), p.nsxListCommand(nsxCSRs), p.nsxGetCommand(nsxCSRs), p.nsxShowCommand(nsxCSRs), p.nsxDeleteCommand(nsxCSRs),
			p.nsxImportCommand(), p.nsxSelfSignCommand()),
		group("certificate", "Act on certificates, which an import or a self-sign has made",
			p.nsxListCommand(nsxCertificates), p.nsxGetCommand(nsxCertificates), p.nsxShowCommand(nsxCertificates), p.nsxDeleteCommand(nsxCertificates)))
}

// nsxKind is one of the two collections of the NSX dialect.
type nsxKind struct {
	collection policy.Collection
	noun       string
	group      string // the commands for it
	// columns are those of a list, beside the id, and cells are their values.
	columns []string
	cells   func(policy.Object) []string
}

func nsxCSRs() nsxKind {
	return nsxKind{policy.CSRs, "CSR", "nsx csr", []string{"name", "subject", "key", "created"}, func(o policy.Object) []string {
		d, err := pkcs10.Describe(o.PEM)
		if err != nil {
			return []string{o.DisplayName, "(unreadable)", "", nsxMoment(o.CreateTime)}
		}
		return []string{o.DisplayName, d.Subject, fmt.Sprintf("%s %d", d.KeyAlgorithm, d.KeyBits), nsxMoment(o.CreateTime)}
	}}
}

func nsxCertificates() nsxKind {
	return nsxKind{policy.Certificates, "certificate", "nsx certificate", []string{"name", "subject", "issuer", "valid until"}, func(o policy.Object) []string {
		facts := pkcs10.FactsIn(o.PEM)
		if len(facts) == 0 {
			return []string{o.DisplayName, "(unreadable)", "", ""}
		}
		return []string{o.DisplayName, facts[0].Subject, facts[0].Issuer, moment(facts[0].NotAfter)}
	}}
}

// nsxMoment writes a time of the NSX dialect for people.
func nsxMoment(milliseconds int64) string { return moment(time.UnixMilli(milliseconds)) }

// nsx returns a client of the NSX dialect with a session.
func (c *connection) nsx(ctx context.Context) (*policy.Client, error) {
	return open(ctx, c, "nsx", policy.NewClient)
}

// maxListed bounds what a list holds in memory: each object can have 64 KiB.
const maxListed = 10_000

func (p process) nsxListCommand(of func() nsxKind) *cobra.Command {
	kind := of()
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the " + kind.noun + "s",
		Long:    "Follows the pages of the server's list up to --limit, and says on standard error if there are\nmore. --output json prints a list of the documents that the server has.",
		Example: "  attestcsr " + kind.group + " list\n  attestcsr " + kind.group + " list --sort-by _create_time --output json",
		Args:    usageArgs(cobra.NoArgs),
	}
	limit := cmd.Flags().Int("limit", 1000, fmt.Sprintf("list at most so `many`, up to %d", maxListed))
	sortBy := cmd.Flags().String("sort-by", "", "`member` to sort by: id, display_name, _create_time or _last_modified_time (default that of the server)")
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		if *limit < 1 || *limit > maxListed {
			return c.wrong(fmt.Errorf("--limit is from 1 to %d, not %d", maxListed, *limit))
		}
		nsx, err := c.nsx(ctx)
		if err != nil {
			return err
		}
		all, err := nsx.List(ctx, kind.collection, *sortBy, *limit)
		if err != nil {
			return err
		}
		documents := []jsontext.Value{}
		for _, o := range all.Items {
			documents = append(documents, o.Document)
		}
		if err := c.print(kind.table(all.Items), documents, ""); err != nil {
			return err
		}
		return c.sayRest(kind, all)
	})
}

// sayRest says what a list does not show.
func (c *connection) sayRest(kind nsxKind, all policy.Listing) error {
	var said []string
	switch {
	case all.More && all.Total > len(all.Items):
		said = append(said, fmt.Sprintf("these are %d of %d: --limit shows more", len(all.Items), all.Total))
	case all.More:
		said = append(said, fmt.Sprintf("there are more than these %d: --limit shows them", len(all.Items)))
	case len(all.Items) == 0 && all.Unreadable == 0:
		said = append(said, "there is no "+kind.noun)
	}
	if all.Unreadable > 0 {
		said = append(said, fmt.Sprintf("%d more cannot be read by the service: its log names them, and delete removes them", all.Unreadable))
	}
	for _, text := range said {
		if _, err := fmt.Fprintln(c.stderr, text); err != nil {
			return err
		}
	}
	return nil
}

// table has a line for each object.
func (k nsxKind) table(all []policy.Object) string {
	var lines [][]string
	for _, o := range all {
		lines = append(lines, append([]string{o.ID}, k.cells(o)...))
	}
	return table(append([]string{"id"}, k.columns...), lines)
}

func (p process) nsxGetCommand(of func() nsxKind) *cobra.Command {
	kind := of()
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Print a " + kind.noun + " in PEM",
		Long:    "Prints the PEM, or with --output json the document that the server has.",
		Example: "  attestcsr " + kind.group + " get web-01",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	out := outFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		_, o, err := c.nsxObject(ctx, kind, args[0])
		if err != nil {
			return err
		}
		text, err := pemOf(o)
		if err != nil {
			return err
		}
		return c.putOut(*out, text, o.Document, kind.group+" get")
	})
}

// nsxObject reads an object. It returns the client for what comes next.
func (c *connection) nsxObject(ctx context.Context, kind nsxKind, id string) (*policy.Client, policy.Object, error) {
	if id == "" {
		return nil, policy.Object{}, c.wrong(errors.New("the id is empty"))
	}
	nsx, err := c.nsx(ctx)
	if err != nil {
		return nil, policy.Object{}, err
	}
	o, err := nsx.Get(ctx, kind.collection, id)
	return nsx, o, kind.advise(err)
}

// advise says where ids are to be seen.
func (k nsxKind) advise(err error) error {
	if client.Status(err) != 404 {
		return err
	}
	return fmt.Errorf("%w\nattestcsr %s list shows the ids that there are", err, k.group)
}

func (p process) nsxDeleteCommand(of func() nsxKind) *cobra.Command {
	kind := of()
	cmd := &cobra.Command{
		Use:     "delete ID",
		Short:   "Remove a " + kind.noun + " and destroy its private key",
		Long:    "Says what will be lost and asks, unless --yes is given.",
		Example: "  attestcsr " + kind.group + " delete web-01",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	yes := yesFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		nsx, o, err := c.nsxObject(ctx, kind, args[0])
		// An object that the service cannot read can be removed all the same.
		damaged := client.Status(err) == 500
		if err != nil && !damaged {
			return err
		}
		if !*yes {
			what := fmt.Sprintf("the %s %q, of %s, and its private key will be lost for good", kind.noun, strict.Printable(args[0], 255), nsxMoment(o.CreateTime))
			if damaged {
				what = fmt.Sprintf("the %s %q, which the service cannot read, will be lost for good", kind.noun, strict.Printable(args[0], 255))
			}
			if err := c.confirmed(ctx, what, "--yes"); err != nil {
				return err
			}
		}
		if err := nsx.Delete(ctx, kind.collection, args[0]); err != nil {
			return kind.advise(err)
		}
		return c.say("the %s %q is deleted", kind.noun, strict.Printable(args[0], 255))
	})
}

// pemOf is the PEM of an object, and nothing else that a terminal could act on.
func pemOf(o policy.Object) (string, error) {
	var text strings.Builder
	for block, rest := pem.Decode([]byte(o.PEM)); block != nil; block, rest = pem.Decode(rest) {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: strict.Printable(block.Type, 64), Bytes: block.Bytes}))
	}
	if text.Len() == 0 {
		return "", fmt.Errorf("the server's document of %q has no PEM", strict.Printable(o.ID, 255))
	}
	return text.String(), nil
}

// say tells on standard error what was done.
func (c *connection) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c.stderr, format+"\n", args...)
	return err
}

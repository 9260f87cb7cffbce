package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/console"
	"attestcsr/handler/policy"
	"attestcsr/handler/strict"
)

func (p process) nsxShowCommand(of func() nsxKind) *cobra.Command {
	kind := of()
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Say what a " + kind.noun + " says",
		Example: "  attestcsr " + kind.group + " show web-01",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		_, o, err := c.nsxObject(ctx, kind, args[0])
		if err != nil {
			return err
		}
		if kind.collection == policy.CSRs {
			r, err := parseRequest([]byte(o.PEM))
			if err != nil {
				return fmt.Errorf("the answer of the server: %w", err)
			}
			view := newRequestView(r)
			view.PendingSince = new(time.UnixMilli(o.CreateTime))
			return c.print(view.text(c.now()), view, requestPEM(r))
		}
		chain, err := pkcs10.ParseCertificates(o.PEM)
		if err != nil {
			return fmt.Errorf("the answer of the server: %w", err)
		}
		view := newChainView(chain, c.now())
		view.Answers = "" // nothing: its CSR is gone
		return c.print(view.text(c.now()), view, pkcs10.Chain(chain).PEM())
	})
}

func (p process) nsxImportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import ID FILE…",
		Short: "Import the certificate that the CA issued for a CSR",
		Long: "Reads PEM, DER and PKCS#7, several files in any order, and puts the chain in order. The\n" +
			"server checks it first, without a change: the command says what will be imported and what\n" +
			"was checked, and asks. The vendor's NSX has no such check; the command then compares key\n" +
			"and names with the CSR by itself.\n\n" +
			"The CSR is gone then, and its key belongs to the certificate, whose new id is printed.",
		Example: "  attestcsr nsx csr import web-01 web-01.pem ca.pem",
		Args:    usageArgs(cobra.MinimumNArgs(2)),
	}
	yes := yesFlag(cmd)
	dryRun := cmd.Flags().Bool("dry-run", false, "check alone, and change nothing")
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		chain, err := readChain(args[1:])
		if err != nil {
			return err
		}
		nsx, o, err := c.nsxObject(ctx, nsxCSRs(), args[0])
		if err != nil {
			return err
		}
		view, err := c.checkedImport(ctx, o, chain)
		if err != nil {
			return err
		}
		question := fmt.Sprintf("this certificate will take the place of the CSR %q", strict.Printable(args[0], 255))
		if goOn, err := c.approved(ctx, view, chain, *dryRun, *yes, question); !goOn {
			return err
		}
		made, err := nsx.Import(ctx, args[0], chain.PEM())
		if err != nil {
			return nsxCSRs().advise(err)
		}
		return c.printMade(made)
	})
}

// checkedImport asks the server what it would do with a chain, and compares by itself where
// the server does not check. What would be refused is an error.
func (c *connection) checkedImport(ctx context.Context, of policy.Object, chain pkcs10.Chain) (chainView, error) {
	view := newChainView(chain, c.now())
	report, err := c.checkImport(ctx, of.ID, chain)
	if err == nil {
		view.take(report)
		return view, refusal(report)
	}
	if errors.Is(err, client.ErrUnreachable) || client.Status(err) >= 500 {
		return view, err
	}
	if err := view.compareWith(of.PEM, chain.Leaf()); err != nil {
		return view, err
	}
	view.Notes = []string{"nothing was checked beforehand but the key and the names: " + err.Error()}
	if status := client.Status(err); status == 404 || status == 405 {
		view.Notes = []string{"nothing was checked beforehand but the key and the names: the server has no check"}
	}
	if view.Answers != "pending" {
		return view, errors.New("the certificate is for another key than that of the CSR")
	}
	return view, nil
}

// checkImport asks in a session of the ESX dialect, which the check needs.
func (c *connection) checkImport(ctx context.Context, id string, chain pkcs10.Chain) (console.Report, error) {
	esx, err := c.esx(ctx)
	if err != nil {
		return console.Report{}, err
	}
	return console.NewClient(esx).Check(ctx, console.CheckSpec{Kind: "import", ID: id, Certificate: chain.PEM()})
}

func (p process) nsxSelfSignCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "self-sign ID",
		Short:   "Make a self-signed certificate of a CSR, without a CA",
		Long:    "The CSR is gone then, and its key belongs to the certificate, whose new id is printed.\n--output pem prints the certificate.",
		Example: "  attestcsr nsx csr self-sign web-01 --days 365",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	days := cmd.Flags().Int("days", 0, "valid for so many `days` (default 825; a certificate that is no CA is valid for 825 at most)")
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		if *days < 0 || cmd.Flags().Changed("days") && *days == 0 {
			return c.wrong(fmt.Errorf("--days is at least 1, not %d", *days))
		}
		nsx, _, err := c.nsxObject(ctx, nsxCSRs(), args[0])
		if err != nil {
			return err
		}
		made, err := nsx.SelfSign(ctx, args[0], *days)
		if err != nil {
			return nsxCSRs().advise(err)
		}
		return c.printMade(made)
	})
}

// printMade prints the id of a certificate that took the place of a CSR.
func (c *connection) printMade(made policy.Object) error {
	text, err := pemOf(made)
	if err != nil {
		return err
	}
	if err := c.say("the CSR is now a certificate, with this id"); err != nil {
		return err
	}
	return c.print(strict.Printable(made.ID, 255), made.Document, text)
}

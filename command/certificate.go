package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/console"
	"attestcsr/handler/vapi"
	"attestcsr/server/control"
)

func (p process) certificateCommand() *cobra.Command {
	return group("certificate", "Read, set and withdraw the attestation certificate: of this service or the vendor's ESX",
		p.getCommand("certificate", "Print the installed certificate with its chain, in PEM", (*vapi.Client).Certificate), p.showCertificateCommand(), p.setCertificateCommand(), p.unstageCommand())
}

func (p process) unstageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "unstage",
		Short: "Withdraw the certificate that waits to become active, and destroy its key",
		Long: "With certificate.activate_after, a certificate that was set becomes active later. Until\n" +
			"then this takes it back: the installed certificate stays, and so does a pending CSR.",
		Args: usageArgs(cobra.NoArgs),
	}
	return p.withOperations(cmd, func(ctx context.Context, o control.Operations) error {
		if err := o.Unstage(ctx); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stderr, "the staged certificate is withdrawn, and its key is destroyed")
		return err
	})
}

func (p process) showCertificateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show [FILE…]",
		Short: "Say what the installed certificate says, or one in files",
		Long: "Reads PEM, DER and PKCS#7, several files in any order. Where a server is named, it also says\n" +
			"whether the certificate answers the pending CSR, and how its names differ from what that asks for.",
		Args: usageArgs(cobra.ArbitraryArgs),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, files []string) error {
		if len(files) == 0 {
			return c.showInstalled(ctx)
		}
		chain, err := readChain(files)
		if err != nil {
			return err
		}
		view := newChainView(chain, c.now())
		if err = errNoServer; c.named {
			var esx *vapi.Client
			if esx, err = c.esx(ctx); err == nil {
				err = view.compare(ctx, esx, chain)
			}
		}
		if err != nil {
			view.Notes = append(view.Notes, "not compared with a CSR or an installed key: "+err.Error())
		}
		return c.print(view.text(c.now()), view, chain.PEM())
	})
}

var errNoServer = errors.New("no server is named (--server, --context or --data-dir)")

func (c *connection) showInstalled(ctx context.Context) error {
	esx, err := c.esx(ctx)
	if err != nil {
		return err
	}
	text, err := esx.Certificate(ctx)
	if err != nil {
		return err
	}
	chain, broken := pkcs10.ReadChain([]byte(text), false)
	if err := broken.Err(); err != nil {
		return fmt.Errorf("the answer of the server: %w", err)
	}
	view := newChainView(chain, c.now())
	if err := view.compare(ctx, esx, chain); err != nil {
		return err
	}
	return c.print(view.text(c.now()), view, text)
}

func (p process) setCertificateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set FILE…",
		Short: "Install the certificate that the CA issued",
		Long: "Reads PEM, DER and PKCS#7, several files in any order, and puts the chain in order. The\n" +
			"server checks it first, without a change: the command says what will be set and what was\n" +
			"checked, and asks. The vendor's products have no such check.",
		Example: "  attestcsr certificate set host.pem ca.pem",
		Args:    usageArgs(cobra.MinimumNArgs(1)),
	}
	yes := yesFlag(cmd)
	dryRun := cmd.Flags().Bool("dry-run", false, "check alone, and change nothing")
	return p.withServer(cmd, func(ctx context.Context, c *connection, files []string) error {
		chain, err := readChain(files)
		if err != nil {
			return err
		}
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		view, err := c.checked(ctx, esx, chain)
		if err != nil {
			return err
		}
		if goOn, err := c.approved(ctx, view, chain, *dryRun, *yes, "this certificate will be set"); !goOn {
			return err
		}
		if err := esx.SetCertificate(ctx, chain.PEM()); err != nil {
			return err
		}
		return c.say("%s", view.done())
	})
}

// checked asks the server what it would do with a chain. What it would refuse is an error.
func (c *connection) checked(ctx context.Context, esx *vapi.Client, chain pkcs10.Chain) (chainView, error) {
	view := newChainView(chain, c.now())
	report, err := console.NewClient(esx).Check(ctx, console.CheckSpec{Kind: "certificate", Certificate: chain.PEM()})
	switch status := client.Status(err); {
	case status == 404 || status == 405:
		view.Notes = append(view.Notes, "nothing was checked beforehand: the server has no check")
		return view, nil
	case err != nil:
		return view, err
	}
	view.take(report)
	return view, refusal(report)
}

// refusal is the error of a report that does not accept.
func refusal(report console.Report) error {
	if report.Accepted {
		return nil
	}
	var refused []error
	for _, check := range report.Checks {
		for _, m := range check.Messages {
			if check.Result == "failed" {
				refused = append(refused, errors.New(clean(m.Default)))
			}
		}
	}
	return fmt.Errorf("the server would refuse this certificate:\n%w", errors.Join(refused...))
}

// done says what a set has done.
func (v chainView) done() string {
	switch {
	case v.Unchanged:
		return "the certificate was installed already: nothing changed"
	case v.Active != "":
		return "the certificate is set, and becomes active at " + v.Active + "; attestcsr certificate unstage withdraws it until then"
	}
	return "the certificate is set"
}

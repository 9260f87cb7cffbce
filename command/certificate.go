package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/server/control"
)

func (p process) certificateCommand() *cobra.Command {
	return group("certificate", "Act on the attestation certificate", p.unstageCommand())
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

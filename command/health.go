package command

import (
	"time"

	"github.com/spf13/cobra"

	"attestcsr/server"
)

func (p process) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running service whether it is ready: exit status 0 or 1",
		Long: "Calls /readyz of the service that runs with the same settings on this machine, and\n" +
			"trusts exactly the certificate in the service's own certificate file.",
		Args: usageArgs(cobra.NoArgs),
	}
	wait := cmd.Flags().Duration("wait", 0, "keep asking for so long until the service is ready")
	load := p.quietSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, _, err := load()
		if err != nil {
			return err
		}
		deadline := time.Now().Add(*wait)
		for {
			err := server.CheckHealth(cmd.Context(), cfg)
			if err == nil || time.Now().After(deadline) {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return err
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return cmd
}

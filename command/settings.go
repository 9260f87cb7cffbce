package command

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

// withSettings gives a command the flags of every setting. Before do runs, it loads
// and checks the settings and shows warnings.
func (p process) withSettings(cmd *cobra.Command, do func(ctx context.Context, cfg *config.Config, args []string) error) *cobra.Command {
	load := p.quietSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, warnings, err := load()
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		return do(cmd.Context(), cfg, args)
	}
	return cmd
}

// quietSettings leaves the warnings to the caller.
func (p process) quietSettings(cmd *cobra.Command) func() (*config.Config, []string, error) {
	config.AddFlags(cmd.Flags())
	return func() (*config.Config, []string, error) {
		cfg, warnings, err := config.Load(config.Source{Env: p.env, Flags: cmd.Flags(), Privileges: server.PrivilegeNames(), SystemHostname: os.Hostname})
		if err != nil {
			return nil, nil, err
		}
		more, err := server.CheckSettings(cfg)
		return cfg, append(warnings, more...), err
	}
}

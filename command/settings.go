package command

import (
	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

// settings gives a command the flags of every setting and returns what loads
// and checks them all, before anything is opened.
func (p process) settings(cmd *cobra.Command) func() (*config.Config, []string, error) {
	config.AddFlags(cmd.Flags())
	return func() (*config.Config, []string, error) {
		cfg, warnings, err := config.Load(config.Source{Env: p.env, Flags: cmd.Flags(), Privileges: server.PrivilegeNames()})
		if err != nil {
			return nil, nil, err
		}
		more, err := server.CheckSettings(cfg)
		return cfg, append(warnings, more...), err
	}
}

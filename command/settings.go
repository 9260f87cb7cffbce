package command

import (
	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

// settings gives a command the flags of every setting. It returns what loads and
// checks the settings, before anything is opened, and shows warnings.
func (p process) settings(cmd *cobra.Command) func() (*config.Config, error) {
	load := p.quietSettings(cmd)
	return func() (*config.Config, error) {
		cfg, warnings, err := load()
		warn(p.stderr, warnings)
		return cfg, err
	}
}

// quietSettings leaves the warnings to the caller.
func (p process) quietSettings(cmd *cobra.Command) func() (*config.Config, []string, error) {
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

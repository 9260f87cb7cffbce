package command

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (p process) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check or show the settings", Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}

	check := &cobra.Command{Use: "check", Short: "Say what is wrong with the settings, and where", Args: usageArgs(cobra.NoArgs)}
	loadChecked := p.settings(check)
	check.RunE = func(*cobra.Command, []string) error {
		_, warnings, err := loadChecked()
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.stdout, "the settings are good")
		return err
	}

	show := &cobra.Command{Use: "show", Short: "Print the settings in force and where each comes from", Args: usageArgs(cobra.NoArgs)}
	loadShown := p.settings(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, warnings, err := loadShown()
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		return cfg.Show(p.stdout)
	}
	cmd.AddCommand(check, show)
	return cmd
}

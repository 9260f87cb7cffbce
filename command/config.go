package command

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (p process) configCommand() *cobra.Command {
	check := &cobra.Command{Use: "check", Short: "Say what is wrong with the settings, and where", Args: usageArgs(cobra.NoArgs)}
	loadChecked := p.settings(check)
	check.RunE = func(*cobra.Command, []string) error {
		if _, err := loadChecked(); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stdout, "the settings are good")
		return err
	}

	show := &cobra.Command{Use: "show", Short: "Print the settings in force and where each comes from", Args: usageArgs(cobra.NoArgs)}
	loadShown := p.settings(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, err := loadShown()
		if err != nil {
			return err
		}
		return cfg.Show(p.stdout)
	}
	return group("config", "Check or show the settings", check, show)
}

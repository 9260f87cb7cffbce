package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
)

func (p process) configCommand() *cobra.Command {
	check := &cobra.Command{Use: "check", Short: "Say what is wrong with the settings, and where", Args: usageArgs(cobra.NoArgs)}
	p.withSettings(check, func(context.Context, *config.Config, []string) error {
		_, err := fmt.Fprintln(p.stdout, "the settings are good")
		return err
	})
	show := &cobra.Command{Use: "show", Short: "Print the settings in force and where each comes from", Args: usageArgs(cobra.NoArgs)}
	p.withSettings(show, func(_ context.Context, cfg *config.Config, _ []string) error { return cfg.Show(p.stdout) })
	return group("config", "Check or show the settings", check, show)
}

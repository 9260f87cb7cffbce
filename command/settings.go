package command

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/control"
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

// withOperations also gives the command what a running service does for it, or the
// same over the store where none runs.
func (p process) withOperations(cmd *cobra.Command, do func(context.Context, control.Operations) error) *cobra.Command {
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error { return p.operate(ctx, cfg, do) })
}

func (p process) operate(ctx context.Context, cfg *config.Config, do func(context.Context, control.Operations) error) error {
	o, end, err := server.Administer(ctx, cfg, p.log())
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, o), end())
}

// log is for what a command does in place of a service: only warnings and errors are
// said.
func (p process) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// quietSettings leaves the warnings to the caller.
func (p process) quietSettings(cmd *cobra.Command) server.Loader {
	config.AddFlags(cmd.Flags())
	return func() (*config.Config, []string, error) {
		cfg, warnings, err := config.Load(config.Source{Env: p.env, Others: otherVariables(), Flags: cmd.Flags(), Privileges: server.PrivilegeNames(), SystemHostname: os.Hostname})
		if err != nil {
			return nil, nil, err
		}
		more, err := server.CheckSettings(cfg)
		return cfg, append(warnings, more...), err
	}
}

package command

import (
	"errors"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

func (p process) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the API until SIGTERM or SIGINT",
		Args:  usageArgs(cobra.NoArgs),
	}
	load := p.quietSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, warnings, err := load()
		if err != nil {
			return err
		}
		log := newLogger(cfg, p.stdout)
		for _, text := range warnings {
			log.Warn("settings", "warning", text)
		}
		defer server.PrepareProcess(cfg, log)()
		s, err := server.Open(cmd.Context(), server.Options{
			Config: cfg, Logger: log, Version: version(), Terminal: isTerminal(p.stderr),
		})
		if err != nil {
			return err
		}
		announce := func(l server.Listening) error { return showListening(p.stderr, l) }
		return errors.Join(s.Run(cmd.Context(), announce), s.Close())
	}
	return cmd
}

func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		level = slog.LevelInfo // package config lets only levels through
	}
	options := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

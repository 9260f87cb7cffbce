package command

import (
	"context"
	"errors"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"attestcsr/server"
	"attestcsr/server/output"
)

func (p process) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Serve the API until SIGTERM or SIGINT",
		Example: "  attestcsr serve\n  attestcsr serve --listen 127.0.0.1:8443 --data-dir /var/lib/attestcsr --config /etc/attestcsr/config.yaml",
		Args:    usageArgs(cobra.NoArgs),
	}
	load := p.quietSettings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out := output.New(p.stderr)
		defer out.Close()
		err := p.serve(cmd.Context(), out, load)
		if err != nil {
			report(out.Stderr, err)
			return errReported
		}
		return nil
	}
	return cmd
}

func (p process) serve(ctx context.Context, out *output.Output, load server.Loader) error {
	hangUps := takeSignals(out)
	cfg, warnings, err := load()
	if err != nil {
		return err
	}
	log, err := out.StartLog(p.stdout, cfg.Log.Format, cfg.Log.Level)
	if err != nil {
		return err
	}
	for _, text := range warnings {
		log.Warn("settings", "warning", text)
	}
	defer server.PrepareProcess(cfg, log)()
	s, err := server.Open(ctx, server.Options{
		Config: cfg, Load: load, HangUps: hangUps, Logger: log, Output: out, Version: version(), Terminal: isTerminal(p.stderr),
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		log.Info("stopped before it served", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	announce := func(l server.Listening) error { return showListening(out.Stderr, l) }
	return errors.Join(s.Run(ctx, announce), s.Close())
}

// takeSignals takes the signals of a service besides those that end it, which Main
// takes. SIGPIPE is ignored, so that writing to a stream without a reader is an error.
// SIGQUIT shows what the goroutines do. It returns the channel of SIGHUP, which has room
// for one: all that come during a start or a reload are one more reload.
func takeSignals(out *output.Output) (hangUps <-chan os.Signal) {
	signal.Ignore(syscall.SIGPIPE)
	stdlog.SetOutput(out.Stderr) // what libraries say must not wait for a reader either
	quits := make(chan os.Signal, 1)
	signal.Notify(quits, syscall.SIGQUIT)
	go func() {
		for range quits {
			out.ShowGoroutines()
		}
	}()
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)
	return hups
}

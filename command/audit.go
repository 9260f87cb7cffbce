package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/csr/audit"
	"attestcsr/server"
)

func (p process) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Check the audit trail", Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}
	verify := &cobra.Command{
		Use:   "verify [DIRECTORY...]",
		Short: "Say whether the audit trail is whole, and where it is not: exit status 0 or 1",
		Long: "Reads the audit trail in data_dir, and files that were moved to the given directories.\n" +
			"Checks it against the sealing keyset and the store, and finds lines that were edited,\n" +
			"removed, added, put in another order or cut off. The service may run meanwhile.\n" +
			"Whoever has the keyset can forge the trail: keep copies of the trail elsewhere.",
	}
	load := p.settings(verify)
	verify.RunE = func(cmd *cobra.Command, dirs []string) error {
		cfg, warnings, err := load()
		if err != nil {
			return err
		}
		warn(p.stderr, warnings)
		streams, err := server.VerifyTrail(cmd.Context(), cfg, dirs)
		if err != nil {
			return err
		}
		problems := 0
		for _, s := range streams {
			if err := writeSummary(p.stdout, s); err != nil {
				return err
			}
			problems += len(s.Problems)
		}
		if problems > 0 {
			return errors.New("the audit trail is not what the service wrote: keep the files as they are and find out who changed them")
		}
		return nil
	}
	cmd.AddCommand(verify)
	return cmd
}

func writeSummary(w io.Writer, s audit.Summary) error {
	for _, problem := range s.Problems {
		if _, err := fmt.Fprintln(w, problem); err != nil {
			return err
		}
	}
	verdict := "whole"
	if len(s.Problems) > 0 {
		verdict = "damaged; this is what could be verified"
	}
	text := fmt.Sprintf("%s: %d lines in %d files", s.Stream, s.Lines, s.Files)
	if s.Lines > 0 {
		text += fmt.Sprintf(", sequence %d to %d, %s to %s", s.First, s.Last, s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", text, verdict)
	return err
}

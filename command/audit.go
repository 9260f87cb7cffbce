package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/control"
)

// errTrail is the end of a verification that has found a problem.
var errTrail = errors.New("the audit trail is not what the service wrote: keep the files as they are and find out who changed them; " +
	"if a restore explains it, attestcsr audit accept --reason TEXT")

func (p process) auditCommand() *cobra.Command {
	return group("audit", "Check the audit trail", p.verifyCommand(), p.checkpointCommand(), p.acceptCommand())
}

func (p process) verifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [DIRECTORY...]",
		Short: "Say whether the audit trail is whole, and where it is not: exit status 0 or 1",
		Long: "Reads the audit trail in data_dir, and files that were moved to the given directories.\n" +
			"Checks it against the sealing keyset and the store, and finds lines that were edited,\n" +
			"removed, added, put in another order or cut off, and records that no line explains.\n" +
			"The service may run meanwhile.\n\n" +
			"With --checkpoint and --public-key it checks the files against what \"audit checkpoint\"\n" +
			"printed earlier, without keyset and store: on any machine that has the files.",
		Example: "  attestcsr audit verify\n  attestcsr audit verify /archive/audit --checkpoint checkpoint --public-key checkpoint.pem",
	}
	checkpoint := cmd.Flags().String("checkpoint", "", "check only that the files go on from this checkpoint: a file with what \"audit checkpoint\" printed")
	public := cmd.Flags().String("public-key", "", "what \"audit checkpoint --public-key\" printed: a file, kept where nobody of this machine can change it")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, dirs []string) error {
		if (*checkpoint == "") != (*public == "") {
			return usage(cmd, errors.New("--checkpoint and --public-key go together"))
		}
		if *checkpoint != "" {
			found, err := server.VerifyCheckpoint(cfg, dirs, *checkpoint, *public)
			if err == nil {
				_, err = fmt.Fprintln(p.stdout, found)
			}
			return err
		}
		streams, err := server.VerifyTrail(ctx, cfg, p.log(), dirs)
		if err != nil {
			return err
		}
		problems := 0
		for _, s := range streams {
			problems += len(s.Problems) + s.More
			if _, err := fmt.Fprint(p.stdout, s); err != nil {
				return err
			}
		}
		if problems > 0 {
			return errTrail
		}
		return nil
	})
}

func (p process) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print a signed line that says how far the audit trail has got",
		Long: "Prints the number and time of the newest line, and a digest over all lines, with a\n" +
			"signature. Keep it on another machine. \"audit verify --checkpoint\" finds there whether\n" +
			"the trail still goes on from that line: also when store, trail and keyset were all put\n" +
			"back to an earlier day.",
		Example: "  attestcsr audit checkpoint > checkpoint\n  attestcsr audit checkpoint --public-key > checkpoint.pem",
		Args:    usageArgs(cobra.NoArgs),
	}
	public := cmd.Flags().Bool("public-key", false, "print the public key of the signatures instead (PEM)")
	return p.withOperations(cmd, func(ctx context.Context, o control.Operations) error {
		ask := o.Checkpoint
		if *public {
			ask = o.CheckpointKey
		}
		text, err := ask(ctx)
		if err != nil {
			return err
		}
		return p.printText(text)
	})
}

func (p process) acceptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "accept --reason TEXT",
		Short: "Record why the audit trail and the store do not fit each other, and begin from here",
		Long: "For the day of a restore. Writes a line with your reason, your user and what does not\n" +
			"fit, and goes on from what the store holds now. \"audit verify\" shows the line from then\n" +
			"on and ends with 0. Run \"audit verify\" first, and keep what it prints.",
		Example: "  attestcsr audit accept --reason 'restored the backup of Monday'",
		Args:    usageArgs(cobra.NoArgs),
	}
	reason := cmd.Flags().String("reason", "", "why it is right that they do not fit: up to 1,000 characters")
	return p.withOperations(cmd, func(ctx context.Context, o control.Operations) error {
		if *reason == "" {
			return usage(cmd, errors.New("--reason is needed"))
		}
		accepted, err := o.Accept(ctx, *reason)
		if err != nil {
			return err
		}
		for _, problem := range accepted.Problems {
			if err := p.printText(problem); err != nil {
				return err
			}
		}
		_, err = fmt.Fprintf(p.stderr, "accepted: %d problems; the trail goes on from the %d records that the store holds now\n", len(accepted.Problems)+accepted.More, accepted.Records)
		if err == nil && accepted.Unreadable > 0 {
			err = fmt.Errorf("%d records are still unreadable: attestcsr store check names them; delete them", accepted.Unreadable)
		}
		return err
	})
}

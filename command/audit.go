package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

func (p process) auditCommand() *cobra.Command {
	verify := &cobra.Command{
		Use:   "verify [DIRECTORY...]",
		Short: "Say whether the audit trail is whole, and where it is not: exit status 0 or 1",
		Long: "Reads the audit trail in data_dir, and files that were moved to the given directories.\n" +
			"Checks it against the sealing keyset and the store, and finds lines that were edited,\n" +
			"removed, added, put in another order or cut off. The service may run meanwhile.\n" +
			"Whoever has the keyset can forge the trail: keep copies of the trail elsewhere.",
	}
	p.withSettings(verify, func(ctx context.Context, cfg *config.Config, dirs []string) error {
		streams, err := server.VerifyTrail(ctx, cfg, dirs)
		if err != nil {
			return err
		}
		problems := 0
		for _, s := range streams {
			problems += len(s.Problems)
			if _, err := fmt.Fprint(p.stdout, s); err != nil {
				return err
			}
		}
		if problems > 0 {
			return errors.New("the audit trail is not what the service wrote: keep the files as they are and find out who changed them")
		}
		return nil
	})
	return group("audit", "Check the audit trail", verify)
}

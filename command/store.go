package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

func (p process) storeCommand() *cobra.Command {
	discard := &cobra.Command{
		Use:   "discard-keys",
		Short: "Give up every key and certificate, and begin anew at the next start",
		Long: "Removes the store and the sealing keyset from data_dir, for the case that the keyset is\n" +
			"lost or damaged. Every private key, CSR and certificate of this service is gone then.\n" +
			"A keyset that sealing.keyset_file names is left alone. Users and passwords stay, and so do\n" +
			"the files of the audit trail, which nobody can verify then: verify and archive them first.",
		Args: usageArgs(cobra.NoArgs),
	}
	yes := discard.Flags().Bool("yes", false, "do not ask")
	p.withSettings(discard, func(_ context.Context, cfg *config.Config, _ []string) error {
		discarded, err := server.DiscardKeys(cfg, func() (bool, error) {
			if *yes {
				return true, nil
			}
			return confirm(p.stdin, p.stderr, "every private key, CSR and certificate in "+cfg.DataDir+" will be lost for good", "discard")
		})
		if err != nil {
			return err
		}
		if !discarded {
			return errors.New("nothing was discarded")
		}
		_, err = fmt.Fprintln(p.stderr, "discarded: the next start makes new keys and a new certificate")
		return err
	})
	return group("store", "Maintain the store", discard)
}

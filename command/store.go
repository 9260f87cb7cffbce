package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

func (p process) storeCommand() *cobra.Command {
	return group("store", "Check and maintain the store", p.checkStoreCommand(), p.compactCommand(), p.discardCommand())
}

func (p process) checkStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Open every record and its key, and check the audit trail: exit status 0 or 1",
		Long: "Says whether every record was written by this service, its key opens and is that of\n" +
			"its CSR or certificate, indexes and counts agree, and the audit trail explains what is\n" +
			"there. It changes nothing. The service may run meanwhile.",
		Example: "  attestcsr store check --output json",
		Args:    usageArgs(cobra.NoArgs),
	}
	output := cmd.Flags().String("output", "text", "text or json")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		if *output != "text" && *output != "json" {
			return usage(cmd, fmt.Errorf("--output is text or json, not %q", *output))
		}
		found, err := server.CheckStore(ctx, cfg, p.log())
		if err != nil {
			return err
		}
		if *output == "json" {
			var text []byte
			if text, err = json.Marshal(found); err == nil {
				err = p.printText(string(text))
			}
		} else {
			err = showStoreCheck(p.stdout, found)
		}
		if err == nil && !found.OK {
			err = errors.New("the store or its audit trail is not whole: keep a copy of data_dir as it is, then restore a backup")
		}
		return err
	})
}

func (p process) compactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Write the store anew without its free pages, while the service is stopped",
		Long: "Free pages of the store still have what was in them before: encrypted keys that were\n" +
			"replaced, and those that were sealed with a key that is retired. Needs as much room as\n" +
			"the store takes.",
		Args: usageArgs(cobra.NoArgs),
	}
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		if err := server.CompactStore(ctx, cfg, p.log()); err != nil {
			return err
		}
		_, err := fmt.Fprintln(p.stderr, "the store is compacted")
		return err
	})
}

func (p process) discardCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "discard-keys",
		Short: "Give up every key and certificate, and begin anew at the next start",
		Long: "Removes the store and the sealing keyset from data_dir, for the case that the keyset is\n" +
			"lost or damaged. Every private key, CSR and certificate of this service is gone then.\n" +
			"A keyset that sealing.keyset_file names is left alone. Users and passwords stay, and so do\n" +
			"the files of the audit trail, which nobody can verify then: verify and archive them first.",
		Args: usageArgs(cobra.NoArgs),
	}
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		discarded, err := server.DiscardKeys(ctx, cfg, p.log(), func() (bool, error) {
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
}

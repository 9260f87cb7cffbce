package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/control"
)

func (p process) keysetCommand() *cobra.Command {
	status := &cobra.Command{Use: "status", Short: "Show the keys of the sealing keyset, and what waits to be re-sealed", Args: usageArgs(cobra.NoArgs)}
	p.withOperations(status, p.keyset(control.Operations.KeysetStatus))
	return group("keyset", "Make, rotate and retire the keys that seal private keys", status, p.createKeysetCommand(), p.rotateKeysetCommand(), p.retireKeysCommand())
}

// keyset asks for an operation and prints the state of the keyset after it.
func (p process) keyset(ask func(control.Operations, context.Context) (control.KeysetStatus, error)) func(context.Context, control.Operations) error {
	return func(ctx context.Context, o control.Operations) error {
		status, err := ask(o, ctx)
		if err != nil {
			return err
		}
		return showKeyset(p.stdout, status)
	}
}

func (p process) createKeysetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make the sealing keyset, before the first start",
		Long: "Writes a new keyset to sealing.keyset_file, or with --out to another file, for a Secret\n" +
			"or a credential. The first start makes one by itself where it can write the file.",
		Example: "  attestcsr keyset create --out sealing-keyset.json",
		Args:    usageArgs(cobra.NoArgs),
	}
	out := cmd.Flags().String("out", "", "write the keyset to this new file")
	return p.withSettings(cmd, func(_ context.Context, cfg *config.Config, _ []string) error {
		file, err := server.CreateKeyset(cfg, *out)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stderr, "a new keyset is in %s: keep a copy where no backup of the store is\n", file)
		return err
	})
}

func (p process) rotateKeysetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Add a new primary key to the sealing keyset",
		Long: "Everything new is sealed with the new key. A running service re-seals the records that\n" +
			"are there meanwhile: \"keyset status\" shows how many wait. Where the service cannot write\n" +
			"the keyset, --out writes the new one to a file: put it in place of the old one, and the\n" +
			"service takes it up.",
		Example: "  attestcsr keyset rotate",
		Args:    usageArgs(cobra.NoArgs),
	}
	out := cmd.Flags().String("out", "", "write the new keyset to this new file, and leave the one in use alone")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		if *out != "" {
			if err := server.RotateKeysetTo(cfg, *out); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.stderr, "the new keyset is in %s: put it in place of the old one, then attestcsr keyset status\n", *out)
			return err
		}
		return p.operate(ctx, cfg, p.keyset(control.Operations.RotateKeyset))
	})
}

func (p process) retireKeysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retire",
		Short: "Remove every key but the primary one from the sealing keyset",
		Long: "Makes sure that no record needs an older key, and removes these keys from the keyset:\n" +
			"a backup of the store that was made before opens only with the keyset of its time.\n" +
			"What was killed half-way goes on at the next start. Where the service cannot write\n" +
			"the keyset, --out writes the new one to a file: put it in place of the old one, and the\n" +
			"service takes it up.",
		Example: "  attestcsr keyset retire",
		Args:    usageArgs(cobra.NoArgs),
	}
	out := cmd.Flags().String("out", "", "write the new keyset to this new file, and leave the one in use alone")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		ask := p.keyset(control.Operations.RetireKeys)
		if *out != "" {
			ask = func(ctx context.Context, o control.Operations) error {
				status, err := o.KeysetStatus(ctx)
				if err == nil {
					err = server.RetireKeysTo(cfg, status, *out)
				}
				if err == nil {
					_, err = fmt.Fprintf(p.stderr, "the new keyset is in %s: put it in place of the old one, then attestcsr keyset status\n", *out)
				}
				return err
			}
		}
		return p.operate(ctx, cfg, ask)
	})
}

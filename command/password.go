package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
)

func (p process) hashPasswordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash-password",
		Short: "Print the bcrypt hash of a password, for auth.users_file",
		Long: "Reads a password from standard input, or asks for it without echo on a terminal,\n" +
			"and prints its bcrypt hash. A line of auth.users_file is USER:HASH.",
		Example: "  attestcsr hash-password\n  attestcsr hash-password < password-file",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			secret, err := p.askPassword(cmd.Context())
			if err != nil {
				return err
			}
			hash, warning, err := server.HashPassword(secret)
			if err != nil {
				return err
			}
			if warning != "" {
				warn(p.stderr, []string{warning})
			}
			_, err = fmt.Fprintln(p.stdout, hash)
			return err
		},
	}
}

func (p process) resetPasswordCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset-password",
		Short: "Give the built-in admin a new random password",
		Long: "Gives the built-in admin a new random password, which is printed on a terminal and\n" +
			"otherwise written to data_dir/" + server.InitialPasswordFile + ". A running server takes it over at once\n" +
			"and ends the admin's sessions.",
		Example: "  attestcsr reset-password --data-dir /var/lib/attestcsr",
		Args:    usageArgs(cobra.NoArgs),
	}
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		known, err := server.ResetPassword(ctx, cfg, p.log(), isTerminal(p.stderr))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stderr, "new password of %s: %s\n", server.AdminName, whereIs(known))
		return err
	})
}

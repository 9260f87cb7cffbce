package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/config"
)

// release is set by the linker in release builds.
var release string

func version() string {
	if release != "" {
		return release
	}
	revision := "unknown revision"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				revision = s.Value[:12]
			}
		}
	}
	return "development (" + revision + ")"
}

func (p process) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, "attestcsr "+version())
			return err
		},
	}
}

// settings gives a command the flags of every setting and returns what loads
// and checks them all, before anything is opened.
func (p process) settings(cmd *cobra.Command) func() (*config.Config, []string, error) {
	config.AddFlags(cmd.Flags())
	return func() (*config.Config, []string, error) {
		cfg, warnings, err := config.Load(config.Source{Env: p.env, Flags: cmd.Flags(), Privileges: privilegeNames()})
		if err != nil {
			return nil, nil, err
		}
		more, err := checkSettings(cfg)
		return cfg, append(warnings, more...), err
	}
}

func (p process) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check or show the settings", Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}

	check := &cobra.Command{Use: "check", Short: "Say what is wrong with the settings, and where", Args: usageArgs(cobra.NoArgs)}
	loadChecked := p.settings(check)
	check.RunE = func(*cobra.Command, []string) error {
		_, warnings, err := loadChecked()
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.stdout, "the settings are good")
		return err
	}

	show := &cobra.Command{Use: "show", Short: "Print the settings in force and where each comes from", Args: usageArgs(cobra.NoArgs)}
	loadShown := p.settings(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, warnings, err := loadShown()
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		return cfg.Show(p.stdout)
	}
	cmd.AddCommand(check, show)
	return cmd
}

func (p process) hashPasswordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash-password",
		Short: "Print the bcrypt hash of a password, for auth.users_file",
		Long: "Reads a password from standard input, or asks for it without echo on a terminal,\n" +
			"and prints its bcrypt hash. A line of auth.users_file is USER:HASH.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			secret, err := p.askPassword()
			if err != nil {
				return err
			}
			hash, err := hashPassword(secret)
			if err != nil {
				return err
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
			"otherwise written to data_dir/" + initialPasswordFile + ". A running server takes it over at once\n" +
			"and ends the admin's sessions.",
		Args: usageArgs(cobra.NoArgs),
	}
	load := p.settings(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		cfg, warnings, err := load()
		if err != nil {
			return err
		}
		warn(p.stderr, warnings)
		known, err := resetPassword(cfg, isTerminal(p.stderr))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stderr, "new password of %s: %s\n", adminName, whereIs(known))
		return err
	}
	return cmd
}

func (p process) storeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Maintain the store", Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}
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
	load := p.settings(discard)
	discard.RunE = func(*cobra.Command, []string) error {
		cfg, warnings, err := load()
		if err != nil {
			return err
		}
		warn(p.stderr, warnings)
		discarded, err := discardKeys(cfg, func() (bool, error) {
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
	}
	cmd.AddCommand(discard)
	return cmd
}

func (p process) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running service whether it is ready: exit status 0 or 1",
		Long: "Calls /readyz of the service that runs with the same settings on this machine, and\n" +
			"trusts exactly the certificate in the service's own certificate file.",
		Args: usageArgs(cobra.NoArgs),
	}
	wait := cmd.Flags().Duration("wait", 0, "keep asking for so long until the service is ready")
	load := p.settings(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, _, err := load()
		if err != nil {
			return err
		}
		deadline := time.Now().Add(*wait)
		for {
			err := checkHealth(cmd.Context(), cfg)
			if err == nil || time.Now().After(deadline) {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return err
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return cmd
}

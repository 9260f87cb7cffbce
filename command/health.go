package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/serving"
)

func (p process) healthcheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the running service whether it is ready: exit status 0 or 1",
		Long: "Calls /readyz of the service that runs on this machine with the same data_dir, and\n" +
			"believes only that service. The service leaves its address and its certificate in\n" +
			"data_dir/" + serving.File + ": of the settings, data_dir alone counts. Without --data-dir the\n" +
			"command also looks in the data_dir of process 1, where that is attestcsr, as in a container.",
		Example: "  attestcsr healthcheck --wait 2m",
		Args:    usageArgs(cobra.NoArgs),
	}
	wait := cmd.Flags().Duration("wait", 0, "keep asking for so long until the service is ready")
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		folders, err := p.serviceFolders(cmd.Flags())
		if err != nil {
			return err
		}
		deadline := time.Now().Add(*wait)
		for {
			err := p.checkHealth(cmd.Context(), folders)
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

// checkHealth looks for a service that is ready in one folder after the other.
func (p process) checkHealth(ctx context.Context, folders []string) error {
	var errs []error
	for _, folder := range folders {
		ready, err := serving.Check(ctx, folder)
		if err == nil {
			return p.printText(fmt.Sprintf("ready: data_dir %s, address https://%s, public key %s, certificate %s",
				folder, ready.Address, ready.Fingerprints.PublicKey, ready.Fingerprints.Certificate))
		}
		errs = append(errs, fmt.Errorf("data_dir %s: %w", folder, err))
	}
	return errors.Join(errs...)
}

// serviceFolders returns where a service may have left its address: in the data_dir of
// our own settings, and, unless a flag names that, in the data_dir of process 1. That
// one comes first where our own settings have none: in a container, what was given to
// serve as a flag is not given to us.
func (p process) serviceFolders(flags *pflag.FlagSet) ([]string, error) {
	own, err := p.readSettings(flags)
	if err != nil {
		return nil, err
	}
	folders := []string{own.DataDir}
	if flags.Changed("data-dir") {
		return folders, nil
	}
	text, err := os.ReadFile("/proc/1/cmdline")
	if err != nil {
		return folders, nil //nolint:nilerr // it is another user's secret, and our own settings are enough
	}
	args := strings.Split(string(text), "\x00")
	at := slices.IndexFunc(args, func(arg string) bool { return filepath.Base(arg) == "attestcsr" }) // an init may come before it
	if at < 0 {
		return folders, nil
	}
	theirs := pflag.NewFlagSet("process 1", pflag.ContinueOnError)
	theirs.ParseErrorsAllowlist.UnknownFlags = true
	config.AddFlags(theirs)
	if err := theirs.Parse(args[at+1:]); err != nil {
		return nil, fmt.Errorf("command line of process 1: %w", err)
	}
	main, err := p.readSettings(theirs)
	switch {
	case err != nil:
		return nil, fmt.Errorf("command line of process 1: %w", err)
	case main.DataDir == own.DataDir:
	case own.IsDefault("data_dir"):
		folders = []string{main.DataDir}
	default:
		folders = append(folders, main.DataDir)
	}
	return folders, nil
}

// readSettings loads settings without a look at the files that they name.
func (p process) readSettings(flags *pflag.FlagSet) (*config.Config, error) {
	cfg, _, err := config.Load(config.Source{Env: p.env, Others: otherVariables(), Flags: flags, Privileges: server.PrivilegeNames(), SystemHostname: os.Hostname})
	return cfg, err
}

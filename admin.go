package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
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

// checkSettings checks the files that settings name, and what package config
// cannot know: whether the users file parses and has the users that are given
// privileges.
func checkSettings(cfg *config.Config) (warnings []string, err error) {
	warnings, err = cfg.CheckFiles(time.Now())
	users := []string{adminName}
	if cfg.Auth.UsersFile != "" && err == nil {
		table, err := loadUsers(cfg.Auth.UsersFile)
		if err != nil {
			return warnings, fmt.Errorf("auth.users_file: %w", err)
		}
		if users = table.Names(); len(users) == 0 {
			return warnings, fmt.Errorf("auth.users_file: %s holds no user, so that nobody could log in: add one with htpasswd -B or attestcsr hash-password", cfg.Auth.UsersFile)
		}
		if cost := table.LowestCost(); cost < auth.Cost {
			warnings = append(warnings, fmt.Sprintf("auth.users_file: %s holds bcrypt hashes of cost %d, which are quick to guess: make them anew with htpasswd -B -C %d or attestcsr hash-password",
				cfg.Auth.UsersFile, cost, auth.Cost))
		}
	}
	for _, user := range slices.Sorted(maps.Keys(cfg.Auth.Privileges)) {
		if !slices.Contains(users, user) {
			warnings = append(warnings, fmt.Sprintf("auth.privileges: there is no user %q", user))
		}
	}
	return warnings, err
}

func privilegeNames() []string {
	var names []string
	for _, p := range csr.Privileges() {
		names = append(names, string(p))
	}
	return names
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
			hash, err := auth.Hash(secret)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, hash)
			return err
		},
	}
}

// askPassword reads one line, without echo where stdin is a terminal.
func (p process) askPassword() (string, error) {
	if f, ok := p.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if _, err := fmt.Fprint(p.stderr, "password: "); err != nil {
			return "", err
		}
		secret, err := term.ReadPassword(int(f.Fd()))
		if _, printErr := fmt.Fprintln(p.stderr); err == nil {
			err = printErr
		}
		return string(secret), err
	}
	line, err := bufio.NewReader(io.LimitReader(p.stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
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
		switch {
		case cfg.Auth.UsersFile != "":
			return fmt.Errorf("there is no built-in admin, since auth.users_file is set: change the user's line in %s (attestcsr hash-password makes the hash)", cfg.Auth.UsersFile)
		case cfg.AdminPasswordFile != "":
			return fmt.Errorf("admin_password_file decides the password: change %s and restart the service", cfg.AdminPasswordFile)
		}
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
		known, err := resetAdmin(cfg.DataDir, isTerminal(p.stderr))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stderr, "new password of %s: %s\n", adminName, known.sentence())
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
		return p.discardKeys(cfg, *yes)
	}
	cmd.AddCommand(discard)
	return cmd
}

// discardKeys removes the store first: after a crash in between, the next start
// makes a new store under the old keyset.
func (p process) discardKeys(cfg *config.Config, yes bool) error {
	path := filepath.Join(cfg.DataDir, storeFile)
	// A store that cannot be opened may be discarded, one in use may not.
	store, err := bolt.Open(path, bolt.Options{})
	if err == nil {
		err = store.Close()
	}
	if errors.Is(err, bolt.ErrLocked) {
		return err
	}
	if !yes {
		sure, err := confirm(p.stdin, p.stderr, "every private key, CSR and certificate in "+cfg.DataDir+" will be lost for good", "discard")
		if err != nil {
			return err
		}
		if !sure {
			return errors.New("nothing was discarded")
		}
	}
	for _, file := range []string{path, filepath.Join(cfg.DataDir, keysetFile)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := ownfile.SyncDir(cfg.DataDir); err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stderr, "discarded: the next start makes new keys and a new certificate")
	return err
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
			err := healthcheck(cmd.Context(), cfg)
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

func healthcheck(ctx context.Context, cfg *config.Config) error {
	address := cfg.OpsListen
	if address == "" {
		address = cfg.Listen
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	certFile, _, _ := certFiles(cfg)
	tlsConfig, err := pinnedTo(certFile)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}

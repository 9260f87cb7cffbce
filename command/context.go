package command

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"attestcsr/handler/client"
)

func (p process) contextCommand() *cobra.Command {
	return group("context", "Keep connections to servers under names", p.addContextCommand(), p.useContextCommand(), p.listContextsCommand(), p.removeContextCommand())
}

// changeContexts reads the contexts, lets change edit them, and writes them.
func (p process) changeContexts(change func(*contexts) error) error {
	all, err := p.readContexts()
	if err != nil {
		return err
	}
	if all.Contexts == nil {
		all.Contexts = map[string]namedContext{}
	}
	if err := change(&all); err != nil {
		return err
	}
	path, err := p.contextsFile()
	if err != nil {
		return err
	}
	return writeOwn(path, all)
}

func (p process) addContextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Keep a connection under a name",
		Long: "Keeps what is needed to reach a server, in the user's configuration folder. The first\n" +
			"context is the one that commands use. No password is kept: --password-file names its file.",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	var given namedContext
	flags := cmd.Flags()
	flags.StringVar(&given.Server, "server", "", "https://host:port of the service or the vendor's product")
	flags.StringVar(&given.CAFile, "ca-file", "", "believe servers that these CAs stand for (PEM)")
	flags.StringVar(&given.Fingerprint, "fingerprint", "", "believe the server with this public key alone: sha256:HEX, as serve prints it")
	flags.StringVar(&given.User, "user", "", "user name")
	flags.StringVar(&given.PasswordFile, "password-file", "", "file whose first line is the password")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		name := args[0]
		if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || name == "" {
			return usage(cmd, fmt.Errorf("a name of a context has letters, digits, dots, hyphens and underscores, not %q", name))
		}
		if given.CAFile != "" && given.Fingerprint != "" {
			return usage(cmd, errors.New("of --ca-file and --fingerprint, give one"))
		}
		if given.Server, err = client.ServerURL(given.Server); err != nil {
			return usage(cmd, err)
		}
		if given.Fingerprint != "" {
			if given.Fingerprint, err = client.ParseFingerprint(given.Fingerprint); err != nil {
				return usage(cmd, err)
			}
		}
		for _, file := range []*string{&given.CAFile, &given.PasswordFile} {
			if *file != "" {
				if *file, err = filepath.Abs(*file); err != nil {
					return err
				}
			}
		}
		if _, err := client.New(client.Options{Server: given.Server, CAFile: given.CAFile, Fingerprint: given.Fingerprint}); err != nil {
			return err
		}
		current := false
		err = p.changeContexts(func(all *contexts) error {
			if _, is := all.Contexts[name]; is {
				return fmt.Errorf("there is a context %q already: attestcsr context remove %s takes it away", name, name)
			}
			all.Contexts[name] = given
			if len(all.Contexts) == 1 {
				all.Current = name
			}
			current = all.Current == name
			return nil
		})
		if err == nil && current {
			_, err = fmt.Fprintf(p.stderr, "commands use %s from now on\n", name)
		} else if err == nil {
			_, err = fmt.Fprintf(p.stderr, "kept: attestcsr context use %s makes commands use it\n", name)
		}
		return err
	}
	return cmd
}

func (p process) useContextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use NAME",
		Short: "Make commands use a context from now on",
		Args:  usageArgs(cobra.ExactArgs(1)),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if _, err := p.findContext(args[0]); err != nil {
			return err
		}
		return p.changeContexts(func(all *contexts) error { all.Current = args[0]; return nil })
	}
	return cmd
}

func (p process) removeContextCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Forget a context",
		Args:  usageArgs(cobra.ExactArgs(1)),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if _, err := p.findContext(args[0]); err != nil {
			return err
		}
		return p.changeContexts(func(all *contexts) error {
			delete(all.Contexts, args[0])
			if all.Current == args[0] {
				all.Current = ""
			}
			return nil
		})
	}
	return cmd
}

func (p process) listContextsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the contexts; commands use the one with the star",
		Args:  usageArgs(cobra.NoArgs),
	}
	output := cmd.Flags().String("output", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		all, err := p.readContexts()
		if err != nil {
			return err
		}
		var lines []row
		for _, name := range slices.Sorted(maps.Keys(all.Contexts)) {
			each, star := all.Contexts[name], " "
			if name == all.Current {
				star = "*"
			}
			value := each.Server
			if each.User != "" {
				value += " as " + each.User
			}
			lines = append(lines, row{star + " " + name, value})
		}
		c := connection{process: p, output: *output, wrong: func(err error) error { return usage(cmd, err) }}
		if all.Contexts == nil {
			all.Contexts = map[string]namedContext{}
		}
		return c.print(rows(lines...), all, "")
	}
	return cmd
}

package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/control"
)

// newPasswordVariable may hold a new password.
const newPasswordVariable = "ATTESTCSR_NEW_PASSWORD" //nolint:gosec // a name

func (p process) userCommand() *cobra.Command {
	return group("user", "Say who may log in, and what they may do",
		p.listUsersCommand(), p.addUserCommand(), p.removeUserCommand(), p.userPasswordCommand(),
		p.privilegesCommand(control.Grant, "grant", "Give a user privileges",
			"Gives a user privileges beside those that the user has. They are kept in\ndata_dir/"+server.PrivilegesFile+", where an entry replaces that of auth.privileges."),
		p.privilegesCommand(control.Revoke, "revoke", "Take privileges away from a user",
			"Takes privileges away from a user, also those that auth.privileges gives. What is left is\nkept in data_dir/"+server.PrivilegesFile+", where an entry replaces that of auth.privileges."),
	)
}

func (p process) listUsersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show who may log in, and what they may do",
		Args:  usageArgs(cobra.NoArgs),
	}
	output := cmd.Flags().String("output", "text", "text or json")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		if *output != "text" && *output != "json" {
			return usage(cmd, fmt.Errorf("--output is text or json, not %.20q", *output))
		}
		users, err := server.ListUsers(ctx, cfg, p.log())
		if err != nil {
			return err
		}
		if *output == "json" {
			text, err := json.Marshal(users)
			if err != nil {
				return err
			}
			return p.printText(string(text))
		}
		return showUsers(p.stdout, users)
	})
}

func (p process) addUserCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user",
		Long: "Adds a user, who may log in at once: to auth.users_file, or where that is not set to\n" +
			"data_dir/" + server.UsersFile + ", which is read beside the built-in admin. Without --privilege the user has\n" +
			"what auth.privileges says. " + newPasswordHelp,
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	privileges := cmd.Flags().StringArray("privilege", nil, "give the user this `privilege` (may be repeated): "+strings.Join(server.PrivilegeNames(), ", "))
	file := passwordFileFlag(cmd)
	return p.changeUser(cmd, func(ctx context.Context, args []string) (c control.UserChange, err error) {
		c = control.UserChange{Action: control.AddUser, Name: args[0], Privileges: *privileges}
		c.Hash, err = p.newPasswordHash(ctx, *file)
		return c, err
	})
}

func (p process) userPasswordCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "password NAME",
		Short: "Give a user another password",
		Long: "Gives a user another password, and ends the user's sessions. " + newPasswordHelp + "\n" +
			"attestcsr reset-password gives the built-in admin a random one.",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	file := passwordFileFlag(cmd)
	return p.changeUser(cmd, func(ctx context.Context, args []string) (c control.UserChange, err error) {
		c = control.UserChange{Action: control.SetPassword, Name: args[0]}
		c.Hash, err = p.newPasswordHash(ctx, *file)
		return c, err
	})
}

func (p process) removeUserCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a user",
		Long: "Removes a user with all privileges, and ends the user's sessions. What the user has made\n" +
			"stays, and so does an entry in auth.privileges.",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	return p.changeUser(cmd, func(_ context.Context, args []string) (control.UserChange, error) {
		return control.UserChange{Action: control.RemoveUser, Name: args[0]}, nil
	})
}

func (p process) privilegesCommand(action control.UserAction, use, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use + " NAME PRIVILEGE…",
		Short: short,
		Long:  long + "\nPrivileges: " + strings.Join(server.PrivilegeNames(), ", "),
		Args:  usageArgs(cobra.MinimumNArgs(2)),
	}
	return p.changeUser(cmd, func(_ context.Context, args []string) (control.UserChange, error) {
		return control.UserChange{Action: action, Name: args[0], Privileges: args[1:]}, nil
	})
}

// changeUser gives a command the change that it makes of its arguments.
func (p process) changeUser(cmd *cobra.Command, change func(ctx context.Context, args []string) (control.UserChange, error)) *cobra.Command {
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, args []string) error {
		c, err := change(ctx, args)
		if err != nil {
			return err
		}
		return p.operate(ctx, cfg, func(ctx context.Context, o control.Operations) error {
			user, err := o.ChangeUser(ctx, c)
			if err != nil {
				return err
			}
			return showUserChange(p.stderr, c.Action, user)
		})
	})
}

const newPasswordHelp = "The password comes from --password-file,\nfrom $" + newPasswordVariable + ", or from a question on a terminal."

func passwordFileFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("password-file", "", "read the new password from the first line of this `file`")
}

// newPasswordHash returns the hash of a new password. Only the hash leaves this process.
func (p process) newPasswordHash(ctx context.Context, file string) (string, error) {
	secret, err := p.newPassword(ctx, file)
	if err != nil {
		return "", err
	}
	hash, warning, err := server.HashPassword(secret)
	if warning != "" {
		warn(p.stderr, []string{warning})
	}
	return hash, err
}

// newPassword finds the new password in a file, in the environment, or asks for it twice.
func (p process) newPassword(ctx context.Context, file string) (string, error) {
	if file != "" {
		return readPasswordFile(file)
	}
	if secret := p.getenv(newPasswordVariable); secret != "" {
		return secret, nil
	}
	if !isTerminal(p.stdin) {
		return "", fmt.Errorf("there is no terminal to ask for the password on: use --password-file or $%s", newPasswordVariable)
	}
	secret, err := p.askNewPassword(ctx, "new ")
	if err != nil {
		return "", err
	}
	again, err := p.askNewPassword(ctx, "again, the ")
	if err == nil && again != secret {
		err = errors.New("the two passwords differ: nothing was changed")
	}
	return secret, err
}

func (p process) askNewPassword(ctx context.Context, which string) (string, error) {
	if _, err := fmt.Fprint(p.stderr, which); err != nil {
		return "", err
	}
	return p.askPassword(ctx)
}

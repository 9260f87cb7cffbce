package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/handler/client"
	"attestcsr/handler/policy"
	"attestcsr/handler/transit"
	"attestcsr/handler/vapi"
)

func (p process) sessionCommand() *cobra.Command {
	return group("session", "Begin, show and end the session that commands use", p.loginCommand(), p.showSessionCommand(), p.logoutCommand())
}

// dialects are the clients that have sessions, by name.
func dialects() map[string]func(*client.Client) dialect {
	return map[string]func(*client.Client) dialect{
		"esx":     func(c *client.Client) dialect { return vapi.NewClient(c) },
		"nsx":     func(c *client.Client) dialect { return policy.NewClient(c) },
		"transit": func(c *client.Client) dialect { return transit.NewClient(c) },
	}
}

func dialectNames() []string { return slices.Sorted(maps.Keys(dialects())) }

func (p process) loginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Begin a session and keep it for the next commands",
		Long: "Asks for the password, or takes it from --password-file or " + envPassword + ", and keeps the\n" +
			"session (0600) in the user's cache folder. Commands log in by themselves when they know\n" +
			"the password. Each dialect has sessions of its own.",
		Args: usageArgs(cobra.NoArgs),
	}
	name := dialectFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		made, is := dialects()[*name]
		switch {
		case !is:
			return c.wrong(fmt.Errorf("--dialect is one of %s, not %q", strings.Join(dialectNames(), ", "), *name))
		case c.local:
			return c.wrong(errors.New("no login is needed on the service's own host: its control socket gives each command a session; name another server with --server"))
		}
		http, err := client.New(c.options)
		if err != nil {
			return err
		}
		if _, err := login(ctx, c, *name, made(http)); err != nil {
			return err
		}
		return c.say("%s is logged in to %s", c.user, http.Server())
	})
}

func dialectFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("dialect", "esx", strings.Join(dialectNames(), ", "))
}

func (p process) showSessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show whose session commands use, and since when",
		Args:  usageArgs(cobra.NoArgs),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		if !c.local {
			if _, cached := c.cache.read(c.options.Server, c.user, "esx"); !cached {
				return &statusError{statusUnauthenticated, fmt.Errorf("there is no session with %s: attestcsr session login begins one", c.options.Server)}
			}
			// What is shown is a session that is there, not one that this command makes.
			c.password = func(context.Context) (string, error) {
				return "", &statusError{statusUnauthenticated, fmt.Errorf("the session with %s has ended: attestcsr session login begins another", c.options.Server)}
			}
		}
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		info, err := esx.Session(ctx)
		if err != nil {
			return err
		}
		shown := sessionView{c.options.Server, info.User, info.Created, info.LastAccessed, c.local}
		return c.print(shown.text(), shown, "")
	})
}

// sessionView is what "session show" shows.
type sessionView struct {
	Server        string    `json:"server"`
	User          string    `json:"user"`
	Created       time.Time `json:"created_time"`
	LastAccessed  time.Time `json:"last_accessed_time"`
	ControlSocket bool      `json:"control_socket"`
}

func (v sessionView) text() string {
	how := "with a password"
	if v.ControlSocket {
		how = "by the control socket, for this command alone"
	}
	return rows(
		row{"server", v.Server}, row{"user", v.User}, row{"begun", moment(v.Created) + ", " + how}, row{"last used", moment(v.LastAccessed)},
	)
}

func (p process) logoutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logout",
		Short: "End the sessions with a server that are kept",
		Args:  usageArgs(cobra.NoArgs),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		if c.local {
			return c.wrong(errors.New("sessions of the control socket end with their command: name another server with --server"))
		}
		http, err := client.New(c.options)
		if err != nil {
			return err
		}
		ended := 0
		for _, name := range dialectNames() {
			session, cached := c.cache.read(c.options.Server, c.user, name)
			// The file goes first: whatever the server says, no command uses it again.
			if err := c.cache.remove(c.options.Server, c.user, name); err != nil {
				return err
			}
			if !cached {
				continue
			}
			d := dialects()[name](http)
			d.Use(session, nil)
			if err := d.Logout(ctx); err != nil && client.Status(err) != 401 {
				return fmt.Errorf("the session is forgotten here, and the server may still know it: %w", err)
			}
			ended++
		}
		if ended == 0 {
			return c.say("there was no session with %s", http.Server())
		}
		return c.say("%s is logged out of %s", c.user, http.Server())
	})
}

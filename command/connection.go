package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/config"
	"attestcsr/handler/client"
	"attestcsr/handler/vapi"
	"attestcsr/server/control"
)

// requestTimeout has room for the wait for a key of the largest size.
const requestTimeout = 3 * time.Minute

// What the environment may say of a server. No setting has these names.
const (
	envServer      = "ATTESTCSR_SERVER"
	envCAFile      = "ATTESTCSR_CA_FILE"
	envFingerprint = "ATTESTCSR_FINGERPRINT"
	envUser        = "ATTESTCSR_USER"
	envPassword    = "ATTESTCSR_PASSWORD" //nolint:gosec // the name, not the password
	envContext     = "ATTESTCSR_CONTEXT"
)

// otherVariables are no settings, and no reason to warn of them.
func otherVariables() []string {
	return []string{envServer, envCAFile, envFingerprint, envUser, envPassword, envContext, newPasswordVariable}
}

// statusError ends the command with an exit status of the documented list.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// The exit statuses of client commands.
const (
	statusFailed          = 1
	statusUsage           = 2
	statusUnauthenticated = 3
	statusNotAllowed      = 4
	statusNotFound        = 5
	statusUnreachable     = 6
	statusBusy            = 7
)

// exitStatus is the exit status for an error of a command.
func exitStatus(err error) int {
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		return statusUsage
	}
	if e := (*statusError)(nil); errors.As(err, &e) {
		return e.status
	}
	switch client.Status(err) {
	case 401:
		return statusUnauthenticated
	case 403:
		return statusNotAllowed
	case 404:
		return statusNotFound
	case 429, 503:
		return statusBusy
	}
	if errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrUntrusted) {
		return statusUnreachable
	}
	return statusFailed
}

// connection is how a command reaches a server, and who it is there.
type connection struct {
	process
	output   string // text, json or pem
	wrong    func(error) error
	options  client.Options
	user     string
	password func(context.Context) (string, error)
	cache    sessionCache
	local    bool                                           // no server is named: it is the service on this host, by its control socket
	named    bool                                           // a server, or the data_dir of one, is named
	dial     func(context.Context) (*control.Client, error) // that socket
	ends     []func(context.Context) error
}

// connectionFlags are those of every client command.
type connectionFlags struct {
	server, caFile, fingerprint, user, passwordFile, context, output string
	settings                                                         *pflag.FlagSet
}

func (f *connectionFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.server, "server", "", "`https://host:port` of the service or the vendor's product [$"+envServer+"]")
	flags.StringVar(&f.caFile, "ca-file", "", "trust servers whose certificate leads to a CA in this `file` (PEM) [$"+envCAFile+"]")
	flags.StringVar(&f.fingerprint, "fingerprint", "", "trust only the server with this public key: `sha256:HEX`, as serve prints it [$"+envFingerprint+"]")
	flags.StringVar(&f.user, "user", "", "user `name` [$"+envUser+"]")
	flags.StringVar(&f.passwordFile, "password-file", "", "`file` whose first line is the password, in place of the one that the environment holds [$"+envPassword+"]")
	flags.StringVar(&f.context, "context", "", "`name` of a connection, see \"attestcsr context\" [$"+envContext+"]")
	flags.StringVar(&f.output, "output", "text", "`form` of the result: text, json or pem")
	f.settings = pflag.NewFlagSet("", pflag.ContinueOnError)
	config.AddFlags(f.settings)
	for _, name := range []string{"config", "data-dir"} {
		flags.AddFlag(f.settings.Lookup(name))
	}
}

// withServer gives a client command the flags of a connection, and calls do with it.
// Without any of them it is the service on this host, by its control socket.
func (p process) withServer(cmd *cobra.Command, do func(ctx context.Context, c *connection, args []string) error) *cobra.Command {
	var f connectionFlags
	f.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		wrong := func(err error) error { return usage(cmd, err) }
		c, err := p.connect(f, wrong)
		if err != nil {
			return err
		}
		defer func() { err = advise(errors.Join(err, c.close(cmd.Context()))) }()
		return do(cmd.Context(), c, args)
	}
	return cmd
}

// connect finds out which server is meant. It sends nothing yet.
func (p process) connect(f connectionFlags, wrong func(error) error) (*connection, error) {
	if !slices.Contains([]string{"text", "json", "pem"}, f.output) {
		return nil, wrong(fmt.Errorf("--output is text, json or pem, not %q", f.output))
	}
	c := &connection{process: p, output: f.output, wrong: wrong, cache: p.sessionCache()}
	given, err := p.given(f, wrong)
	if err != nil {
		return nil, err
	}
	if given.Server == "" {
		if f.user != "" || f.passwordFile != "" || f.caFile != "" || f.fingerprint != "" {
			return nil, wrong(errors.New("these flags need a server: give --server or --context"))
		}
		c.local, c.named = true, f.settings.Changed("data-dir")
		c.dial = func(ctx context.Context) (*control.Client, error) { return p.dialService(ctx, f) }
		return c, nil
	}
	c.named = true
	c.options = client.Options{Server: given.Server, CAFile: given.CAFile, Fingerprint: given.Fingerprint, Timeout: requestTimeout}
	if c.options.Server, err = client.ServerURL(given.Server); err != nil {
		return nil, wrong(err)
	}
	if c.options.Fingerprint != "" {
		if c.options.Fingerprint, err = client.ParseFingerprint(c.options.Fingerprint); err != nil {
			return nil, wrong(err)
		}
	}
	c.user = cmp.Or(given.User, c.cache.onlyUser(c.options.Server))
	var known string // of the question, which is asked once for sessions of two dialects
	c.password = func(ctx context.Context) (_ string, err error) {
		if known == "" {
			known, err = p.passwordFrom(ctx, f, given)
		}
		return known, err
	}
	return c, nil
}

// given puts together what flags, environment and context say. The flags beat the
// environment, and that beats the context.
func (p process) given(f connectionFlags, wrong func(error) error) (namedContext, error) {
	if count := countTrue(f.server != "", f.context != "", f.settings.Changed("data-dir")); count > 1 {
		return namedContext{}, wrong(errors.New("of --server, --context and --data-dir, give one"))
	}
	if f.caFile != "" && f.fingerprint != "" {
		return namedContext{}, wrong(errors.New("of --ca-file and --fingerprint, give one"))
	}
	var from namedContext
	switch name := cmp.Or(f.context, p.getenv(envContext)); {
	case f.settings.Changed("data-dir"):
		return namedContext{}, nil
	case f.server != "":
		from.Server = f.server
	case f.context == "" && p.getenv(envServer) != "":
		from.Server = p.getenv(envServer)
	default:
		var err error
		if from, err = p.findContext(name); err != nil {
			return namedContext{}, err
		}
	}
	// A CA and a fingerprint are two answers to one question: the stronger source decides.
	if f.caFile != "" || f.fingerprint != "" {
		from.CAFile, from.Fingerprint = f.caFile, f.fingerprint
	} else if caFile, key := p.getenv(envCAFile), p.getenv(envFingerprint); caFile != "" || key != "" {
		from.CAFile, from.Fingerprint = caFile, key
	}
	if user := cmp.Or(f.user, p.getenv(envUser)); user != "" && user != from.User {
		from.User, from.PasswordFile = user, ""
	}
	return from, nil
}

func countTrue(all ...bool) (n int) {
	for _, is := range all {
		if is {
			n++
		}
	}
	return n
}

// getenv is os.Getenv for the environment of the process.
func (p process) getenv(name string) (value string) {
	for _, pair := range p.env {
		if v, is := strings.CutPrefix(pair, name+"="); is {
			value = v
		}
	}
	return value
}

// dialService connects to the control socket of the service on this host.
func (p process) dialService(ctx context.Context, f connectionFlags) (*control.Client, error) {
	folders, err := p.serviceFolders(f.settings)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, folder := range folders {
		c, err := control.Dial(ctx, folder)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("data_dir %s: %w", folder, err))
	}
	err = fmt.Errorf("no server is named, and this host has none for this user: %w\nname one with --server https://host:port or \"attestcsr context add\", or start the service (--data-dir says where its files are)", errors.Join(errs...))
	return nil, &statusError{statusUnreachable, err}
}

// passwordFrom returns the password: that of a file or the environment, or else it asks.
func (p process) passwordFrom(ctx context.Context, f connectionFlags, given namedContext) (string, error) {
	file := f.passwordFile
	if secret := p.getenv(envPassword); file == "" && secret != "" {
		return secret, nil
	}
	if file = cmp.Or(file, given.PasswordFile); file != "" {
		return readPasswordFile(file)
	}
	if !isTerminal(p.stdin) {
		return "", &statusError{statusUnauthenticated, errors.New("no password is known: give --password-file or " + envPassword + ", or run this on a terminal")}
	}
	return p.askPassword(ctx)
}

// readPasswordFile returns the first line of a file.
func readPasswordFile(file string) (string, error) {
	text, err := readFile(file, 4096)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("password file: %s must hold the password in its first line", file)
	}
	return line, nil
}

// dialect is a client of one dialect.
type dialect interface {
	Login(ctx context.Context, user, password string) (client.Session, error)
	Use(s client.Session, renew func(context.Context) (client.Session, error))
	Logout(ctx context.Context) error
}

// esx returns a client of the ESX dialect with a session.
func (c *connection) esx(ctx context.Context) (*vapi.Client, error) {
	return open(ctx, c, "esx", vapi.NewClient)
}

// open makes a client of a dialect, with a session of the control socket, the one that is
// cached, or a new one.
func open[D dialect](ctx context.Context, c *connection, name string, made func(*client.Client) D) (d D, err error) {
	var opened control.Session
	options := c.options
	if c.local {
		socket, err := c.dial(ctx)
		if err == nil {
			opened, err = socket.OpenSession(ctx, name)
		}
		if err != nil {
			return d, err
		}
		options = client.Options{Server: opened.Server, Fingerprint: opened.Fingerprint, Timeout: requestTimeout}
	}
	http, err := client.New(options)
	if err != nil {
		return d, err
	}
	d = made(http)
	if c.local {
		c.user, c.options = opened.User, options
		d.Use(client.Session{ID: opened.Session, XSRF: opened.XSRF}, nil)
		c.ends = append(c.ends, d.Logout)
		return d, nil
	}
	renew := func(ctx context.Context) (client.Session, error) { return login(ctx, c, name, d) }
	session, cached := c.cache.read(c.options.Server, c.user, name)
	if !cached {
		if session, err = renew(ctx); err != nil {
			return d, err
		}
	}
	d.Use(session, renew)
	return d, nil
}

// login begins a session with the password, and caches it.
func login(ctx context.Context, c *connection, name string, d dialect) (s client.Session, err error) {
	if c.user == "" {
		if c.user, err = c.ask(ctx, "user"); err != nil {
			return s, err
		}
	}
	password, err := c.password(ctx)
	if err != nil {
		return s, err
	}
	s, err = d.Login(ctx, c.user, password)
	if client.Status(err) == 401 {
		return s, fmt.Errorf("user %q or the password is wrong: %w", c.user, err)
	}
	if err != nil {
		return s, err
	}
	if err := c.cache.write(c.options.Server, c.user, name, s); err != nil {
		warn(c.stderr, []string{"the session is not kept for the next command: " + err.Error()})
	}
	return s, nil
}

// close ends the sessions that the control socket has given.
func (c *connection) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, end := range c.ends {
		if err := end(ctx); err != nil && client.Status(err) != 401 && !errors.Is(err, client.ErrUnreachable) {
			return fmt.Errorf("ending the session: %w", err)
		}
	}
	return nil
}

// ask reads one line from a terminal.
func (p process) ask(ctx context.Context, what string) (string, error) {
	if !isTerminal(p.stdin) {
		return "", &statusError{statusUnauthenticated, fmt.Errorf("no %s is known: give --%s, or run this on a terminal", what, what)}
	}
	return p.prompt(ctx, what, "")
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err = readBounded(f, limit)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return text, errors.Join(err, f.Close())
}

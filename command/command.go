// Package command is what people type and read: one file for each command, and
// all terminal text in terminal.go. What a command does beside reading settings
// and printing is in package server.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Main runs the command that the process was started with, and returns the exit
// status. The first SIGTERM or SIGINT ends it in good order.
func Main() int {
	ctx, cancel := context.WithCancel(context.Background())
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ends
		// Before anything is drained: a second signal ends the process as it always would,
		// with the status 128 + its number.
		signal.Stop(ends)
		cancel()
	}()
	return run(ctx, process{
		args: os.Args[1:], env: os.Environ(),
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now,
	})
}

// process is what a command sees of the world outside.
type process struct {
	args, env      []string
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
}

// ExitStatus is an exit status of the commands, and when they end with it.
type ExitStatus struct {
	Status int
	When   string
}

// ExitStatuses are those of every command.
func ExitStatuses() []ExitStatus {
	return []ExitStatus{
		{0, "it is done"},
		{statusFailed, "it failed"},
		{statusUsage, "the command line was wrong"},
		{statusUnauthenticated, "there was no session and no password, or a wrong one"},
		{statusNotAllowed, "the user lacks a privilege"},
		{statusNotFound, "what was asked for is not there"},
		{statusUnreachable, "the server was not reached, or is not trusted"},
		{statusBusy, "the server is busy: try again later"},
	}
}

// run executes one command and returns its exit status.
func run(ctx context.Context, p process) int {
	root := p.tree()
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)

	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errReported) {
		report(p.stderr, err)
	}
	return exitStatus(err)
}

// Tree returns every command, for what is written about them.
func Tree() *cobra.Command { return process{}.tree() }

func (p process) tree() *cobra.Command {
	root := &cobra.Command{
		Use:           "attestcsr",
		Short:         "Attestation CSRs over HTTPS, in the dialects of ESX and NSX",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          needsSubcommand,
		// Ours knows how to refuse a wrong command line.
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(
		p.serveCommand(),
		p.configCommand(),
		p.hashPasswordCommand(),
		p.resetPasswordCommand(),
		p.userCommand(),
		p.storeCommand(),
		p.csrCommand(),
		p.certificateCommand(),
		p.nsxCommand(),
		p.keyCommand(),
		p.sessionCommand(),
		p.contextCommand(),
		p.keysetCommand(),
		p.auditCommand(),
		p.backupCommand(),
		p.healthcheckCommand(),
		p.completionCommand(),
		p.versionCommand(),
	)
	completeValues(root)
	root.SetFlagErrorFunc(usage)
	return root
}

// errReported is an error that the command has said by itself.
var errReported = errors.New("reported")

// usageError is a wrong command line: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func usage(cmd *cobra.Command, err error) error {
	return &usageError{fmt.Errorf("%w; %q lists what there is", err, cmd.CommandPath()+" --help")}
}

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(cmd, err)
		}
		return nil
	}
}

// group is a command that is only a group of others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: usageArgs(cobra.NoArgs), RunE: needsSubcommand}
	cmd.AddCommand(commands...)
	return cmd
}

func needsSubcommand(cmd *cobra.Command, _ []string) error {
	return usage(cmd, fmt.Errorf("%s needs a command", cmd.CommandPath()))
}

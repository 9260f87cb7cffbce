// Attestcsr issues certificate signing requests for a host's attestation signing
// certificate, keeps the private keys, and takes the certificates that the CA
// issued, in the dialects of the ESX REST API and the NSX policy API.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal drains; a second one ends the process as it always would.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, process{
		args: os.Args[1:], env: os.Environ(),
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}

// process is what a command sees of the world outside.
type process struct {
	args, env      []string
	stdin          io.Reader
	stdout, stderr io.Writer
}

// run executes one command and returns the exit status: 0 done, 1 failed, 2 the
// command line was wrong.
func run(ctx context.Context, p process) int {
	root := &cobra.Command{
		Use:           "attestcsr",
		Short:         "Attestation CSRs over HTTPS, in the dialects of ESX and NSX",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          needsSubcommand,
	}
	root.AddCommand(
		p.serveCommand(),
		p.configCommand(),
		p.hashPasswordCommand(),
		p.resetPasswordCommand(),
		p.storeCommand(),
		p.auditCommand(),
		p.healthcheckCommand(),
		p.versionCommand(),
	)
	root.SetFlagErrorFunc(usage)
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)

	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	report(p.stderr, err)
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		return 2
	}
	return 1
}

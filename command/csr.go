package command

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/console"
	"attestcsr/handler/vapi"
)

func (p process) csrCommand() *cobra.Command {
	return group("csr", "Make, read and discard the CSR of the attestation key, in the ESX dialect: of this service or the vendor's ESX",
		p.createCSRCommand(), p.getCommand("csr", "Print the pending CSR in PEM", (*vapi.Client).CSR), p.showCSRCommand(), p.deleteCSRCommand())
}

// subjectFields are the members of a spec that are names.
func subjectFields() []pkcs10.Field {
	return []pkcs10.Field{pkcs10.CommonName, pkcs10.Organization, pkcs10.OrganizationalUnit, pkcs10.Locality, pkcs10.StateOrProvince, pkcs10.Country, pkcs10.EmailAddress}
}

func (p process) createCSRCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a key and its CSR",
		Long: "Makes a new key and prints its CSR. The CSR takes the place of a pending one, whose key is\n" +
			"destroyed: the command asks before, or needs --replace. The CSR has what flags and --from\n" +
			"say, and nothing else. Without any of them the command asks on a terminal. The common name\n" +
			"is that of the host unless it is given.",
		Example: "  attestcsr csr create --cn esx-01.example.com --organization 'Example Ltd' --country US --san esx-01.example.com --out host.csr\n" +
			"  attestcsr csr create --from old.pem --replace --out host.csr",
		Args: usageArgs(cobra.NoArgs),
	}
	var subject subjectFlags
	subject.add(cmd.Flags(), subjectFields()...)
	bits := cmd.Flags().Int64("bits", 0, "size of the RSA key; 0 is the default of the server, 2048")
	replace := cmd.Flags().Bool("replace", false, "replace a pending CSR without a question")
	out := outFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		spec, err := c.createSpec(ctx, cmd, &subject, *bits)
		if err != nil {
			return err
		}
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		if err := c.mayReplace(ctx, esx, *replace); err != nil {
			return err
		}
		var csr string
		err = c.wait(ctx, "the server makes a key", func(ctx context.Context) (err error) { csr, err = esx.CreateCSR(ctx, spec); return err })
		if err != nil {
			return err
		}
		return c.putOut(*out, csr, map[string]string{"csr": csr}, "csr get")
	})
}

// createSpec puts together what flags, file and answers say.
func (c *connection) createSpec(ctx context.Context, cmd *cobra.Command, subject *subjectFlags, bits int64) (vapi.CreateSpec, error) {
	var required []pkcs10.Field
	said := subject.from != "" || subject.names != nil || bits != 0
	for _, s := range allSubjectFlags() {
		said = said || cmd.Flags().Changed(s.flag)
	}
	if !said {
		required = subjectFields()[1:] // the server knows the name of its host
		if isTerminal(c.stdin) {
			required = subjectFields()
		}
	}
	spec, err := subject.resolve(ctx, c.process, cmd, required...)
	if err != nil {
		return vapi.CreateSpec{}, err
	}
	return c.esxSpec(spec, bits), nil
}

// esxSpec is a spec in the members of the ESX dialect. It warns of what has no member.
func (c *connection) esxSpec(spec pkcs10.Spec, bits int64) vapi.CreateSpec {
	values := map[pkcs10.Field]*string{pkcs10.EmailAddress: &spec.Email}
	for _, a := range spec.Subject {
		if values[a.Type] != nil {
			warn(c.stderr, []string{fmt.Sprintf("left out: a further %s, %q: this dialect has one", a.Type, clean(a.Value))})
			continue
		}
		values[a.Type] = new(a.Value)
	}
	required := func(f pkcs10.Field) *string {
		if values[f] == nil {
			return new("")
		}
		return values[f]
	}
	made := vapi.CreateSpec{
		CommonName: values[pkcs10.CommonName], Organization: required(pkcs10.Organization), OrganizationUnit: required(pkcs10.OrganizationalUnit),
		Locality: required(pkcs10.Locality), StateOrProvince: required(pkcs10.StateOrProvince), Country: required(pkcs10.Country),
		EmailAddress: required(pkcs10.EmailAddress),
	}
	for _, name := range spec.AltNames {
		made.SubjectAltName = append(made.SubjectAltName, name.Value)
	}
	switch {
	case bits != 0:
		made.KeySize = &bits
	case spec.KeySize != nil && spec.Algorithm != pkcs10.ECDSA:
		made.KeySize = spec.KeySize
	}
	return made
}

// mayReplace says which CSR would be replaced, and asks.
func (c *connection) mayReplace(ctx context.Context, esx *vapi.Client, replace bool) error {
	_, view, err := c.pending(ctx, esx)
	if client.Status(err) == 404 {
		return nil
	}
	if err != nil {
		return err
	}
	since := ""
	if view.PendingSince != nil {
		since = ", made " + age(c.now().Sub(*view.PendingSince)) + " ago"
	}
	said := fmt.Sprintf("a CSR is pending%s: SHA-256 %s, subject %s; a new one replaces it, and its key is destroyed", since, view.SHA256, clean(view.Subject))
	if replace {
		return c.say("%s", said)
	}
	return c.confirmed(ctx, said, "--replace")
}

// pending reads and describes the pending CSR, with its age where the server says it.
func (c *connection) pending(ctx context.Context, esx *vapi.Client) (csr string, view requestView, err error) {
	if csr, err = esx.CSR(ctx); err != nil {
		return "", view, err
	}
	r, err := parseRequest([]byte(csr))
	if err != nil {
		return "", view, fmt.Errorf("the answer of the server: %w", err)
	}
	view = newRequestView(r)
	// The vendors' products do not say it, and it is no reason to fail.
	if since, err := console.NewClient(esx).PendingSince(ctx); err == nil && !since.IsZero() {
		view.PendingSince = &since
	}
	return csr, view, nil
}

// getCommand prints what an ESX server has, in PEM. of is its group of commands, and also
// the member of the JSON.
func (p process) getCommand(of, short string, read func(*vapi.Client, context.Context) (string, error)) *cobra.Command {
	cmd := &cobra.Command{Use: "get", Short: short, Args: usageArgs(cobra.NoArgs)}
	out := outFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		text, err := read(esx, ctx)
		if err != nil {
			return err
		}
		return c.putOut(*out, text, map[string]string{of: text}, of+" get")
	})
}

func (p process) showCSRCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show [FILE]",
		Short: "Say what the pending CSR says, or one in a file",
		Args:  usageArgs(cobra.MaximumNArgs(1)),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		if len(args) == 1 {
			return c.showRequestFile(args[0])
		}
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		csr, view, err := c.pending(ctx, esx)
		if err != nil {
			return err
		}
		return c.print(view.text(c.now()), view, csr)
	})
}

func (c *connection) showRequestFile(file string) error {
	text, err := readFile(file, maxPEMFile)
	if err != nil {
		return err
	}
	r, err := parseRequest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	view := newRequestView(r)
	return c.print(view.text(c.now()), view, requestPEM(r))
}

func (p process) deleteCSRCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Discard the pending CSR, and destroy its key",
		Args:  usageArgs(cobra.NoArgs),
	}
	yes := yesFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		esx, err := c.esx(ctx)
		if err != nil {
			return err
		}
		if !*yes {
			_, view, err := c.pending(ctx, esx)
			if err != nil {
				return err
			}
			if err := c.confirmed(ctx, fmt.Sprintf("the pending CSR, SHA-256 %s, will be discarded, and its key destroyed", view.SHA256), "--yes"); err != nil {
				return err
			}
		}
		if err := esx.DeleteCSR(ctx); err != nil {
			return err
		}
		return c.say("the pending CSR is discarded, and its key is destroyed")
	})
}

func outFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("out", "", "write it to this `file`, whole or not at all, in place of stdout")
}

func yesFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("yes", false, "do not ask")
}

// putOut prints a PEM text, or writes it to a file and says so. again is the command that
// prints it once more.
func (c *connection) putOut(file, pem string, value any, again string) error {
	if file == "" {
		return c.print(pem, value, pem)
	}
	if err := replaceFile(file, []byte(pem), 0o644); err != nil {
		return fmt.Errorf("--out: %w; nothing is lost: the server has it, and attestcsr %s prints it", err, again)
	}
	return c.say("it is in %s", file)
}

// approved shows a chain that is to be set, and asks whether to go on. With dryRun it prints
// the chain, and nothing is to be set.
func (c *connection) approved(ctx context.Context, view chainView, chain pkcs10.Chain, dryRun, yes bool, question string) (goOn bool, err error) {
	text := view.text(c.now())
	if dryRun {
		return false, c.print(text, view, chain.PEM())
	}
	if _, err := fmt.Fprint(c.stderr, text); err != nil {
		return false, err
	}
	if !yes {
		err = c.confirmed(ctx, question, "--yes")
	}
	return err == nil, err
}

// confirmed asks a question on a terminal. Elsewhere it is an error that names the flag.
func (c *connection) confirmed(ctx context.Context, said, flag string) error {
	if !isTerminal(c.stdin) {
		return fmt.Errorf("%s: give %s if that is right", said, flag)
	}
	if err := c.say("%s", said); err != nil {
		return err
	}
	answer, err := c.prompt(ctx, "go on? yes or no", "no")
	if err == nil && answer != "yes" && answer != "y" {
		err = errors.New("nothing was changed")
	}
	return err
}

const (
	tick      = 100 * time.Millisecond
	spinAfter = 300 * time.Millisecond // what is quicker needs no spinner
)

// wait shows on a terminal that something takes its time, and how long already.
func (p process) wait(ctx context.Context, what string, do func(context.Context) error) error {
	if !isTerminal(p.stderr) || p.getenv("TERM") == "dumb" {
		return do(ctx)
	}
	done, begun := make(chan error, 1), time.Now()
	go func() { done <- do(ctx) }()
	timer := time.NewTimer(spinAfter)
	defer timer.Stop()
	shown := false
	for frame := 0; ; frame++ {
		select {
		case err := <-done:
			if shown {
				_, printErr := fmt.Fprint(p.stderr, "\r\x1b[K")
				err = errors.Join(err, printErr)
			}
			return err
		case <-timer.C:
			shown = true
			if _, err := fmt.Fprintf(p.stderr, "\r\x1b[K%c %s … %d s", `|/-\`[frame%4], what, int(time.Since(begun).Seconds())); err != nil {
				return errors.Join(err, <-done)
			}
			timer.Reset(tick)
		}
	}
}

func requestPEM(r *x509.CertificateRequest) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: pkcs10.BlockRequest, Bytes: r.Raw}))
}

package command

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/policy"
	"attestcsr/handler/strict"
)

func (p process) nsxCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Make a key and a CSR with an id of your choice",
		Long: "The CSR is printed in PEM, for a CA to sign. A common name is needed. --from takes over the\n" +
			"subject, the names, and the kind and size of the key of an old CSR or certificate; flags\n" +
			"replace what it says. There is no e-mail address in this dialect, and the alternative\n" +
			"names are DNS names and addresses.",
		Example: "  attestcsr nsx csr create web-01 --cn web-01.example.com --organization \"Example Ltd\" --country US --san web-01.example.com --out web-01.csr\n" +
			"  attestcsr nsx csr create web-02 --from web-01.csr --cn web-02.example.com --san web-02.example.com --algorithm EC --bits 384",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	flags := cmd.Flags()
	var subject subjectFlags
	subject.add(flags, pkcs10.CommonName, pkcs10.Organization, pkcs10.OrganizationalUnit, pkcs10.Locality, pkcs10.StateOrProvince, pkcs10.Country)
	algorithm := flags.String("algorithm", "", "`kind` of the key: RSA or EC (default that of --from, or RSA)")
	bits := flags.Int64("bits", 0, "size of the key in `bits`: 2048, 3072 or 4096 for RSA, 256, 384 or 521 for EC (default that of --from, or of the server)")
	ca := flags.Bool("ca", false, "ask for the certificate of a CA; its key signs nothing here")
	name := flags.String("display-name", "", "`name` to show (default the id)")
	description := flags.String("description", "", "description of the CSR")
	tags := flags.StringArray("tag", nil, "tag of the CSR, as `scope=tag`; give it once for each")
	out := outFlag(cmd)
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		spec, err := subject.resolve(ctx, p, cmd, pkcs10.CommonName)
		if err != nil {
			return err
		}
		if flags.Changed("algorithm") && nsxAlgorithm(spec.Algorithm) != *algorithm {
			spec.Algorithm, spec.KeySize = "", nil // the size of --from is that of its own kind
		}
		made, err := c.newNSXCSR(spec)
		if err != nil {
			return err
		}
		if *algorithm != "" {
			made.Algorithm = *algorithm
		}
		if *bits != 0 {
			made.KeySize = *bits
		}
		made.CA, made.DisplayName, made.Description = *ca, *name, *description
		for _, text := range *tags {
			scope, tag, whole := strings.Cut(text, "=")
			if !whole {
				return c.wrong(fmt.Errorf("--tag is scope=tag, not %q", text))
			}
			made.Tags = append(made.Tags, policy.Tag{Scope: scope, Tag: tag})
		}
		return c.createNSXCSR(ctx, args[0], made, *out)
	})
}

func (c *connection) createNSXCSR(ctx context.Context, id string, spec policy.NewCSR, out string) error {
	nsx, err := c.nsx(ctx)
	if err != nil {
		return err
	}
	var o policy.Object
	err = c.wait(ctx, "the server makes a key", func(ctx context.Context) (err error) { o, err = nsx.CreateCSR(ctx, id, spec); return err })
	if err != nil {
		return err
	}
	text, err := pemOf(o)
	if err != nil {
		return err
	}
	return c.putOut(out, text, o.Document, "nsx csr get")
}

// nsxAlgorithm is the name of a kind of key in the NSX dialect.
func nsxAlgorithm(a pkcs10.Algorithm) string {
	if a == pkcs10.ECDSA {
		return "EC"
	}
	return string(a)
}

// newNSXCSR says in the NSX dialect what a spec asks for.
func (c *connection) newNSXCSR(spec pkcs10.Spec) (policy.NewCSR, error) {
	made := policy.NewCSR{Algorithm: nsxAlgorithm(spec.Algorithm)}
	if spec.KeySize != nil {
		made.KeySize = *spec.KeySize
	}
	for _, a := range spec.Subject {
		made.Subject.Attributes = append(made.Subject.Attributes, policy.NewAttribute{Key: string(a.Type), Value: a.Value})
	}
	var leftOut []string
	if spec.Email != "" {
		leftOut = append(leftOut, spec.Email)
	}
	var names policy.NewAltNames
	for _, name := range spec.AltNames {
		_, err := netip.ParseAddr(name.Value)
		foreign := strings.ContainsAny(name.Value, "@") || strings.Contains(name.Value, "://") || name.Kind == pkcs10.URI
		switch {
		case foreign && name.Kind == pkcs10.ByContent:
			return made, c.wrong(fmt.Errorf("--san %q: the NSX dialect has DNS names and addresses only", name.Value))
		case foreign:
			leftOut = append(leftOut, name.Value)
		case err == nil:
			names.IPAddresses = append(names.IPAddresses, name.Value)
		default:
			names.DNSNames = append(names.DNSNames, name.Value)
		}
	}
	for i, name := range leftOut {
		leftOut[i] = "left out, since the NSX dialect has DNS names and addresses only: " + strict.Printable(name, 200)
	}
	warn(c.stderr, leftOut)
	if names.DNSNames != nil || names.IPAddresses != nil {
		made.Extensions = &policy.NewExtensions{AltNames: names}
	}
	return made, nil
}

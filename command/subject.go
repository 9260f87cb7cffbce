package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// subjectFlags say what a CSR says, in both dialects.
type subjectFlags struct {
	values map[pkcs10.Field]*string // of the attributes, and of pkcs10.EmailAddress
	names  []string
	from   string
}

// subjectFlag is a flag for an attribute of the subject, or for the e-mail address.
type subjectFlag struct {
	field              pkcs10.Field
	flag, what, prompt string
}

// allSubjectFlags are in the order in which they are asked for and become a subject.
func allSubjectFlags() []subjectFlag {
	return []subjectFlag{
		{pkcs10.CommonName, "cn", "common name (CN)", "common name"},
		{pkcs10.Organization, "organization", "organization (O)", "organization"},
		{pkcs10.OrganizationalUnit, "unit", "organizational unit (OU)", "organizational unit"},
		{pkcs10.Locality, "locality", "locality (L), such as a city", "locality"},
		{pkcs10.StateOrProvince, "state", "state or province (ST)", "state or province"},
		{pkcs10.Country, "country", "country (C), two letters", "country (two letters)"},
		{pkcs10.EmailAddress, "email", "e-mail address, which becomes an alternative name", "e-mail address"},
	}
}

// add gives a command the flags for some fields.
func (f *subjectFlags) add(flags *pflag.FlagSet, fields ...pkcs10.Field) {
	f.values = map[pkcs10.Field]*string{}
	for _, s := range allSubjectFlags() {
		if slices.Contains(fields, s.field) {
			f.values[s.field] = flags.String(s.flag, "", s.what)
		}
	}
	flags.StringArrayVar(&f.names, "san", nil, "alternative `name`: a DNS name, an address or what else the server takes; give it once for each; replaces those of --from")
	flags.StringVar(&f.from, "from", "", "take what no flag says from this `file`: a spec in JSON or YAML with the members of docs/api.md, or an old CSR or certificate in PEM or DER")
}

// resolve puts the spec together: from the file, with the flags over it. What is required
// and missing is asked for on a terminal, and otherwise it is an error that names the flags.
func (f *subjectFlags) resolve(ctx context.Context, p process, cmd *cobra.Command, required ...pkcs10.Field) (spec pkcs10.Spec, err error) {
	if f.from != "" {
		if spec, err = p.specFrom(f.from); err != nil {
			return spec, err
		}
	}
	for _, s := range allSubjectFlags() {
		if value := f.values[s.field]; value != nil && cmd.Flags().Changed(s.flag) {
			setField(&spec, s.field, *value)
		}
	}
	if f.names != nil {
		spec.AltNames = nil
		for _, name := range f.names {
			spec.AltNames = append(spec.AltNames, pkcs10.AltName{Value: name})
		}
	}
	var missing []string
	for _, s := range allSubjectFlags() {
		if !slices.Contains(required, s.field) || hasField(spec, s.field) || cmd.Flags().Changed(s.flag) {
			continue
		}
		if !isTerminal(p.stdin) {
			missing = append(missing, "--"+s.flag)
			continue
		}
		answer, err := p.prompt(ctx, s.prompt, "")
		if err != nil {
			return spec, err
		}
		setField(&spec, s.field, answer)
	}
	if len(missing) > 0 {
		return spec, usage(cmd, fmt.Errorf("missing: %s; or --from a file, or run this on a terminal, which asks", strings.Join(missing, ", ")))
	}
	return spec, nil
}

// setField gives an attribute one value, where the first of its kind was, or else behind
// the others. An empty value takes it away.
func setField(spec *pkcs10.Spec, field pkcs10.Field, value string) {
	if field == pkcs10.EmailAddress {
		spec.Email = value
		return
	}
	isField := func(a pkcs10.Attribute) bool { return a.Type == field }
	at := slices.IndexFunc(spec.Subject, isField)
	rest := slices.DeleteFunc(slices.Clone(spec.Subject), isField)
	if at < 0 {
		at = len(rest)
	}
	if value != "" {
		rest = slices.Insert(rest, at, pkcs10.Attribute{Type: field, Value: value})
	}
	spec.Subject = rest
}

func hasField(spec pkcs10.Spec, field pkcs10.Field) bool {
	if field == pkcs10.EmailAddress {
		return spec.Email != ""
	}
	return slices.ContainsFunc(spec.Subject, func(a pkcs10.Attribute) bool { return a.Type == field })
}

// maxSpecFile has room for a CSR or a certificate with many names.
const maxSpecFile = 1 << 20

// specFrom reads a file for --from. What it cannot take over, it says.
func (p process) specFrom(file string) (spec pkcs10.Spec, err error) {
	text, err := readFile(file, maxSpecFile)
	if err != nil {
		return spec, err
	}
	if bytes.Contains(text, []byte("-----BEGIN ")) || bytes.HasPrefix(text, []byte{0x30}) {
		var leftOut []string
		if spec, leftOut, err = pkcs10.SpecOf(text); err == nil {
			for i := range leftOut {
				leftOut[i] = file + ": left out: " + strict.Printable(leftOut[i], 200)
			}
			warn(p.stderr, leftOut)
		}
	} else {
		spec, err = parseSpec(text)
	}
	if err != nil {
		return pkcs10.Spec{}, fmt.Errorf("%s: %w", file, err)
	}
	return spec, nil
}

// specFile is a spec in JSON or YAML, with the names of the ESX dialect.
type specFile struct {
	CommonName   string   `yaml:"common_name"`
	Organization string   `yaml:"organization"`
	Unit         string   `yaml:"organization_unit"`
	Locality     string   `yaml:"locality"`
	State        string   `yaml:"state_or_province"`
	Country      string   `yaml:"country"`
	Email        string   `yaml:"email_address"`
	AltNames     []string `yaml:"subject_alt_name"`
	KeySize      int64    `yaml:"key_size"`
}

// parseSpec reads a spec. JSON is YAML.
func parseSpec(text []byte) (spec pkcs10.Spec, err error) {
	var f specFile
	if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
		return spec, fmt.Errorf("neither a spec in JSON or YAML nor a CSR or certificate: %w", errors.New(strict.Printable(yaml.FormatError(err, false, false), 300)))
	}
	for _, a := range []pkcs10.Attribute{
		{Type: pkcs10.CommonName, Value: f.CommonName}, {Type: pkcs10.Organization, Value: f.Organization}, {Type: pkcs10.OrganizationalUnit, Value: f.Unit},
		{Type: pkcs10.Locality, Value: f.Locality}, {Type: pkcs10.StateOrProvince, Value: f.State}, {Type: pkcs10.Country, Value: f.Country},
		{Type: pkcs10.EmailAddress, Value: f.Email},
	} {
		setField(&spec, a.Type, a.Value)
	}
	for _, name := range f.AltNames {
		spec.AltNames = append(spec.AltNames, pkcs10.AltName{Value: name})
	}
	if f.KeySize != 0 {
		spec.KeySize = &f.KeySize
	}
	return spec, nil
}

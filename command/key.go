package command

import (
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/transit"
)

func (p process) keyCommand() *cobra.Command {
	return group("key", "Sign with the keys of certificates, verify, and show the published keys", p.keySignCommand(), p.keyVerifyCommand(), p.keyJWKSCommand())
}

// keys returns a client of the transit dialect with a session.
func (c *connection) keys(ctx context.Context) (*transit.Client, error) {
	return open(ctx, c, "transit", transit.NewClient)
}

// signing says which key signs, and how.
type signing struct{ key, hash, scheme string }

// schemeECDSA is the only scheme of an elliptic curve. The others are for RSA keys.
const (
	schemePSS   = "pss"
	schemePKCS1 = "pkcs1v15"
	schemeECDSA = "ecdsa"
)

func (s *signing) add(flags *pflag.FlagSet) {
	flags.StringVar(&s.key, "key", "attestation", "`name` of the key: attestation, or nsx- and the id of an NSX certificate")
	flags.StringVar(&s.hash, "hash", "sha256", "`algorithm` that hashes the file: sha256, sha384 or sha512")
	flags.StringVar(&s.scheme, "scheme", schemePSS, "`scheme` of signatures of RSA keys: pss (its salt as long as the hash) or pkcs1v15")
}

// hashName has the names of a hash.
type hashName struct {
	hash    crypto.Hash
	transit string
}

func hashes() map[string]hashName {
	return map[string]hashName{
		"sha256": {crypto.SHA256, "sha2-256"}, "sha384": {crypto.SHA384, "sha2-384"}, "sha512": {crypto.SHA512, "sha2-512"},
	}
}

// check says what is wrong with the flags.
func (s signing) check() error {
	if _, known := hashes()[s.hash]; !known {
		return fmt.Errorf("--hash is sha256, sha384 or sha512, not %q", s.hash)
	}
	if !slices.Contains([]string{schemePSS, schemePKCS1}, s.scheme) {
		return fmt.Errorf("--scheme is pss or pkcs1v15, not %q", s.scheme)
	}
	return nil
}

// toSign hashes a file, or standard input for "-". It never holds the file in memory.
func (p process) toSign(file string, s signing) (t transit.ToSign, err error) {
	name := hashes()[s.hash]
	in := p.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return t, err
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	h := name.hash.New()
	if _, err := io.Copy(h, in); err != nil {
		return t, fmt.Errorf("%s: %w", file, err)
	}
	return transit.ToSign{Digest: h.Sum(nil), Hash: name.transit, Scheme: s.scheme}, nil
}

// signatureDocument is a signature in JSON, with what is needed to verify it.
type signatureDocument struct {
	Key       string `json:"key"`
	Version   int    `json:"version"` // of the key
	KeyID     string `json:"key_id"`  // as the published keys have it
	Hash      string `json:"hash"`
	Scheme    string `json:"scheme"`
	Signature string `json:"signature"` // base64
}

func (p process) keySignCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sign FILE|-",
		Short: "Sign a file with the key of an installed certificate",
		Long: "Hashes the file here and has the server sign the hash, so that a file of any size can be\n" +
			"signed and stays here. The signature is checked with the server's public key before it is\n" +
			"printed: in base64, or with --output json together with the key's name, version and id.\n" +
			"--out writes the bytes that openssl and others take. A signature of an elliptic curve is\n" +
			"ASN.1 in DER. Each signature is a line of the audit trail.",
		Example: "  attestcsr key sign report.pdf --output json > report.sig.json\n" +
			"  attestcsr key sign report.pdf --key nsx-0d6e2b9c-4e1f-4c53-9d7a-3f1f2f0a6b11 --out report.sig",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	var how signing
	how.add(cmd.Flags())
	out := cmd.Flags().String("out", "", "write the bytes of the signature to this `file`; - is standard output")
	return p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		if err := how.check(); err != nil {
			return c.wrong(err)
		}
		if c.output == "pem" {
			return c.wrong(errors.New("a signature has no PEM: use --output text or json, or --out"))
		}
		t, err := p.toSign(args[0], how)
		if err != nil {
			return err
		}
		keys, err := c.keys(ctx)
		if err != nil {
			return err
		}
		made, signature, err := sign(ctx, keys, how, t)
		if err != nil {
			return err
		}
		switch *out {
		case "":
		case "-":
			_, err := c.stdout.Write(signature)
			return err
		default:
			if err := replaceFile(*out, signature, 0o644); err != nil {
				return err
			}
			if c.output == "text" {
				return c.say("the signature is in %s: version %d of the key %s, %s with %s", *out, made.Version, made.Key, made.Scheme, made.Hash)
			}
		}
		return c.print(made.Signature, made, "")
	})
}

// sign has a server sign, and believes the signature only where its public key does.
func sign(ctx context.Context, keys *transit.Client, how signing, t transit.ToSign) (made signatureDocument, signature []byte, err error) {
	version, signature, signErr := keys.Sign(ctx, how.key, t)
	if signErr != nil && client.Status(signErr) != 400 { // which is also that of a key that does not exist
		return made, nil, signErr
	}
	info, err := keys.Key(ctx, how.key)
	if err != nil {
		return made, nil, noSuchKey(how.key, err)
	}
	if signErr != nil {
		return made, nil, signErr
	}
	public, err := publicOf(info, version)
	if err != nil {
		return made, nil, err
	}
	if !verifies(public, how, t.Digest, signature) {
		return made, nil, fmt.Errorf("the server's signature is not one of version %d of the key %s: it is not given out", version, how.key)
	}
	id, err := pkcs10.Thumbprint(public)
	return signatureDocument{
		Key: how.key, Version: version, KeyID: id, Hash: how.hash, Scheme: schemeFor(public, how.scheme),
		Signature: base64.StdEncoding.EncodeToString(signature),
	}, signature, err
}

// noSuchKey says which keys there are.
func noSuchKey(name string, err error) error {
	if client.Status(err) != 404 {
		return err
	}
	return &statusError{statusNotFound, fmt.Errorf("there is no key %q for this user: attestation is that of the installed certificate, "+
		"and nsx-ID that of the NSX certificate ID, as \"attestcsr nsx certificate list\" shows it", name)}
}

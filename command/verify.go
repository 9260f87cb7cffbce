package command

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/strict"
	"attestcsr/handler/transit"
)

// verification is what "key verify" says.
type verification struct {
	Valid       bool   `json:"valid"`
	Key         string `json:"key,omitzero"`     // where the server was asked
	Version     int    `json:"version,omitzero"` // likewise
	KeyID       string `json:"key_id,omitzero"`
	Certificate string `json:"certificate,omitzero"` // its subject
}

func (v verification) text() string {
	version := ""
	if v.Version > 0 {
		version = strconv.Itoa(v.Version)
	}
	return rows(row{"signature", "valid"}, row{"key", v.Key}, row{"version", version}, row{"key id", strict.Printable(v.KeyID, 255)}, row{"certificate", v.Certificate})
}

func (p process) keyVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE|- --signature FILE",
		Short: "Say whether a signature is that of a file and a key: exit status 0 or 1",
		Long: "Asks the server, or with --certificate or --jwks nobody: then the key is that of a\n" +
			"certificate, or any of a set of published keys, as \"key jwks --output json\" prints it. Whether\n" +
			"that certificate or that set is to be believed is not checked.\n\n" +
			"The signature is a file in one of four forms: the JSON of \"key sign\", which also says how it\n" +
			"was made; vault:vN: and base64; base64; or its bytes.",
		Example: "  attestcsr key verify report.pdf --signature report.sig.json\n" +
			"  attestcsr key verify report.pdf --signature report.sig --certificate host.pem\n" +
			"  attestcsr key verify report.pdf --signature report.sig.json --jwks keys.json",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	var how signing
	how.add(cmd.Flags())
	signature := cmd.Flags().String("signature", "", "`file` with the signature")
	certificate := cmd.Flags().String("certificate", "", "ask no server: verify with the key of the certificate in this `file` (PEM or DER, the leaf first)")
	set := cmd.Flags().String("jwks", "", "ask no server: verify with the keys in this `file`, a JSON Web Key set")
	p.withServer(cmd, func(ctx context.Context, c *connection, args []string) error {
		given, t, err := p.readSigned(cmd, args[0], *signature, &how)
		if err != nil {
			return err
		}
		found, err := c.verifyRemote(ctx, how, given, t)
		if err != nil {
			return err
		}
		return c.judge(found)
	})
	remote := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *certificate == "" && *set == "" {
			return remote(cmd, args)
		}
		if *certificate != "" && *set != "" {
			return usage(cmd, errors.New("of --certificate and --jwks, give one"))
		}
		output, err := cmd.Flags().GetString("output")
		if err != nil {
			return err
		}
		given, t, err := p.readSigned(cmd, args[0], *signature, &how)
		if err != nil {
			return err
		}
		found, err := verifyLocally(how, given, t, *certificate, *set)
		if err != nil {
			return err
		}
		c := &connection{process: p, output: output, wrong: func(err error) error { return usage(cmd, err) }}
		return c.judge(found)
	}
	return cmd
}

// readSigned reads what is to be verified. What the signature says of itself counts where
// no flag says another thing.
func (p process) readSigned(cmd *cobra.Command, file, signature string, how *signing) (given givenSignature, t transit.ToSign, err error) {
	if signature == "" {
		return given, t, usage(cmd, errors.New("--signature is needed"))
	}
	content, err := readFile(signature, maxSignatureFile)
	if err == nil {
		given, err = parseGiven(content)
	}
	if err != nil {
		return given, t, fmt.Errorf("signature: %w", err)
	}
	unlessGiven := func(name string, value *string, said string) {
		if !cmd.Flags().Changed(name) && said != "" {
			*value = said
		}
	}
	unlessGiven("key", &how.key, given.key)
	unlessGiven("hash", &how.hash, given.hash)
	if given.scheme != schemeECDSA {
		unlessGiven("scheme", &how.scheme, given.scheme)
	}
	if err := how.check(); err != nil {
		return given, t, usage(cmd, err)
	}
	t, err = p.toSign(file, *how)
	return given, t, err
}

// judge prints what was found, and fails where the signature is not valid.
func (c *connection) judge(v verification) error {
	if v.Valid || c.output == "json" {
		if err := c.print(v.text(), v, ""); err != nil {
			return err
		}
	}
	if !v.Valid {
		return errors.New("the signature is not valid: another key made it, the file has changed, or --hash or --scheme are others than those of the signature")
	}
	return nil
}

// maxVersions bounds how often a server is asked about a signature that does not say which
// version of the key made it.
const maxVersions = 32

func (c *connection) verifyRemote(ctx context.Context, how signing, given givenSignature, t transit.ToSign) (found verification, err error) {
	keys, err := c.keys(ctx)
	if err != nil {
		return found, err
	}
	info, err := keys.Key(ctx, how.key)
	if err != nil {
		return found, noSuchKey(how.key, err)
	}
	versions := []int{given.version}
	if given.version == 0 {
		versions = versionsOf(info)
	}
	for _, version := range versions {
		valid, err := keys.Verify(ctx, how.key, t, version, given.bytes)
		if err != nil {
			return found, err
		}
		if valid {
			found = verification{Valid: true, Key: how.key, Version: version}
			if public, err := publicOf(info, version); err == nil {
				found.KeyID, err = pkcs10.Thumbprint(public)
				return found, err
			}
			return found, nil
		}
	}
	return verification{Key: how.key}, nil
}

// versionsOf are those of a key that the server shows, the newest first.
func versionsOf(info transit.KeyInfo) (all []int) {
	for name := range info.Versions {
		if n, err := strconv.Atoi(name); err == nil {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b int) int { return b - a })
	return all[:min(len(all), maxVersions)]
}

// verifyLocally verifies with the key of a certificate, or with any key of a set.
func verifyLocally(how signing, given givenSignature, t transit.ToSign, certificate, set string) (found verification, err error) {
	if certificate != "" {
		leaf, err := readLeaf(certificate)
		if err != nil {
			return found, err
		}
		found.Valid = verifies(leaf.PublicKey, how, t.Digest, given.bytes)
		found.Certificate = pkcs10.DistinguishedName(leaf.RawSubject)
		found.KeyID, err = pkcs10.Thumbprint(leaf.PublicKey)
		if err != nil {
			return found, fmt.Errorf("%s: %w", certificate, err)
		}
		return found, nil
	}
	text, err := readFile(set, maxKeySet)
	if err != nil {
		return found, err
	}
	keys, err := readKeySet(text)
	if err != nil {
		return found, fmt.Errorf("%s: %w", set, err)
	}
	for _, k := range keys {
		if verifies(k.public, how, t.Digest, given.bytes) {
			found = verification{Valid: true, KeyID: k.ID}
			if c := k.certificate(); c != nil {
				found.Certificate = pkcs10.DistinguishedName(c.RawSubject)
			}
			return found, nil
		}
	}
	return found, nil
}

// maxKeySet is what an answer of a server may have, in bytes.
const maxKeySet = 16 << 20

func readLeaf(file string) (*x509.Certificate, error) {
	text, err := readFile(file, maxPEMFile)
	if err != nil {
		return nil, err
	}
	chain, broken := pkcs10.ReadChain(text, true)
	if err := broken.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return chain.Leaf(), nil
}

func (p process) keyJWKSCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jwks",
		Short: "Show the published keys, which verify signatures",
		Long: "Reads /.well-known/jwks.json of the server, for which nobody needs to log in. --output json\n" +
			"prints the set as it is, for \"key verify --jwks\" and other programs; --output pem prints the\n" +
			"public keys. The installed key comes first.",
		Example: "  attestcsr key jwks\n  attestcsr key jwks --output json > keys.json",
		Args:    usageArgs(cobra.NoArgs),
	}
	return p.withServer(cmd, func(ctx context.Context, c *connection, _ []string) error {
		http, err := c.public(ctx)
		if err != nil {
			return err
		}
		text, err := keySetOf(ctx, http)
		if err != nil {
			return err
		}
		keys, err := readKeySet(text)
		if err != nil {
			return err
		}
		return c.print(keyTable(keys), jsontext.Value(text), keyPEM(keys))
	})
}

// public returns a client for what nobody needs a session for.
func (c *connection) public(ctx context.Context) (*client.Client, error) {
	if c.local {
		// The socket tells with a session where the service is.
		if _, err := c.keys(ctx); err != nil {
			return nil, err
		}
	}
	return client.New(c.options)
}

func keySetOf(ctx context.Context, server *client.Client) ([]byte, error) {
	answer, err := server.Do(ctx, client.Request{Method: http.MethodGet, Path: "/.well-known/jwks.json"})
	if err != nil {
		return nil, err
	}
	switch answer.Status {
	case http.StatusOK:
		return answer.Body, nil
	case http.StatusNotFound:
		return nil, client.NewError(answer, "", "the server publishes no keys: publish.enabled is off, or it is another product")
	}
	return nil, client.NewError(answer, "")
}

func keyTable(keys []publishedKey) string {
	var lines [][]string
	for _, k := range keys {
		subject, until := "(none)", ""
		if c := k.certificate(); c != nil {
			subject, until = pkcs10.DistinguishedName(c.RawSubject), moment(c.NotAfter)
		}
		kind := cmp.Or(k.Curve, fmt.Sprintf("RSA %d", pkcs10.KeyBits(k.public)))
		lines = append(lines, []string{strict.Printable(k.ID, 64), kind, strict.Printable(cmp.Or(k.Algorithm, "any"), 16), subject, until})
	}
	return table([]string{"key id", "key", "for", "certificate", "valid until"}, lines)
}

func keyPEM(keys []publishedKey) string {
	var text strings.Builder
	for _, k := range keys {
		if der, err := x509.MarshalPKIXPublicKey(k.public); err == nil {
			text.Write(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		}
	}
	return text.String()
}

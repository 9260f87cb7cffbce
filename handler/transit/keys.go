package transit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// listByParameter is a list by GET, which needs the parameter list.
func (t *transit) listByParameter(c echo.Context) error {
	if wanted, err := strconv.ParseBool(c.QueryParam("list")); err != nil || !wanted {
		return echo.ErrMethodNotAllowed
	}
	return t.list(c)
}

// list answers the names of the keys that the caller may use. Where there is none it says
// that nothing is there, as clients expect.
func (t *transit) list(c echo.Context) error {
	caller, err := t.cfg.Sessions.Caller(c)
	if err != nil {
		return err
	}
	either := []csr.Privilege{csr.AttestationSign, csr.SecurityRead, csr.PolicyCertificateSign, csr.PolicyCertificateRead}
	if !slices.ContainsFunc(either, caller.Holds) {
		_, err := t.cfg.Keys.AuthoriseKey(caller, csr.ReadKey, csr.KeyName{})
		return err
	}
	names, err := t.cfg.Keys.KeyNames(c.Request().Context(), caller)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return &csr.Error{Kind: csr.NotFound}
	}
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = name.String()
	}
	return answer(c, map[string][]string{"keys": keys}, nil)
}

// grant authenticates the caller, and authorises it for an operation on the key that the
// path names.
func (t *transit) grant(c echo.Context, o csr.Operation) (*csr.Grant, error) {
	caller, err := t.cfg.Sessions.Caller(c)
	if err != nil {
		return nil, err
	}
	name, err := parameter(c, "name")
	if err != nil {
		return nil, err
	}
	key, known := csr.ParseKeyName(name)
	if !known {
		return nil, &csr.Error{Kind: csr.NotFound}
	}
	return t.cfg.Keys.AuthoriseKey(caller, o, key)
}

// key is the answer to a read of a key.
type key struct {
	Name                 string                `json:"name"`
	Type                 string                `json:"type"`
	LatestVersion        int                   `json:"latest_version"`
	MinAvailableVersion  int                   `json:"min_available_version"`
	MinDecryptionVersion int                   `json:"min_decryption_version"`
	MinEncryptionVersion int                   `json:"min_encryption_version"`
	Keys                 map[string]keyVersion `json:"keys"`
	SupportsSigning      bool                  `json:"supports_signing"`
	SupportsEncryption   bool                  `json:"supports_encryption"`
	SupportsDecryption   bool                  `json:"supports_decryption"`
	SupportsDerivation   bool                  `json:"supports_derivation"`
	Derived              bool                  `json:"derived"`
	Exportable           bool                  `json:"exportable"`
	AllowPlaintextBackup bool                  `json:"allow_plaintext_backup"`
	DeletionAllowed      bool                  `json:"deletion_allowed"`
	ImportedKey          bool                  `json:"imported_key"`
	AutoRotatePeriod     int                   `json:"auto_rotate_period"`
}

type keyVersion struct {
	Name             string `json:"name"`
	PublicKey        string `json:"public_key"`
	CreationTime     string `json:"creation_time"`
	CertificateChain string `json:"certificate_chain"`
}

func (t *transit) read(c echo.Context) error {
	grant, err := t.grant(c, csr.ReadKey)
	if err != nil {
		return err
	}
	info, err := grant.Key(c.Request().Context())
	if err != nil {
		return err
	}
	// Versions before the first one that is known verify nothing: "decryption" is also
	// Vault's word for that.
	k := key{
		Name: info.Name.String(), LatestVersion: info.Latest, MinDecryptionVersion: info.Versions[0].Version,
		Keys: map[string]keyVersion{}, SupportsSigning: true,
	}
	for _, v := range info.Versions {
		der, err := x509.MarshalPKIXPublicKey(v.Public)
		if err != nil {
			return err
		}
		var name string
		k.Type, name = algorithm(v.Public)
		k.Keys[strconv.Itoa(v.Version)] = keyVersion{
			Name: name, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			CreationTime: formatTime(v.Created), CertificateChain: v.Certificate,
		}
	}
	return answer(c, k, nil)
}

// algorithm returns the names of a kind of key, as the type of a key and in its versions.
func algorithm(public crypto.PublicKey) (kind, name string) {
	switch public := public.(type) {
	case *rsa.PublicKey:
		kind = fmt.Sprintf("rsa-%d", public.N.BitLen())
		return kind, kind
	case *ecdsa.PublicKey:
		name = public.Params().Name
		return "ecdsa-p" + strings.TrimPrefix(name, "P-"), name
	}
	return "unknown", "unknown" // not reached: no other key can be installed
}

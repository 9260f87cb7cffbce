package client

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxCAFile has room for all the CAs of a system.
const maxCAFile = 4 << 20

// tlsConfig says which servers are believed.
func tlsConfig(o Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.Fingerprint != "" {
		want, err := ParseFingerprint(o.Fingerprint)
		if err != nil {
			return nil, err
		}
		config.InsecureSkipVerify = true // VerifyConnection compares the very key
		config.VerifyConnection = func(state tls.ConnectionState) error { return isKey(state.PeerCertificates[0], want) }
		return config, nil
	}
	if o.CAFile == "" {
		return config, nil
	}
	text, err := readBounded(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("CA file: %s has no certificate in PEM", o.CAFile)
	}
	return config, nil
}

func readBounded(path string) (text []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err = io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err == nil && len(text) > maxCAFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxCAFile)
	}
	return text, errors.Join(err, f.Close())
}

// ParseFingerprint returns a fingerprint in its one form: sha256: and 64 lower-case
// hexadecimal digits.
func ParseFingerprint(text string) (string, error) {
	const form = "sha256:"
	digits, is := strings.CutPrefix(strings.ToLower(text), form)
	sum, err := hex.DecodeString(digits)
	if !is || err != nil || len(sum) != sha256.Size {
		return "", errors.New("a fingerprint is sha256: and 64 hexadecimal digits, as serve prints that of the public key")
	}
	return form + digits, nil
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// keyError says that a server has another key than the one that was meant.
type keyError struct{ got, want string }

func (e *keyError) Error() string {
	return fmt.Sprintf("its public key is %s, not %s: another server answers there, or it has a new key (compare it with what serve or healthcheck prints on its host)", e.got, e.want)
}

func isKey(c *x509.Certificate, want string) error {
	if got := fingerprintOf(c); subtle.ConstantTimeCompare([]byte(got), []byte(want)) != 1 {
		return &keyError{got, want}
	}
	return nil
}

// isUntrusted reports whether a handshake failed because of who the server is.
func isUntrusted(err error) bool {
	_, otherKey := errors.AsType[*keyError](err)
	_, noCA := errors.AsType[*tls.CertificateVerificationError](err)
	return otherKey || noCA
}

// PublicKey returns the fingerprint of the key that an untrusted server has shown, or "".
func PublicKey(err error) string {
	if e, is := errors.AsType[*tls.CertificateVerificationError](err); is && len(e.UnverifiedCertificates) > 0 {
		return fingerprintOf(e.UnverifiedCertificates[0])
	}
	return ""
}

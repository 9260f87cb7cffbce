package tlscert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"attestcsr/keystore/ownfile"
)

const (
	// A certificate for 397 days is the longest that clients built for the public
	// web accept (CA/Browser Forum baseline requirements, section 6.3.2 until 2026).
	ownCertLife  = 397 * 24 * time.Hour
	ownCertRenew = 30 * 24 * time.Hour // before it ends
	// ownCertNames bounds the names of a host that gets another one at each start, as
	// containers do. The oldest go first.
	ownCertNames = 16
)

// renewOwn writes a new self-signed certificate unless there is a working one with
// enough time left and with the host's name. The key stays, so that pins of it hold.
// A new key is written before its certificate: after a crash between the two files
// they do not match, which the next start finds here and repairs.
func (s *Certificate) renewOwn(now time.Time) error {
	old, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	reason := ""
	switch {
	case err != nil:
	case old.Leaf.NotAfter.Sub(now) < ownCertRenew:
		reason = "it ends at " + old.Leaf.NotAfter.UTC().Format(time.RFC3339)
	case isSelfIssued(old.Leaf) && !named(old.Leaf.DNSNames, s.Hostname):
		reason = "the host's name is not among its names"
	default:
		return nil
	}
	key, is := old.PrivateKey.(crypto.Signer)
	if !is {
		if key, err = s.ownKey(); err != nil {
			return err
		}
	}
	names := []string{s.Hostname, "localhost"}
	for _, name := range namesIn(s.CertFile) {
		if !named(names, name) && len(names) < ownCertNames {
			names = append(names, name)
		}
	}
	cert, err := selfSign(key, names, now)
	if err != nil {
		return err
	}
	if err := ownfile.Replace(s.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})); err != nil {
		return err
	}
	if reason != "" {
		s.Logger.Warn("server certificate renewed with the same key: clients that trust the certificate itself need the new one", "reason", reason, "names", names)
	}
	return nil
}

// ownKey returns the key in the file, or makes one where there is none that works.
func (s *Certificate) ownKey() (crypto.Signer, error) {
	text, err := os.ReadFile(s.KeyFile)
	switch {
	case err == nil:
		if block, _ := pem.Decode(text); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if signer, is := key.(crypto.Signer); is {
					return signer, nil
				}
			}
		}
		s.Logger.Warn("the key of the server certificate cannot be used and is made anew: pins of it do not hold", "file", s.KeyFile)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, ownfile.Replace(s.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// namesIn returns the names of the certificate in a file, the newest first, or nothing
// where there is none.
func namesIn(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert.DNSNames
}

func named(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// selfSign makes a server certificate (RFC 5280, RFC 6125) for the names under which
// this machine calls itself, and has called itself before.
func selfSign(key crypto.Signer, names []string, now time.Time) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails since Go 1.24
	serial[0] &= 0x7f // positive
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: names[0]},
		NotBefore:    now.Add(-5 * time.Minute), // clocks differ
		NotAfter:     now.Add(ownCertLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},

		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return cert, nil
}

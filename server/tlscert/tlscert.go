// Package tlscert is the server's certificate: the operator's, or our own, which it
// makes and renews. Either may change while connections stay open.
package tlscert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"attestcsr/keystore/ownfile"
)

const (
	// A certificate for 397 days is the longest that clients built for the public
	// web accept (CA/Browser Forum baseline requirements, section 6.3.2 until 2026).
	ownCertLife  = 397 * 24 * time.Hour
	ownCertRenew = 30 * 24 * time.Hour // before it ends
)

// Certificate is the certificate that TLS clients see. It is the operator's where
// tls.cert_file is set, and otherwise our own self-signed one.
type Certificate struct {
	Options
	current atomic.Pointer[tls.Certificate]
}

// Options say where the certificate is and whose it is.
type Options struct {
	CertFile, KeyFile string
	// Own: the service makes the files where they are missing, and renews them.
	Own      bool
	Hostname string       // in a certificate that we make
	Trusted  func() error // refuses files that others could have changed; asked before each load
	Logger   *slog.Logger
}

// New loads the certificate, and makes it first where it is our own.
func New(o Options) (*Certificate, error) {
	s := &Certificate{Options: o}
	if s.Own {
		if err := s.renewOwn(time.Now()); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// load reads the files and uses what they hold from the next handshake on.
func (s *Certificate) load() error {
	if err := s.Trusted(); err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		return fmt.Errorf("server certificate %s with key %s: %w", s.CertFile, s.KeyFile, err)
	}
	before := s.current.Swap(&cert)
	if before != nil && !bytes.Equal(before.Leaf.Raw, cert.Leaf.Raw) {
		s.Logger.Info("server certificate replaced", "sha256", Fingerprint(&cert), "not_after", cert.Leaf.NotAfter)
	}
	return nil
}

// Refresh renews our own certificate when it is due and loads what the files
// hold. On failure the certificate in use stays.
func (s *Certificate) Refresh() {
	if s.Own {
		if err := s.renewOwn(time.Now()); err != nil {
			s.Logger.Error("server certificate not renewed", "err", err)
		}
	}
	if err := s.load(); err != nil {
		s.Logger.Error("server certificate not reloaded: the one before stays in use", "err", err)
	}
}

// Fingerprint is the SHA-256 of the certificate in use, as people compare it.
func (s *Certificate) Fingerprint() string { return Fingerprint(s.current.Load()) }

// TLSConfig is what the server offers: the certificate in use, TLS 1.2 with
// strong ciphers or TLS 1.3, and HTTP/1.
func (s *Certificate) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Of TLS 1.2 only what has forward secrecy and an AEAD (RFC 9325 section 4.2).
		// TLS 1.3 has nothing else.
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.current.Load(), nil
		},
		// In this order: of a client that offers both, the server takes HTTP/1.1.
		NextProtos: []string{"http/1.1", "http/1.0"},
	}
}

// renewOwn writes a new self-signed pair unless there is a working one with
// enough time left. The key is written first: after a crash between the two
// files they do not match, which the next start finds here and repairs.
func (s *Certificate) renewOwn(now time.Time) error {
	old, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err == nil && old.Leaf.NotAfter.Sub(now) >= ownCertRenew {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := selfSign(key, s.Hostname, now)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := ownfile.Replace(s.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return err
	}
	return ownfile.Replace(s.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
}

// selfSign makes a server certificate (RFC 5280, RFC 6125) for the names under
// which this machine calls itself.
func selfSign(key *ecdsa.PrivateKey, hostname string, now time.Time) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial) // never fails since Go 1.24
	serial[0] &= 0x7f // positive
	names := []string{hostname, "localhost"}
	slices.Sort(names)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: hostname},
		NotBefore:    now.Add(-5 * time.Minute), // clocks differ
		NotAfter:     now.Add(ownCertLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     slices.Compact(names),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},

		BasicConstraintsValid: true,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// Fingerprint is the SHA-256 of the certificate in the form that openssl prints.
func Fingerprint(cert *tls.Certificate) string {
	sum := sha256.Sum256(cert.Leaf.Raw)
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = strings.ToUpper(hex.EncodeToString([]byte{b}))
	}
	return strings.Join(pairs, ":")
}

// PinnedTo returns a client configuration that accepts the certificate in
// certFile and no other, whatever name or issuer it has.
func PinnedTo(certFile string) (*tls.Config, error) {
	data, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", certFile)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection compares the very certificate
		VerifyConnection: func(state tls.ConnectionState) error {
			if !bytes.Equal(state.PeerCertificates[0].Raw, block.Bytes) {
				return fmt.Errorf("the server's certificate is not the one in %s", certFile)
			}
			return nil
		},
	}, nil
}

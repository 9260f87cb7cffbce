// Package tlscert is the server's certificate: the operator's, or our own, which it
// makes and renews. Either may change while connections stay open.
package tlscert

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// remindEvery is how often the log repeats what is odd about the certificate in use.
const remindEvery = 24 * time.Hour

// Certificate is the certificate that TLS clients see. It is the operator's where
// tls.cert_file is set, and otherwise our own self-signed one.
type Certificate struct {
	Options
	current atomic.Pointer[tls.Certificate]

	refreshing sync.Mutex // guards the files that we make, and the fields below
	remarks    []string   // of the files, as they were last said
	remarkedAt time.Time
}

// Options say where the certificate is and whose it is.
type Options struct {
	CertFile, KeyFile string
	// Own: the service makes the files where they are missing, and renews them.
	Own      bool
	Hostname string       // in a certificate that we make
	Trusted  func() error // refuses files that others could have changed; asked before each load
	Logger   *slog.Logger
	Now      func() time.Time
}

// New loads the certificate, and makes it first where it is our own. It does not log
// the remarks of Load: the check of the settings has said them.
func New(o Options) (*Certificate, error) {
	s := &Certificate{Options: o}
	if err := s.Trusted(); err != nil {
		return nil, err
	}
	if s.Own {
		if err := s.renewOwn(o.Now()); err != nil {
			return nil, err
		}
	}
	cert, remarks, err := Load(s.CertFile, s.KeyFile, o.Now())
	if err != nil {
		return nil, err
	}
	s.current.Store(cert)
	s.remarks, s.remarkedAt = remarks, o.Now()
	return s, nil
}

// Refresh renews our own certificate when it is due, and uses what the files hold from
// the next handshake on. On failure the certificate in use stays.
func (s *Certificate) Refresh() {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	now := s.Now()
	err := s.Trusted()
	if err == nil && s.Own {
		if err := s.renewOwn(now); err != nil {
			s.Logger.Error("server certificate not renewed", "err", err)
		}
	}
	var cert *tls.Certificate
	var remarks []string
	if err == nil {
		cert, remarks, err = Load(s.CertFile, s.KeyFile, now)
	}
	if err != nil {
		s.Logger.Error("server certificate not reloaded: the one before stays in use", "err", err)
		return
	}
	if before := s.current.Swap(cert); !bytes.Equal(before.Leaf.Raw, cert.Leaf.Raw) {
		f := FingerprintsOf(cert.Leaf)
		s.Logger.Info("server certificate replaced", "public_key", f.PublicKey, "certificate", f.Certificate, "not_after", cert.Leaf.NotAfter)
	}
	if slices.Equal(remarks, s.remarks) && now.Sub(s.remarkedAt) < remindEvery {
		return
	}
	s.remarks, s.remarkedAt = remarks, now
	for _, remark := range remarks {
		s.Logger.Warn("server certificate", "file", s.CertFile, "warning", remark)
	}
}

// Leaf is the certificate in use.
func (s *Certificate) Leaf() *x509.Certificate { return s.current.Load().Leaf }

// Collectors returns the metrics, for the caller to register.
func (s *Certificate) Collectors() []prometheus.Collector {
	return []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "attestcsr_tls_certificate_not_after_timestamp_seconds",
		Help: "When the server certificate in use ends.",
	}, func() float64 { return float64(s.Leaf().NotAfter.Unix()) })}
}

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

// Fingerprints is what people compare and clients pin: SHA-256 digests, as sha256:HEX.
type Fingerprints struct {
	PublicKey   string // of the SubjectPublicKeyInfo; our own certificates keep it at renewal
	Certificate string
}

// FingerprintsOf returns the fingerprints of a certificate.
func FingerprintsOf(c *x509.Certificate) Fingerprints {
	digest := func(der []byte) string {
		sum := sha256.Sum256(der)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return Fingerprints{PublicKey: digest(c.RawSubjectPublicKeyInfo), Certificate: digest(c.Raw)}
}

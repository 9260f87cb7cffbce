package hostile_test

import (
	"crypto/tls"
	"io"
	"slices"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestTLSVersionsAndCiphers: TLS 1.2 and 1.3 and, of TLS 1.2, what has forward
// secrecy and an AEAD.
func TestTLSVersionsAndCiphers(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	shake := func(version uint16, ciphers ...uint16) (tls.ConnectionState, error) {
		conn, err := tls.Dial("tcp", s.Address(),
			&tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, CipherSuites: ciphers})
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		state, err := shake(version)
		if (err == nil) != good || good && state.Version != version {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if !good && err != nil && !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s is refused for another reason: %v", tls.VersionName(version), err)
		}
	}
	tried := 0
	// The certificate has an ECDSA key: suites for RSA find no certificate.
	good := []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if !slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		tried++
		if _, err := shake(tls.VersionTLS12, suite.ID); (err == nil) != slices.Contains(good, suite.ID) {
			t.Errorf("%s: %v", suite.Name, err)
		}
	}
	kit.Count(t, "cipher suites tried", tried)
}

// TestALPN: of the protocols that a client offers (RFC 7301), the service takes
// http/1.1 or else http/1.0. It refuses clients that offer neither, and serves those
// that offer nothing.
func TestALPN(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	address := s.Address()
	for offered, want := range map[string]string{
		"http/1.1":          "http/1.1",
		"http/1.0":          "http/1.0",
		"http/1.0 http/1.1": "http/1.1",
		"h2 http/1.1":       "http/1.1",
		"h2 http/1.0":       "http/1.0",
		"":                  "",
	} {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: strings.Fields(offered)})
		if err != nil {
			t.Errorf("%q: %v", offered, err)
			continue
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != want {
			t.Errorf("%q: the server takes %q, not %q", offered, got, want)
		}
		version := "HTTP/1.1"
		if want == "http/1.0" {
			version = "HTTP/1.0"
		}
		if _, err := io.WriteString(conn, "GET /healthz "+version+"\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
			t.Error(err)
		}
		if answers := start.ReadAnswers(t, conn); !slices.Equal(statuses(answers), []int{200}) {
			t.Errorf("%q: %v", offered, answers)
		}
		_ = conn.Close() // the server has closed it
	}
	for _, offered := range []string{"h2", "h3", "h2 spdy/3.1"} {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: strings.Fields(offered)})
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("%q is not refused for its protocols: %v", offered, err)
		}
	}
}

package hostile_test

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestRefusedHandshakes: each handshake that fails is counted with its reason, and
// logged with the address at level debug and no other.
func TestRefusedHandshakes(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "log:\n  level: debug\nlimits:\n  read_header_timeout: 1s\n"})
	quiet := start.Serve(t, start.Options{})
	shake := func(t *testing.T, s *start.Instance, config *tls.Config) {
		if conn, err := tls.Dial("tcp", s.Address(), config); err == nil {
			_ = conn.Close()
			t.Error("the handshake succeeded")
		}
	}
	send := func(text string) func(*testing.T, *start.Instance) {
		return func(t *testing.T, s *start.Instance) {
			conn, err := net.Dial("tcp", s.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, text); err != nil {
				t.Error(err)
			}
			_, _ = io.Copy(io.Discard, conn) // the service hangs up, after an alert or so
		}
	}
	with := func(config *tls.Config) func(*testing.T, *start.Instance) {
		return func(t *testing.T, s *start.Instance) { shake(t, s, config) }
	}
	tried := 0
	for _, test := range []struct {
		name, reason string
		attempt      func(*testing.T, *start.Instance)
	}{
		{"TLS 1.1", "no_shared_protocol_version", with(&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})},
		{"cipher without forward secrecy", "no_shared_cipher", with(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}})},
		{"HTTP/2 alone", "no_shared_application_protocol", with(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})},
		{"TLS 1.3 and another trust", "certificate_refused", with(&tls.Config{ServerName: "localhost", MinVersion: tls.VersionTLS13})},
		{"TLS 1.2 and another trust", "certificate_refused", with(&tls.Config{ServerName: "localhost", MaxVersion: tls.VersionTLS12})},
		{"plain HTTP", "not_tls", send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{"SSH", "not_tls", send("SSH-2.0-OpenSSH_9.2\r\n")},
		{"silence", "timeout", send("")},
		{"half a record", "timeout", send("\x16\x03\x01\x02\x00\x01")},
		{"hang up at once", "closed", func(t *testing.T, s *start.Instance) {
			conn, err := net.Dial("tcp", s.Address())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}},
		{"empty ClientHello", "other", send("\x16\x03\x01\x00\x04\x01\x00\x00\x00")},
	} {
		tried++
		failures := func(s *start.Instance, reason string) int {
			return s.Metric(`attestcsr_tls_handshake_failures_total{listener="api"` + reason + `}`)
		}
		for _, s := range []*start.Instance{s, quiet} {
			if s == quiet && test.reason == "timeout" {
				continue // it takes ten seconds
			}
			all, before := failures(s, ""), failures(s, `,reason="`+test.reason+`"`)
			test.attempt(t, s)
			if !kit.Until(func() bool { return failures(s, `,reason="`+test.reason+`"`) == before+1 }) {
				t.Errorf("%s: not counted as %s", test.name, test.reason)
			}
			if got := failures(s, ""); got != all+1 {
				t.Errorf("%s: %d failures, before %d", test.name, got, all)
			}
		}
		s.WantLog(`"msg":"TLS handshake failed","listener":"api","address":"127.0.0.1:`)
		s.WantLog(`"reason":"` + test.reason + `"`)
	}
	if strings.Contains(quiet.Stdout.String(), "handshake") {
		t.Errorf("logged at level info: %s", quiet.Stdout)
	}
	if strings.Contains(s.Stdout.String(), "http server") {
		t.Errorf("logged twice: %s", s.Stdout)
	}
	kit.Count(t, "handshakes that fail", tried)
}

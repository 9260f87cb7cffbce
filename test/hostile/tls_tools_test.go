//go:build tools

package hostile_test

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestTLSByOpenSSL asks the same of openssl, which knows more ciphers than Go and
// still speaks the old versions.
func TestTLSByOpenSSL(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	openssl := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, _ := exec.CommandContext(ctx, "openssl", args...).CombinedOutput() // a refused handshake is an error
		return string(out)
	}
	shake := func(args ...string) string {
		return openssl(append([]string{"s_client", "-connect", s.Address()}, args...)...)
	}
	agreed := regexp.MustCompile(`(?m)^New, (TLSv1\.[23]), Cipher is ([-_A-Z0-9]+)$`)
	for version, want := range map[string]string{"-tls1": "", "-tls1_1": "", "-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"} {
		out := shake(version, "-cipher", "ALL:@SECLEVEL=0")
		got := ""
		if found := agreed.FindStringSubmatch(out); found != nil {
			got = found[1]
		}
		if got != want || want == "" && !strings.Contains(out, "protocol version") {
			t.Errorf("%s: agreed on %q, want %q:\n%s", version, got, want, out)
		}
	}
	good := regexp.MustCompile(`^ECDHE-ECDSA-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)$`)
	ciphers := strings.Split(strings.TrimSpace(openssl("ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")), ":")
	accepted := 0
	for _, cipher := range ciphers {
		if found := agreed.FindStringSubmatch(shake("-tls1_2", "-cipher", cipher+":@SECLEVEL=0")); found != nil {
			accepted++
			if found[2] != cipher || !good.MatchString(cipher) {
				t.Errorf("%s was accepted as %s", cipher, found[2])
			}
		}
	}
	if accepted != 3 {
		t.Errorf("%d ciphers accepted, want 3", accepted)
	}
	if out := shake("-tls1_2", "-no_legacy_server_connect"); !strings.Contains(out, "Secure Renegotiation IS supported") || !strings.Contains(out, "Compression: NONE") {
		t.Errorf("renegotiation or compression:\n%s", out)
	}
	kit.Count(t, "ciphers offered by openssl", len(ciphers))
}

// TestALPNByClients: clients that offer http/1.0 alone are served, as curl 7.88 to 8.4
// does with --http1.0. One that offers h2 alone is refused for it, and counted.
func TestALPNByClients(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	run := func(name string, args ...string) string {
		out, _ := exec.CommandContext(ctx, name, args...).CombinedOutput() // a refused handshake is an error
		return string(out)
	}
	if out := run("curl", "--silent", "--show-error", "--insecure", "--http1.0", "--output", "/dev/null", "--write-out", "%{http_code}", s.URL+"/healthz"); out != "200" {
		t.Errorf("curl --http1.0: %s", out)
	}
	for offered, want := range map[string]string{
		"http/1.0": "ALPN protocol: http/1.0", "http/1.0,http/1.1": "ALPN protocol: http/1.1", "h2,http/1.0": "ALPN protocol: http/1.0", "h2": "no application protocol",
	} {
		if out := run("openssl", "s_client", "-connect", s.Address(), "-alpn", offered); !strings.Contains(out, want) {
			t.Errorf("%s: not %q:\n%s", offered, want, out)
		}
	}
	if got := s.Metric(`attestcsr_tls_handshake_failures_total{reason="no_shared_application_protocol"}`); got != 1 {
		t.Errorf("%d handshakes counted, want 1", got)
	}
}

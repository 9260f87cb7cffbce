package start_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/server/serving"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestHealthcheck: "healthcheck" needs to know data_dir alone, wherever the service
// listens. It says where it looked, and which server it believes.
func TestHealthcheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, listen, ops, asked string
	}{
		{"IPv4", "127.0.0.1:0", "", "127.0.0.1:"},
		{"IPv6", "[::1]:0", "", "[::1]:"},
		{"all addresses", ":0", "", "127.0.0.1:"},
		{"all addresses of IPv6", "[::]:0", "", "127.0.0.1:"},
		{"all addresses of IPv4", "0.0.0.0:0", "", "127.0.0.1:"},
		{"ops_listen", "127.0.0.1:0", "[::1]:0", "[::1]:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start.Serve(t, start.Options{Args: []string{"--listen", test.listen, "--ops-listen", test.ops}})
			out, status := command(t, s.DataDir, "healthcheck")
			if status != 0 || !strings.Contains(out, "data_dir "+s.DataDir) || !strings.Contains(out, "https://"+test.asked) || !strings.Contains(out, publicKeyLine(t, s)) {
				t.Errorf("%d %s", status, out)
			}
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
			if out, status := command(t, s.DataDir, "healthcheck"); status != 1 || !strings.Contains(out, "not running: there is no "+filepath.Join(s.DataDir, serving.File)) {
				t.Errorf("after a stop: %d %s", status, out)
			}
		})
	}
}

// TestHealthcheckBelievesNobodyElse: a file that a crash has left, and another program
// on the port, are no service that is ready.
func TestHealthcheckBelievesNobodyElse(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	wantUnhealthy := func(what, want string) {
		t.Helper()
		if out, status := command(t, s.DataDir, "healthcheck"); status != 1 || !strings.Contains(out, want) || !strings.Contains(out, s.DataDir) {
			t.Errorf("%s: %d %s", what, status, out)
		}
	}
	file := string(kit.Read(t, s.DataDir, serving.File))
	rewrite := func(part, by string) {
		t.Helper()
		if !strings.Contains(file, part) {
			t.Fatalf("%s is not in %s", part, file)
		}
		kit.Overwrite(t, s.DataDir, serving.File, strings.Replace(file, part, by, 1))
	}
	stranger := start.Serve(t, start.Options{})
	rewrite(s.Address(), stranger.Address())
	wantUnhealthy("another service on the port", "another program answers on "+stranger.Address())
	rewrite(`"start_time":`, `"start_time":1`)
	wantUnhealthy("another process with the number", "has ended")
	kit.Overwrite(t, s.DataDir, serving.File, "{}")
	wantUnhealthy("damaged", "is not what a service writes")
	kit.Overwrite(t, s.DataDir, serving.File, file)
	if out, status := command(t, s.DataDir, "healthcheck"); status != 0 {
		t.Errorf("%d %s", status, out)
	}
	s.Kill()
	wantUnhealthy("after a crash", "the process that wrote")
	s.Again()
	if out, status := command(t, s.DataDir, "healthcheck"); status != 0 {
		t.Errorf("the start after: %d %s", status, out)
	}
}

// TestHealthcheckNotReady: a service that runs and is not ready says so.
func TestHealthcheckNotReady(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "key_pool:\n  targets: {4096: 100}\n  ready_when_warm: true\n"})
	if out, status := command(t, s.DataDir, "healthcheck"); status != 1 || !strings.Contains(out, "not ready: "+s.URL+"/readyz answers 503") {
		t.Errorf("%d %s", status, out)
	}
}

// TestHealthcheckWhileKeysAreReplaced: no check fails while the operator replaces
// certificate and key.
func TestHealthcheckWhileKeysAreReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeCertificate(t, dir, 1000*time.Hour)
	s := start.Serve(t, start.Options{Args: []string{"--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key")}})
	checks, keys := 0, map[string]bool{}
	var begun time.Time
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); checks++ {
		if time.Since(begun) > 700*time.Millisecond {
			begun = time.Now()
			writeCertificate(t, dir, 1000*time.Hour)
		}
		ready, err := serving.Check(t.Context(), s.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		keys[ready.Fingerprints.PublicKey] = true
	}
	if len(keys) < 3 {
		t.Errorf("only %d keys were seen", len(keys))
	}
	t.Logf("%d keys", len(keys))
	kit.Count(t, "health checks while keys change", checks)
}

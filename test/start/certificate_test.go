package start_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/server/tlscert"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestHostnameChange: a start under another name renews the service's own certificate.
// Clients of both names trust it, pins of its key hold, and the log says so.
func TestHostnameChange(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	pin := publicKeyLine(t, s)
	if insists(t, s) {
		t.Error("browsers have to insist on a certificate that they do not know")
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	renamed := start.Serve(t, start.Options{DataDir: s.DataDir, Config: s.Config(), Args: []string{"--hostname", "renamed.example.com"}})
	if got := publicKeyLine(t, renamed); got != pin {
		t.Errorf("%s, before %s", got, pin)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(kit.Read(t, s.DataDir, server.OwnCertFile))
	for _, name := range []string{"esx-01.example.com", "renamed.example.com", "localhost"} {
		conn, err := tls.Dial("tcp", renamed.Address(), &tls.Config{RootCAs: pool, ServerName: name})
		if err != nil {
			t.Errorf("as %s: %v", name, err)
			continue
		}
		if f := tlscert.FingerprintsOf(conn.ConnectionState().PeerCertificates[0]); f.PublicKey != pin {
			t.Errorf("%s, pinned %s", f.PublicKey, pin)
		}
		_ = conn.Close()
	}
	renamed.WantLog("the host's name is not among its names")
	const oldName = "attestation certificate of the first start has an old name"
	renamed.WantLog(oldName)
	if strings.Contains(s.Stdout.String(), oldName) {
		t.Errorf("said under the name of the first start: %s", s.Stdout)
	}
}

// publicKeyLine returns the fingerprint of the public key that a start shows.
func publicKeyLine(t *testing.T, s *start.Instance) string {
	t.Helper()
	_, rest, _ := strings.Cut(s.Stderr.String(), "fingerprint  ")
	pin, _, found := strings.Cut(rest, " (of the public key)")
	if !found || !strings.HasPrefix(pin, "sha256:") || len(pin) != len("sha256:")+64 {
		t.Fatalf("no fingerprint: %s", s.Stderr)
	}
	return pin
}

// TestServerCertificateEndsSoon: the start, the check of the settings, a reload and a
// metric say that the operator's certificate ends soon.
func TestServerCertificateEndsSoon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(ends time.Duration) (end time.Time) { return writeCertificate(t, dir, ends) }
	const day = 24 * time.Hour
	end := write(20 * day)
	files := []string{"--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key")}
	s := start.Serve(t, start.Options{Args: files})
	s.WantLog("tls.cert_file: the certificate ends in less than 30 days")
	if !insists(t, s) {
		t.Error("browsers may come without HTTPS")
	}
	const metric = "attestcsr_tls_certificate_not_after_timestamp_seconds"
	if got := s.Metric(metric); int64(got) != end.Unix() {
		t.Errorf("%d, want %d", got, end.Unix())
	}
	if out, status := command(t, s.DataDir, "config check "+strings.Join(files, " ")); status != 0 || !strings.Contains(out, "less than 30 days") {
		t.Errorf("%d %s", status, out)
	}
	end = write(3 * day)
	s.WantLog("the certificate ends in less than 7 days")
	if got := s.Metric(metric); int64(got) != end.Unix() {
		t.Errorf("after a reload: %d, want %d", got, end.Unix())
	}
}

// insists reports whether pages have browsers come by HTTPS alone.
func insists(t *testing.T, s *start.Instance) bool {
	t.Helper()
	a, err := s.Do("GET", "/apiexplorer", "", start.Anonymous)
	if err != nil || a.Status != 200 {
		t.Fatalf("%v %d", err, a.Status)
	}
	return a.Header.Get("Strict-Transport-Security") != ""
}

// writeCertificate writes tls.key and tls.crt, which a new CA has issued.
func writeCertificate(t *testing.T, dir string, ends time.Duration) (end time.Time) {
	t.Helper()
	ca := kit.NewCA(t, "Example CA", time.Now())
	key := kit.NewKey(t)
	leaf := ca.Issue(t, "esx-01.example.com", key.Public(), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(ends) })
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	kit.Overwrite(t, dir, "tls.crt", kit.PEM(leaf, ca.Cert))
	return leaf.NotAfter
}

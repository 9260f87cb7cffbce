package tlscert

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzServerCertificate: the files of the server certificate are a pair that TLS
// can use, or an error that names both, beside which the pair before stays.
func FuzzServerCertificate(f *testing.F) {
	dir := f.TempDir()
	log := slog.New(slog.DiscardHandler)
	trusted := func() error { return nil }
	if _, err := New(Options{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), Own: true, Hostname: "esx-01", Trusted: trusted, Logger: log, Now: time.Now}); err != nil {
		f.Fatal(err)
	}
	cert, certErr := os.ReadFile(filepath.Join(dir, "tls.crt"))
	key, keyErr := os.ReadFile(filepath.Join(dir, "tls.key"))
	if err := errors.Join(certErr, keyErr); err != nil {
		f.Fatal(err)
	}
	before, err := tls.X509KeyPair(cert, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert, key)
	f.Add(key, cert)
	f.Add(append(bytes.Clone(cert), cert...), key)
	f.Add(bytes.ReplaceAll(cert, []byte("\n"), []byte("\r\n")), append([]byte("text\n"), key...))
	f.Add(cert[:len(cert)/2], key)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), key)
	f.Add([]byte{}, []byte{})
	f.Add(append([]byte("\ufeff"), cert...), append([]byte("\ufeff"), key...))
	f.Add([]byte("\xff\xfe-\x00-\x00-\x00-\x00-\x00"), key)
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		dir := t.TempDir()
		s := &Certificate{Options: Options{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), Trusted: trusted, Logger: log, Now: time.Now}}
		s.current.Store(&before)
		if err := errors.Join(os.WriteFile(s.CertFile, cert, 0o600), os.WriteFile(s.KeyFile, key, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, _, err := Load(s.CertFile, s.KeyFile, time.Now())
		s.Refresh()
		now := s.current.Load()
		if err != nil {
			if now != &before || !strings.Contains(err.Error(), s.CertFile) || !strings.Contains(err.Error(), s.KeyFile) {
				t.Fatal(err)
			}
			return
		}
		if now == &before || now.Leaf == nil || now.PrivateKey == nil {
			t.Fatalf("%+v", now)
		}
		withoutMarks := func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\ufeff"), nil) }
		cert, key = withoutMarks(cert), withoutMarks(key)
		if _, err := tls.X509KeyPair(cert, key); err != nil {
			t.Fatal(err)
		}
	})
}

package csr_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"attestcsr/csr"
)

// The golden files are what version 1 of the format wrote. They never change:
// whatever ever shipped still opens.
func TestGoldenPayloads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file              string
		created, notAfter time.Time
		check             func(der []byte) (publicKey any, err error)
	}{
		{"pending-v1.json", time.Date(2026, 11, 23, 21, 30, 0, 0, time.UTC), time.Time{}, func(der []byte) (any, error) {
			r, err := x509.ParseCertificateRequest(der)
			if err != nil {
				return nil, err
			}
			return r.PublicKey, r.CheckSignature()
		}},
		{"installed-v1.json", time.Time{}, time.Date(2036, 11, 23, 21, 30, 0, 0, time.UTC), func(der []byte) (any, error) {
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, err
			}
			return certificate.PublicKey, nil
		}},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			golden, err := os.ReadFile(filepath.Join("testdata", c.file))
			if err != nil {
				t.Fatal(err)
			}
			golden = bytes.TrimSuffix(golden, []byte("\n"))
			p, err := csr.DecodePayload(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Created.Equal(c.created) || !p.NotAfter.Equal(c.notAfter) {
				t.Errorf("created %v, not after %v", p.Created, p.NotAfter)
			}
			block, _ := pem.Decode([]byte(p.PEM))
			if block == nil {
				t.Fatal("no PEM")
			}
			want, err := c.check(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := p.PublicKey(); err != nil || !equalKeys(got, want) {
				t.Errorf("public key %v, error %v", got, err)
			}
			if written, err := csr.EncodePayload(p); err != nil || !bytes.Equal(written, golden) {
				t.Errorf("version 1 is written as\n%s\nnot as\n%s", written, golden)
			}
		})
	}
}

func FuzzDecodePayload(f *testing.F) {
	for _, file := range []string{"pending-v1.json", "installed-v1.json"} {
		golden, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(golden)
	}
	f.Add([]byte(`{"version":1,"pem":"x","created":"0000-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := csr.DecodePayload(b)
		if err != nil {
			return
		}
		if _, err := p.PublicKey(); err != nil && p.PEM == "" {
			t.Fatal("a payload without PEM was accepted")
		}
		written, err := csr.EncodePayload(p)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := csr.DecodePayload(written); err != nil || again.PEM != p.PEM || !again.Created.Equal(p.Created) || !again.NotAfter.Equal(p.NotAfter) {
			t.Fatalf("%+v is written as %s", p, written)
		}
	})
}

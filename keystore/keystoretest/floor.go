package keystoretest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// BenchmarkFloor measures what no service that keeps what it signs can do
// without: signing a PKCS#10 request with an RSA-2048 key that is ready, and one
// fsynced commit to a bare bbolt file. Benchmarks of the service stand beside it.
func BenchmarkFloor(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	bucket := []byte("c")
	if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
		b.Fatal(err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "esx-01.example.com"}}
	b.ReportAllocs()
	for b.Loop() {
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err == nil {
			err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte("a"), der) })
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

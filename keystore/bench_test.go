package keystore_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"path/filepath"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
)

// BenchmarkReplace measures Replace with an RSA-2048 key that is ready, against
// the floor: building the PKCS#10 request and one commit to a bare bbolt file.
func BenchmarkReplace(b *testing.B) {
	b.Run("floor", keystoretest.BenchmarkFloor)
	b.Run("keystore", func(b *testing.B) {
		dir := b.TempDir()
		store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
		if err != nil {
			b.Fatal(err)
		}
		custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
		if err != nil {
			b.Fatal(err)
		}
		ready := keystoretest.NewHandedIn(custodian)
		k, err := keystore.Open(b.Context(), keystore.Options{Store: store, Custodian: ready, MAC: testMAC})
		if err != nil {
			b.Fatal(err)
		}
		defer k.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Replace(b.Context(), keystore.Target{Slot: a}, keystore.KeySpec{Algorithm: keystore.RSA, Bits: 2048}, request); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func request(signer crypto.Signer) (keystore.Change, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "esx-01.example.com"}}, signer)
	return keystore.Change{Payload: der}, err
}

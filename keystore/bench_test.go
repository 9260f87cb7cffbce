package keystore_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
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
	for _, callers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("keystore/%d", callers), func(b *testing.B) {
			k := openReady(b)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for caller := range callers {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						replaceReady(b, k, caller)
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkGet reads one record, BenchmarkList a page of 100 out of 200.
func BenchmarkGet(b *testing.B) {
	k := openReady(b)
	replaceReady(b, k, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Get(b.Context(), numbered(0)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	k := openReady(b)
	for n := range 200 {
		replaceReady(b, k, n)
	}
	b.ReportAllocs()
	for b.Loop() {
		items, err := k.List(b.Context(), keystore.Query{Collection: "c", Limit: 100})
		if err != nil || len(items) != 100 {
			b.Fatal(len(items), err)
		}
	}
}

// openReady opens a Keystore whose keys are ready and whose codes are those of the service.
func openReady(b *testing.B) *keystore.Keystore {
	b.Helper()
	dir := b.TempDir()
	store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		b.Fatal(err)
	}
	mac, err := custodian.MAC("stored records 1")
	if err != nil {
		b.Fatal(err)
	}
	k, err := keystore.Open(b.Context(), keystore.Options{Store: store, Custodian: keystoretest.NewHandedIn(custodian), MAC: mac})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := k.Close(); err != nil {
			b.Error(err)
		}
	})
	return k
}

func numbered(n int) keystore.Slot { return keystore.Slot{Collection: "c", ID: fmt.Sprint(n)} }

func replaceReady(b *testing.B, k *keystore.Keystore, n int) {
	_, err := k.Replace(b.Context(), keystore.Target{Slot: numbered(n)}, keystore.KeySpec{Algorithm: keystore.RSA, Bits: 2048}, request)
	if err != nil {
		b.Error(err)
	}
}

func request(signer crypto.Signer) (keystore.Change, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "esx-01.example.com"}}, signer)
	return keystore.Change{Payload: der}, err
}

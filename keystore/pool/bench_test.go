package pool_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
	"attestcsr/keystore/sealed"
)

func openSealed(t testing.TB, dir string) keystore.Custodian {
	t.Helper()
	c, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// BenchmarkHit measures what the pool adds to a key that is ready.
func BenchmarkHit(b *testing.B) {
	p := newPool(pool.Options{Custodian: keystoretest.NewHandedIn(openSealed(b, b.TempDir())), Targets: map[int]int{2048: 512}})
	defer p.Close()
	if err := p.Warm(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Generate(b.Context(), rsaSpec(2048)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefill measures what a request feels of keys that are being made: an
// RSA signature is due every five milliseconds, and its latency counts from then,
// since a closed loop would hide what the requests that were never sent would
// have waited.
func BenchmarkRefill(b *testing.B) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("none", func(b *testing.B) { signAtRate(b, private) })
	b.Run("plain goroutines", func(b *testing.B) {
		stop := make(chan struct{})
		done := make(chan struct{})
		workers := runtime.GOMAXPROCS(0)
		for range workers {
			go func() {
				defer func() { done <- struct{}{} }()
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = rsa.GenerateKey(rand.Reader, 2048)
					}
				}
			}()
		}
		signAtRate(b, private)
		close(stop)
		for range workers {
			<-done
		}
	})
	b.Run("pool", func(b *testing.B) {
		p := newPool(pool.Options{Custodian: openSealed(b, b.TempDir()), Targets: map[int]int{2048: 1 << 20}})
		defer p.Close()
		signAtRate(b, private)
	})
	b.Run("misses", func(b *testing.B) {
		p := newPool(pool.Options{Custodian: openSealed(b, b.TempDir()), Targets: map[int]int{2048: 1}})
		defer p.Close()
		for range 8 {
			go func() {
				for {
					if _, err := p.Generate(b.Context(), rsaSpec(2048)); err != nil {
						return
					}
				}
			}()
		}
		signAtRate(b, private)
	})
}

func signAtRate(b *testing.B, private crypto.Signer) {
	const interval = 5 * time.Millisecond
	digest := sha256.Sum256(nil)
	latency := make([]time.Duration, 0, b.N)
	served := make(chan time.Duration)
	start := time.Now()
	go func() {
		for i := range b.N {
			due := start.Add(time.Duration(i) * interval)
			time.Sleep(time.Until(due))
			go func() { // a request has a goroutine of its own
				_, _ = private.Sign(rand.Reader, digest[:], crypto.SHA256)
				served <- time.Since(due)
			}()
		}
	}()
	for range b.N {
		latency = append(latency, <-served)
	}
	slices.Sort(latency)
	ms := func(q float64) float64 { return latency[int(q*float64(len(latency)-1))].Seconds() * 1e3 }
	b.ReportMetric(ms(0.50), "p50-ms")
	b.ReportMetric(ms(0.90), "p90-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
}

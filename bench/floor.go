package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"go.etcd.io/bbolt"
)

// generateKeys makes RSA keys with as many callers for at least that time and
// counts what was finished: the most that any service could hand out.
func generateKeys(ctx context.Context, bits, callers int, atLeast time.Duration) (samples, error) {
	start := time.Now()
	return together(ctx, callers, func(ctx context.Context, _ int) ([]time.Duration, error) {
		var latencies []time.Duration
		for time.Since(start) < atLeast && ctx.Err() == nil {
			begun := time.Now()
			if _, err := rsa.GenerateKey(rand.Reader, bits); err != nil {
				return nil, err
			}
			latencies = append(latencies, time.Since(begun))
		}
		return latencies, ctx.Err()
	})
}

// commitFloor is what no durable create can do without: one signature of an RSA
// key of 2048 bits and one fsynced commit to a bbolt file.
type commitFloor struct {
	key *rsa.PrivateKey
	db  *bbolt.DB
}

func newCommitFloor(dir string) (*commitFloor, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(filepath.Join(dir, "floor.db"), 0o600, &bbolt.Options{
		Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true,
	})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists([]byte("csr"))
		return err
	})
	return &commitFloor{key, db}, err
}

func (f *commitFloor) close() error { return f.db.Close() }

func (f *commitFloor) commit(slot int) error {
	template := &x509.CertificateRequest{
		SignatureAlgorithm: x509.SHA256WithRSA,
		Subject: pkix.Name{
			CommonName: hostname, Organization: []string{"Example Ltd"}, OrganizationalUnit: []string{"Hosts"},
			Locality: []string{"Palo Alto"}, Province: []string{"California"}, Country: []string{"US"},
		},
		EmailAddresses: []string{"pki@example.com"},
		DNSNames:       []string{hostname},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, f.key)
	if err != nil {
		return err
	}
	return f.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("csr")).Put(strconv.AppendInt(nil, int64(slot), 10), der)
	})
}

// run makes count commits with as many callers, each with a transaction and an
// fsync of its own.
func (f *commitFloor) run(ctx context.Context, callers, count int) (samples, error) {
	return together(ctx, callers, func(ctx context.Context, k int) ([]time.Duration, error) {
		var latencies []time.Duration
		for i := k; i < count && ctx.Err() == nil; i += callers {
			begun := time.Now()
			if err := f.commit(k); err != nil {
				return nil, err
			}
			latencies = append(latencies, time.Since(begun))
		}
		return latencies, ctx.Err()
	})
}

// lone is the floor of one caller.
func (f *commitFloor) lone(count int) measure {
	return func(ctx context.Context) (samples, error) { return f.run(ctx, 1, count) }
}

// due makes count commits at a fixed rate per second, measured as openLoop does:
// a machine that sleeps in between takes longer for each than one that is busy.
func (f *commitFloor) due(ctx context.Context, rate float64, count int) (samples, error) {
	return atRate(ctx, 1, rate, count, func(_ context.Context, k, _ int) error { return f.commit(k) })
}

// ungrouped is the floor of several callers.
func (f *commitFloor) ungrouped(callers, count int) measure {
	return func(ctx context.Context) (samples, error) { return f.run(ctx, callers, count) }
}

// echoCommand is the argument that makes this program the do-nothing server, in
// a process of its own as the measured one is.
const echoCommand = "echo-floor"

// serveEcho answers GET / with an empty 200, over the TLS certificate of
// a data_dir, until ctx ends.
func serveEcho(ctx context.Context, address, dataDir string) error {
	e := echo.New()
	e.GET("/", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nothing is lost with it
	defer stop()
	err = srv.ServeTLS(listener, filepath.Join(dataDir, certFile), filepath.Join(dataDir, certKeyFile))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// floors measures the floors alone; the other phases measure theirs again,
// beside the figures that are compared with them.
func floors(ctx context.Context, b *bench) error {
	for _, bits := range []int{2048, 3072, 4096} {
		counts := []int{1, runtime.GOMAXPROCS(0)}
		for _, callers := range counts {
			s, err := generateKeys(ctx, bits, callers, b.scale.keygen)
			if err != nil {
				return err
			}
			b.report.add(figure(fmt.Sprintf("rsa.GenerateKey %d, %s", bits, plural(callers, "core")), []samples{s}))
		}
	}
	floor, err := newCommitFloor(b.dir)
	if err != nil {
		return err
	}
	for _, callers := range []int{1, 8} {
		s, err := floor.run(ctx, callers, b.scale.samples*2)
		if err != nil {
			return errors.Join(err, floor.close())
		}
		b.report.add(figure("sign + fsynced commit, "+plural(callers, "caller"), []samples{s}))
	}
	return floor.close()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"go.etcd.io/bbolt"
)

// commitFloor is what no durable create or signature can do without: one signature of an
// RSA key of 2048 bits and one fsynced commit to a bbolt file.
type commitFloor struct {
	sign func(*rsa.PrivateKey) ([]byte, error)
	key  *rsa.PrivateKey
	db   *bbolt.DB
}

func newCommitFloor(file string, sign func(*rsa.PrivateKey) ([]byte, error)) (*commitFloor, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{
		Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoStatistics: true,
	})
	return &commitFloor{sign, key, db}, err
}

// signCSR is the signature of a create.
func signCSR(key *rsa.PrivateKey) ([]byte, error) {
	template := &x509.CertificateRequest{
		SignatureAlgorithm: x509.SHA256WithRSA,
		Subject:            pkix.Name{CommonName: host, Organization: []string{"Example Ltd"}, Country: []string{"US"}},
		DNSNames:           []string{host},
	}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

// signDigest is that of a signature of 32 bytes, of which the store gets no more than is
// committed here.
func signDigest(key *rsa.PrivateKey) ([]byte, error) {
	digest := sha256.Sum256([]byte("token"))
	return key.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
}

func (f *commitFloor) commit(slot int) error {
	signed, err := f.sign(f.key)
	if err != nil {
		return err
	}
	return f.db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("csr"))
		if err != nil {
			return err
		}
		return bucket.Put(strconv.AppendInt(nil, int64(slot), 10), signed)
	})
}

// loop makes count commits with as many callers, each with a transaction and an fsync
// of its own.
func (f *commitFloor) loop(callers, count int) measure {
	return func(ctx context.Context) (samples, error) {
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
}

// emptyCommand is the argument that makes this program the server of the empty handler,
// in a process of its own as the measured one is.
const emptyCommand = "empty-handler"

// serveEmpty answers GET / with an empty 200, over the TLS certificate of
// a data_dir, until ctx ends.
func serveEmpty(ctx context.Context, address, dataDir string) error {
	e := echo.New()
	e.GET("/", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nothing is lost with it
	defer stop()
	err = srv.ServeTLS(listener, filepath.Join(dataDir, "tls-cert.pem"), filepath.Join(dataDir, "tls-key.pem"))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

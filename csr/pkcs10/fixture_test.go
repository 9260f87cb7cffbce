package pkcs10_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

const hostname = "esx-01.example.com"

// noon is the time that the tests run at.
func noon() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func policy() pkcs10.Policy {
	return pkcs10.Policy{KeySizes: []int{2048, 3072, 4096}, Hostname: hostname}
}

func resolve(spec pkcs10.Spec) (pkcs10.Spec, pkcs10.Template, error) { return policy().Resolve(spec) }

// acceptChain returns what is stored of a chain, and the chain.
func acceptChain(text []byte) (string, []*x509.Certificate, error) {
	c, broken := pkcs10.Accept(text, pkcs10.Criteria{Now: noon()})
	if err := broken.Err(); err != nil {
		return "", nil, err
	}
	return c.Chain.PEM(), c.Chain, nil
}

// violationsOf returns the broken rules of an error and fails on any other error.
func violationsOf(t testing.TB, err error) pkcs10.Violations {
	t.Helper()
	if err == nil {
		return nil
	}
	broken, ok := errors.AsType[pkcs10.Violations](err)
	if !ok || len(broken) == 0 {
		t.Fatalf("error %v, want violations", err)
	}
	return broken
}

// testKey is one P-256 key for all tests that need no fresh one.
var testKey = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

// build resolves and signs a spec and returns what crypto/x509 reads of it.
func build(t testing.TB, spec pkcs10.Spec) *x509.CertificateRequest {
	t.Helper()
	_, template, err := resolve(spec)
	if err != nil {
		t.Fatal(err)
	}
	text, err := template.Sign(testKey())
	if err != nil {
		t.Fatal(err)
	}
	return parseRequest(t, text)
}

func pemOf(certificates ...*x509.Certificate) []byte { return []byte(kit.PEM(certificates...)) }

func parseRequest(t testing.TB, text string) *x509.CertificateRequest {
	t.Helper()
	request, err := kit.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

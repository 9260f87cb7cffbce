package kit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// CA is a certificate authority. One without Cert signs with its own name: what it
// issues for its own key is self-signed.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	Now  time.Time // the middle of the two years in which its certificates are valid
}

// NewCA makes a root, with a P-256 key.
func NewCA(t testing.TB, name string, now time.Time, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	root := &CA{Key: NewKey(t), Now: now}
	root.Cert = root.issueCA(t, name, root.Key, edits)
	return root
}

// NewCA makes a CA whose certificate a issues.
func (a *CA) NewCA(t testing.TB, name string, edits ...func(*x509.Certificate)) *CA {
	t.Helper()
	key := NewKey(t)
	return &CA{Cert: a.issueCA(t, name, key, edits), Key: key, Now: a.Now}
}

func (a *CA) issueCA(t testing.TB, name string, key crypto.Signer, edits []func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	ca := func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	return a.Issue(t, name, key.Public(), append([]func(*x509.Certificate){ca}, edits...)...)
}

// Issue makes a certificate for a key, with the key usage digitalSignature. The edits
// change it before it is signed.
func (a *CA) Issue(t testing.TB, name string, key crypto.PublicKey, edits ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    a.Now.AddDate(-1, 0, 0),
		NotAfter:     a.Now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, edit := range edits {
		edit(c)
	}
	issuer := a.Cert
	if issuer == nil {
		issuer = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key, a.Key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SameKey reports whether two public keys are the same.
func SameKey(a, b crypto.PublicKey) bool {
	key, is := a.(interface{ Equal(crypto.PublicKey) bool })
	return is && key.Equal(b)
}

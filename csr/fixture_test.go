package csr_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
	"attestcsr/test/kit"
)

const hostname = "esx-01.example.com"

func sizes() []int { return []int{2048, 3072, 4096} }

// noon is the time that the tests run at.
func noon() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func pemOf(certificates ...*x509.Certificate) []byte { return []byte(kit.PEM(certificates...)) }

func parseRequest(t testing.TB, text string) *x509.CertificateRequest {
	t.Helper()
	request, err := kit.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// curveOnly makes a P-256 key whatever is asked for, so that a test of many
// rounds does not wait for RSA. All else is the real custodian.
type curveOnly struct{ keystore.Custodian }

func (c curveOnly) Generate(ctx context.Context, _ keystore.KeySpec) (keystore.Key, error) {
	return c.Custodian.Generate(ctx, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256})
}

// faultyStore puts hooks before a real store; a nil hook does nothing.
type faultyStore struct {
	*bolt.Store
	onGet    atomic.Pointer[func(keystore.Slot) error] // after the real Get, whose record an error discards
	onCommit atomic.Pointer[func() error]              // before the real Commit, which an error prevents
}

func (f *faultyStore) Get(ctx context.Context, slot keystore.Slot) (keystore.Record, error) {
	r, err := f.Store.Get(ctx, slot)
	if hook := f.onGet.Load(); hook != nil {
		if injected := (*hook)(slot); injected != nil {
			return keystore.Record{}, injected
		}
	}
	return r, err
}

func (f *faultyStore) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	if hook := f.onCommit.Load(); hook != nil {
		if err := (*hook)(); err != nil {
			return keystore.Commit{}, err
		}
	}
	return f.Store.Commit(ctx, note, ops...)
}

// bench is a service over a real store and custodian in a folder of its own.
type bench struct {
	*csr.Service
	keys  *keystore.Keystore
	store *faultyStore
	close func() error // once
}

func openBench(t testing.TB, dir string, wrap func(keystore.Custodian) keystore.Custodian) bench {
	t.Helper()
	store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	b := bench{store: &faultyStore{Store: store}}
	b.keys, err = keystore.Open(t.Context(), keystore.Options{Store: b.store, Custodian: wrap(custodian), MAC: keystoretest.MAC("records")})
	if err != nil {
		t.Fatal(err)
	}
	b.close = sync.OnceValue(b.keys.Close)
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	b = b.with(t, func(*csr.Config) {})
	if err := b.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func newBench(t testing.TB) bench {
	t.Helper()
	return openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return curveOnly{c} })
}

func admin() csr.Caller {
	return csr.Caller{Request: audit.Request{User: "admin"}, Privileges: []csr.Privilege{csr.SecurityManagement}}
}

func (b bench) grant(t testing.TB, o csr.Operation) *csr.Grant {
	t.Helper()
	g, err := b.Authorise(admin(), o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (b bench) create(t testing.TB, spec pkcs10.Spec) string {
	t.Helper()
	r, err := b.grant(t, csr.CreateCSR).CreateCSR(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b bench) set(t testing.TB, certificates ...*x509.Certificate) error {
	t.Helper()
	return b.grant(t, csr.SetCertificate).SetCertificate(t.Context(), pemOf(certificates...))
}

func (b bench) certificate(t testing.TB) string {
	t.Helper()
	c, err := b.grant(t, csr.GetCertificate).Certificate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// stored returns what a slot holds beside its key.
func (b bench) stored(t testing.TB, slot keystore.Slot) csr.Payload {
	t.Helper()
	record, err := b.keys.Get(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	p, err := csr.DecodePayload(record)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pair returns the public key of the installed private key and that of the
// installed certificate, read as one record.
func (b bench) pair(t testing.TB) (private, certified crypto.PublicKey) {
	t.Helper()
	stop := errors.New("only looking")
	from := keystore.Target{Slot: csr.InstalledSlot()}
	to := keystore.Target{Slot: keystore.Slot{Collection: "test", ID: "never"}}
	_, err := b.keys.Move(t.Context(), from, to, func(key crypto.Signer, old keystore.Record) (keystore.Change, error) {
		p, err := csr.DecodePayload(old)
		if err != nil {
			return keystore.Change{}, err
		}
		certified, err = p.PublicKey()
		if err != nil {
			return keystore.Change{}, err
		}
		private = key.Public()
		return keystore.Change{}, stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	return private, certified
}

func kindOf(err error) csr.Kind {
	if e, ok := errors.AsType[*csr.Error](err); ok {
		return e.Kind
	}
	return csr.Internal
}

func isMismatch(err error) bool {
	e, ok := errors.AsType[*csr.Error](err)
	return ok && e.Kind == csr.Invalid && len(e.Violations) == 1 && e.Violations[0].Rule == pkcs10.KeyMismatch
}

// with returns the bench with another service on the same keys.
func (b bench) with(t testing.TB, edit func(*csr.Config)) bench {
	t.Helper()
	c := csr.Config{
		Keys: b.keys, KeySizes: sizes(), Hostname: hostname, MaxRequests: 100_000, MaxCertificates: 100_000,
		Logger: slog.New(slog.DiscardHandler), Now: noon,
	}
	edit(&c)
	service, err := csr.New(c)
	if err != nil {
		t.Fatal(err)
	}
	b.Service = service
	return b
}

// privateAt returns the public half of the private key that a slot holds.
func (b bench) privateAt(t testing.TB, slot keystore.Slot) crypto.PublicKey {
	t.Helper()
	stop := errors.New("only looking")
	var public crypto.PublicKey
	to := keystore.Target{Slot: keystore.Slot{Collection: "test", ID: "never"}}
	_, err := b.keys.Move(t.Context(), keystore.Target{Slot: slot}, to, func(key crypto.Signer, _ keystore.Record) (keystore.Change, error) {
		public = key.Public()
		return keystore.Change{}, stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	return public
}

func commonName(name string) pkcs10.Spec {
	return pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: name}}}
}

func fullSpec() pkcs10.Spec {
	return pkcs10.Spec{
		Subject: []pkcs10.Attribute{
			{Type: pkcs10.Country, Value: "us"},
			{Type: pkcs10.StateOrProvince, Value: "California"},
			{Type: pkcs10.Locality, Value: "Palo Alto"},
			{Type: pkcs10.Organization, Value: "ACME"},
			{Type: pkcs10.OrganizationalUnit, Value: "Engineering"},
			{Type: pkcs10.CommonName, Value: hostname},
		},
		Email:    "ops@example.com",
		AltNames: []pkcs10.AltName{{Value: hostname}, {Value: "192.0.2.1"}, {Value: "https://example.com/a"}},
	}
}

// violationsOf returns the broken rules of an Invalid error and fails on any other.
func violationsOf(t testing.TB, err error) []pkcs10.Violation {
	t.Helper()
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*csr.Error](err)
	if !ok || e.Kind != csr.Invalid || len(e.Violations) == 0 {
		t.Fatalf("error %v, want kind invalid with violations", err)
	}
	return e.Violations
}

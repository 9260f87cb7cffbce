package csr_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
)

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
	b.keys, err = keystore.Open(t.Context(), keystore.Options{Store: b.store, Custodian: wrap(custodian)})
	if err != nil {
		t.Fatal(err)
	}
	b.close = sync.OnceValue(b.keys.Close)
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	b.Service, err = csr.New(csr.Config{Keys: b.keys, KeySizes: sizes(), Hostname: hostname, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
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

func (b bench) create(t testing.TB, spec csr.Spec) string {
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

func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func kindOf(err error) csr.Kind {
	if e, ok := errors.AsType[*csr.Error](err); ok {
		return e.Kind
	}
	return csr.Internal
}

func isMismatch(err error) bool {
	e, ok := errors.AsType[*csr.Error](err)
	return ok && e.Kind == csr.Invalid && len(e.Violations) == 1 && e.Violations[0].Rule == csr.KeyMismatch
}

func TestNewNamesTheSetting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		hostname string
		sizes    []int
		want     []string // parts of the error; none: accepted
	}{
		{"64 characters", strings.Repeat("h", 64), sizes(), nil},
		{"65 characters", strings.Repeat("h", 65), sizes(), []string{"hostname", "64"}},
		{"empty", "", sizes(), []string{"hostname", "empty"}},
		{"control", "a\nb", sizes(), []string{"hostname", "control"}},
		{"no default size", "h", []int{3072, 4096}, []string{"key_sizes", "2048"}},
		{"no sizes", "h", nil, []string{"key_sizes", "2048"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := csr.New(csr.Config{KeySizes: c.sizes, Hostname: c.hostname})
			if (err == nil) != (c.want == nil) {
				t.Fatalf("error %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %q does not say %q in one line", err, part)
				}
			}
		})
	}
}

func TestAuthorise(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	operations := []csr.Operation{csr.CreateCSR, csr.GetCSR, csr.DeleteCSR, csr.GetCertificate, csr.SetCertificate}
	for _, o := range operations {
		for _, held := range append(csr.Privileges(), "") {
			_, err := b.Authorise(csr.Caller{Request: audit.Request{User: "u"}, Privileges: []csr.Privilege{held}}, o)
			if held == csr.SecurityManagement != (err == nil) {
				t.Errorf("%s with %q: error %v", o, held, err)
			}
			if err != nil && kindOf(err) != csr.Unauthorized {
				t.Errorf("%s with %q: kind %v", o, held, kindOf(err))
			}
		}
		g := b.grant(t, o)
		calls := map[csr.Operation]func() error{
			csr.CreateCSR:      func() error { _, err := g.CreateCSR(t.Context(), csr.Spec{}); return err },
			csr.GetCSR:         func() error { _, err := g.CSR(t.Context()); return err },
			csr.DeleteCSR:      func() error { return g.DeleteCSR(t.Context()) },
			csr.GetCertificate: func() error { _, err := g.Certificate(t.Context()); return err },
			csr.SetCertificate: func() error { return g.SetCertificate(t.Context(), nil) },
		}
		for other, call := range calls {
			if err := call(); other != o && (err == nil || kindOf(err) != csr.Internal) {
				t.Errorf("a grant for %s did %s: error %v", o, other, err)
			}
		}
	}
	if g, err := b.Authorise(admin(), "csr.steal"); g != nil || err == nil || kindOf(err) != csr.Internal {
		t.Errorf("unknown operation: grant %v, error %v", g, err)
	}
}

// The whole life of a certificate with real RSA keys, over a restart.
func TestLifeOfACertificate(t *testing.T) {
	t.Parallel()
	asGiven := func(c keystore.Custodian) keystore.Custodian { return c }
	dir := t.TempDir()
	b := openBench(t, dir, asGiven)

	initial := b.certificate(t)
	_, chain, err := csr.AcceptChain([]byte(initial), noon())
	if err != nil || len(chain) != 1 {
		t.Fatal(err)
	}
	self := chain[0]
	if key, ok := self.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 2048 {
		t.Errorf("initial key %T", self.PublicKey)
	}
	if self.Subject.String() != "CN="+hostname || self.Issuer.String() != "CN="+hostname || self.IsCA || !self.BasicConstraintsValid ||
		self.KeyUsage != x509.KeyUsageDigitalSignature || !self.NotAfter.Equal(noon().AddDate(10, 0, 0)) {
		t.Errorf("initial certificate %+v", self)
	}
	if n := self.SerialNumber.BitLen(); self.SerialNumber.Sign() <= 0 || n > 128 || n < 64 {
		t.Errorf("serial number of %d bits", n)
	}
	if err := self.CheckSignature(self.SignatureAlgorithm, self.RawTBSCertificate, self.Signature); err != nil {
		t.Error(err)
	}
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("CSR before any: %v", err)
	}
	if err := b.grant(t, csr.DeleteCSR).DeleteCSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("delete before any: %v", err)
	}

	size := int64(3072)
	made := b.create(t, csr.Spec{KeySize: &size, Subject: []csr.Attribute{{Type: csr.Organization, Value: "ACME"}}, Email: "ops@example.com"})
	request := parseRequest(t, made)
	if key, ok := request.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 3072 || request.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("key %T, signature %v", request.PublicKey, request.SignatureAlgorithm)
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != made {
		t.Errorf("stored CSR %+v, error %v", got, err)
	}
	if b.certificate(t) != initial {
		t.Error("a create changed the installed certificate")
	}

	root := newAuthority(t, "root", nil)
	issued := root.issue(t, "attestation", request.PublicKey)
	if err := b.set(t, issued, root.certificate); err != nil {
		t.Fatal(err)
	}
	if got := b.certificate(t); got != string(pemOf(issued, root.certificate)) {
		t.Errorf("installed %s", got)
	}
	said := b.stored(t, csr.InstalledSlot()).Spec
	if *said.KeySize != 3072 || said.Email != "ops@example.com" || len(said.Subject) != 2 || said.Subject[1].Value != hostname {
		t.Errorf("what the CSR said became %+v", said)
	}
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("the CSR was not used up: %v", err)
	}

	// A renewal for the installed key leaves the next pending CSR alone.
	pending := b.create(t, csr.Spec{})
	renewed := root.issue(t, "attestation", request.PublicKey)
	if err := b.set(t, renewed); err != nil {
		t.Fatal(err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}

	b = openBench(t, dir, asGiven) // Prepare finds a certificate and leaves it
	if got := b.certificate(t); got != string(pemOf(renewed)) {
		t.Error("the renewal is not what a restart finds")
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != pending {
		t.Errorf("pending CSR after a renewal: %v", err)
	}
	if got := b.stored(t, csr.InstalledSlot()).Spec; !reflect.DeepEqual(got, said) {
		t.Errorf("after a renewal the CSR said %+v", got)
	}
	if private, certified := b.pair(t); !equalKeys(private, certified) || !equalKeys(private, request.PublicKey) {
		t.Error("the installed key is not the certified one")
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.grant(t, csr.DeleteCSR).DeleteCSR(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.set(t, root.issue(t, "late", parseRequest(t, pending).PublicKey)); !isMismatch(err) {
		t.Errorf("a certificate for a deleted CSR: %v", err)
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pending := b.create(t, csr.Spec{})
	installed := b.certificate(t)

	_, err := b.grant(t, csr.CreateCSR).CreateCSR(t.Context(), csr.Spec{Email: "nobody"})
	violationsOf(t, err)
	root := newAuthority(t, "root", nil)
	if err := b.set(t, root.issue(t, "stranger", newKey(t).Public())); !isMismatch(err) {
		t.Errorf("a certificate for another key: %v", err)
	}
	if err := b.set(t); kindOf(err) != csr.Invalid {
		t.Errorf("no certificate: %v", err)
	}
	replaced := parseRequest(t, pending).PublicKey
	pending = b.create(t, csr.Spec{})
	if err := b.set(t, root.issue(t, "late", replaced)); !isMismatch(err) {
		t.Errorf("a certificate for a CSR that was replaced: %v", err)
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != pending {
		t.Errorf("pending CSR: %v", err)
	}
	if b.certificate(t) != installed {
		t.Error("the installed certificate changed")
	}
}

func TestKindsOfStoreErrors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.create(t, csr.Spec{})
	for _, c := range []struct {
		cause error
		want  csr.Kind
		retry bool
	}{
		{keystore.ErrNotFound, csr.NotFound, false},
		{keystore.ErrConflict, csr.Conflict, false},
		{keystore.ErrBusy, csr.Busy, true},
		{keystore.ErrUnavailable, csr.Unavailable, true},
		{keystore.ErrNotCommitted, csr.Internal, false},
		{keystore.ErrOutcomeUnknown, csr.Internal, false},
		{context.Canceled, csr.Internal, false},
		{context.DeadlineExceeded, csr.Internal, false},
		{errors.New("disk on fire"), csr.Internal, false},
	} {
		onCommit := func() error { return fmt.Errorf("injected: %w", c.cause) }
		b.store.onCommit.Store(&onCommit)
		_, err := b.grant(t, csr.CreateCSR).CreateCSR(t.Context(), csr.Spec{})
		e, ok := errors.AsType[*csr.Error](err)
		if !ok || e.Kind != c.want || !errors.Is(err, c.cause) || (e.RetryAfter > 0) != c.retry || e.RetryAfter > time.Minute {
			t.Errorf("%v: %#v", c.cause, err)
		}
		b.store.onCommit.Store(nil)
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != before {
		t.Errorf("a failed create changed the pending CSR: %v", err)
	}

	onGet := func(keystore.Slot) error { return keystore.ErrNotFound }
	b.store.onGet.Store(&onGet)
	if _, err := b.grant(t, csr.GetCertificate).Certificate(t.Context()); err == nil || kindOf(err) != csr.Internal {
		t.Errorf("an absent installed certificate: %v, want kind internal", err)
	}
}

// A payload that was damaged or written by a newer version is our fault, and
// its text does not reach the caller's answer.
func TestUnreadablePayload(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, text := range []string{"", "{}", "2 {}\nx", "1 {}", "\x00"} {
		at := keystore.Target{Slot: csr.PendingSlot()}
		_, err := b.keys.Replace(t.Context(), at, keystore.KeySpec{}, func(crypto.Signer) (keystore.Change, error) {
			return keystore.Change{Payload: []byte(text)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err == nil || kindOf(err) != csr.Internal {
			t.Errorf("%q: %v", text, err)
		}
		root := newAuthority(t, "root", nil)
		if err := b.set(t, root.issue(t, "x", testKey().Public())); err == nil || kindOf(err) != csr.Internal {
			t.Errorf("set beside %q: %v", text, err)
		}
	}
}

func TestFreshKeyEachTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var seen [][]byte
	for range 20 {
		spki := parseRequest(t, b.create(t, csr.Spec{})).RawSubjectPublicKeyInfo
		if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, spki) }) {
			t.Fatal("a key came twice")
		}
		seen = append(seen, spki)
	}
}

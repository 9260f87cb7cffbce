package csr_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

func TestNewNamesTheSetting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hostname string
		sizes    []int
		want     []string // parts of the error; none: accepted
	}{
		{strings.Repeat("h", 64), sizes(), nil},
		{strings.Repeat("h", 65), sizes(), []string{"hostname", "64"}},
		{"", sizes(), []string{"hostname", "empty"}},
		{"a\nb", sizes(), []string{"hostname", "control"}},
		{"h", []int{3072, 4096}, []string{"key_sizes", "2048"}},
		{"h", nil, []string{"key_sizes", "2048"}},
	} {
		_, err := csr.New(csr.Config{KeySizes: c.sizes, Hostname: c.hostname, Now: time.Now})
		if (err == nil) != (c.want == nil) {
			t.Fatalf("%q, %v: error %v", c.hostname, c.sizes, err)
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q does not say %q in one line", err, part)
			}
		}
	}
}

// The whole life of a certificate with real RSA keys, over a restart.
func TestLifeOfACertificate(t *testing.T) {
	t.Parallel()
	asGiven := func(c keystore.Custodian) keystore.Custodian { return c }
	dir := t.TempDir()
	b := openBench(t, dir, asGiven)
	b.checkInitial(t)
	initial := b.certificate(t)
	spec := pkcs10.Spec{KeySize: new(int64(3072)), Subject: []pkcs10.Attribute{{Type: pkcs10.Organization, Value: "ACME"}}, Email: "ops@example.com"}
	made := b.create(t, spec)
	if b.certificate(t) != initial {
		t.Error("a create changed the installed certificate")
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != made {
		t.Errorf("stored CSR %s, error %v", got, err)
	}

	root := kit.NewCA(t, "root", noon())
	key := parseRequest(t, made).PublicKey
	issued := root.Issue(t, "attestation", key)
	if err := b.set(t, issued, root.Cert); err != nil {
		t.Fatal(err)
	}
	if got := b.certificate(t); got != kit.PEM(issued, root.Cert) {
		t.Errorf("installed %s", got)
	}
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("the CSR was not used up: %v", err)
	}
	said := b.stored(t, csr.InstalledSlot()).Spec
	if *said.KeySize != 3072 || said.Email != spec.Email || len(said.Subject) != 2 || said.Subject[1].Value != hostname {
		t.Errorf("what the CSR said became %+v", said)
	}

	// A renewal for the installed key leaves the next pending CSR alone.
	pending := b.create(t, pkcs10.Spec{})
	renewed := root.Issue(t, "attestation", key)
	if err := errors.Join(b.set(t, renewed), b.close()); err != nil {
		t.Fatal(err)
	}
	b = openBench(t, dir, asGiven) // Prepare finds a certificate and leaves it
	if got := b.certificate(t); got != kit.PEM(renewed) || !reflect.DeepEqual(b.stored(t, csr.InstalledSlot()).Spec, said) {
		t.Error("the renewal, or what its CSR said, is not what a restart finds")
	}
	if got, err := b.grant(t, csr.GetCSR).CSR(t.Context()); err != nil || got != pending {
		t.Errorf("pending CSR after a renewal: %v", err)
	}
	if private, certified := b.pair(t); !kit.SameKey(private, certified) || !kit.SameKey(private, key) {
		t.Error("the installed key is not the certified one")
	}
	if err := errors.Join(b.Ready(t.Context()), b.grant(t, csr.DeleteCSR).DeleteCSR(t.Context())); err != nil {
		t.Error(err)
	}
	if err := b.set(t, root.Issue(t, "late", parseRequest(t, pending).PublicKey)); !isMismatch(err) {
		t.Errorf("a certificate for a deleted CSR: %v", err)
	}
}

// checkInitial checks what there is before any request.
func (b bench) checkInitial(t *testing.T) {
	t.Helper()
	chain, err := kit.ParseChain(b.certificate(t))
	if err != nil || len(chain) != 1 {
		t.Fatal(len(chain), err)
	}
	self := chain[0]
	if key, ok := self.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 2048 {
		t.Errorf("initial key %T", self.PublicKey)
	}
	if self.KeyUsage != x509.KeyUsageDigitalSignature || !self.NotAfter.Equal(noon().AddDate(10, 0, 0)) {
		t.Errorf("initial certificate %+v", self)
	}
	if _, err := b.grant(t, csr.GetCSR).CSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("CSR before any: %v", err)
	}
	if err := b.grant(t, csr.DeleteCSR).DeleteCSR(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("delete before any: %v", err)
	}
}

func TestBadInputChangesNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pending := b.create(t, pkcs10.Spec{})
	installed := b.certificate(t)

	_, err := b.grant(t, csr.CreateCSR).CreateCSR(t.Context(), pkcs10.Spec{Email: "nobody"})
	violationsOf(t, err)
	root := kit.NewCA(t, "root", noon())
	if err := b.set(t, root.Issue(t, "stranger", kit.NewKey(t).Public())); !isMismatch(err) {
		t.Errorf("a certificate for another key: %v", err)
	}
	if err := b.set(t); kindOf(err) != csr.Invalid {
		t.Errorf("no certificate: %v", err)
	}
	replaced := parseRequest(t, pending).PublicKey
	pending = b.create(t, pkcs10.Spec{})
	if err := b.set(t, root.Issue(t, "late", replaced)); !isMismatch(err) {
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
	before := b.create(t, pkcs10.Spec{})
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
		_, err := b.grant(t, csr.CreateCSR).CreateCSR(t.Context(), pkcs10.Spec{})
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
	for _, text := range []string{"", "{}", "3 {}\nx", "1 {}", "\x00"} {
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
		root := kit.NewCA(t, "root", noon())
		if err := b.set(t, root.Issue(t, "x", kit.NewKey(t).Public())); err == nil || kindOf(err) != csr.Internal {
			t.Errorf("set beside %q: %v", text, err)
		}
	}
}

func TestFreshKeyEachTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var seen [][]byte
	for range 20 {
		spki := parseRequest(t, b.create(t, pkcs10.Spec{})).RawSubjectPublicKeyInfo
		if slices.ContainsFunc(seen, func(s []byte) bool { return bytes.Equal(s, spki) }) {
			t.Fatal("a key came twice")
		}
		seen = append(seen, spki)
	}
}

package csr_test

import (
	"crypto/x509"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// afterLook runs f once, after the store was next read for the slot and before
// its reader sees the record.
func (b bench) afterLook(at keystore.Slot, f func() error) {
	var hook func(keystore.Slot) error
	hook = func(slot keystore.Slot) error {
		if slot != at || !b.store.onGet.CompareAndSwap(&hook, nil) {
			return nil
		}
		return f()
	}
	b.store.onGet.Store(&hook)
}

func TestSetIsOvertaken(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	for _, c := range []struct {
		name string
		by   func(t *testing.T, b bench, issued *x509.Certificate) error
		ok   bool // else: does not answer the current CSR
	}{
		{"by a create", func(t *testing.T, b bench, _ *x509.Certificate) error {
			b.create(t, pkcs10.Spec{})
			return nil
		}, false},
		{"by a delete", func(t *testing.T, b bench, _ *x509.Certificate) error {
			return b.grant(t, csr.DeleteCSR).DeleteCSR(t.Context())
		}, false},
		{"by an equal set", func(t *testing.T, b bench, issued *x509.Certificate) error {
			return b.set(t, issued)
		}, true},
		{"by another set for the same key", func(t *testing.T, b bench, issued *x509.Certificate) error {
			return b.set(t, root.Issue(t, "other", issued.PublicKey))
		}, true},
		{"by an equal set and a create", func(t *testing.T, b bench, issued *x509.Certificate) error {
			err := b.set(t, issued)
			b.create(t, pkcs10.Spec{})
			return err
		}, true},
		{"by two full rounds", func(t *testing.T, b bench, issued *x509.Certificate) error {
			err := b.set(t, issued)
			next := parseRequest(t, b.create(t, pkcs10.Spec{}))
			return errors.Join(err, b.set(t, root.Issue(t, "next", next.PublicKey)))
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			issued := root.Issue(t, "attestation", parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey)
			ran := false
			b.afterLook(csr.PendingSlot(), func() error {
				ran = true
				return c.by(t, b, issued)
			})
			err := b.set(t, issued)
			if !ran {
				t.Fatal("nothing overtook the set")
			}
			if c.ok && err != nil || !c.ok && !isMismatch(err) {
				t.Errorf("error %v", err)
			}
			if c.ok && b.certificate(t) != kit.PEM(issued) {
				t.Error("another certificate is installed")
			}
			if private, certified := b.pair(t); !kit.SameKey(private, certified) {
				t.Error("the installed key is not the certified one")
			}
		})
	}
}

// A renewal that is overtaken by a certificate for a new key must not end up
// over that key.
func TestRenewalIsOvertaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	old, _ := b.pair(t)
	next := root.Issue(t, "next", parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey)
	b.afterLook(csr.InstalledSlot(), func() error { return b.set(t, next) })
	if err := b.set(t, root.Issue(t, "renewal", old)); !isMismatch(err) {
		t.Errorf("error %v", err)
	}
	if b.certificate(t) != kit.PEM(next) {
		t.Error("another certificate is installed")
	}
	if private, certified := b.pair(t); !kit.SameKey(private, certified) {
		t.Error("the installed key is not the certified one")
	}
}

// A renewal that is overtaken again and again gives up with a conflict.
func TestSetGivesUp(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	private, _ := b.pair(t)
	tries := 0
	hook := func() error { tries++; return keystore.ErrConflict }
	b.store.onCommit.Store(&hook)
	if err := b.set(t, root.Issue(t, "renewal", private)); kindOf(err) != csr.Conflict || tries != csr.MaxAttempts {
		t.Errorf("error %v after %d tries, want conflict after %d", err, tries, csr.MaxAttempts)
	}
}

// Creates and sets race. At every moment the installed certificate is for the
// installed key, and every set ends in success or as overtaken.
func TestCreateAndSetRace(t *testing.T) {
	t.Parallel()
	const rounds = 250 // 1,000 in all
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	var installed, overtaken atomic.Int64

	done := make(chan struct{})
	var reader, writers sync.WaitGroup
	reader.Go(func() {
		for {
			if private, certified := b.pair(t); !kit.SameKey(private, certified) {
				t.Error("the installed key is not the certified one")
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 4 {
		writers.Go(func() {
			for range rounds {
				issued := root.Issue(t, "attestation", parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey)
				switch err := b.set(t, issued); {
				case err == nil:
					installed.Add(1)
				case isMismatch(err):
					overtaken.Add(1)
				default:
					t.Errorf("set: %v", err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	reader.Wait()
	if installed.Load() == 0 || overtaken.Load() == 0 {
		t.Errorf("%d installed, %d overtaken: there was no race", installed.Load(), overtaken.Load())
	}
}

func TestEqualSetsAllSucceed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	for range 20 {
		issued := root.Issue(t, "attestation", parseRequest(t, b.create(t, pkcs10.Spec{})).PublicKey)
		var sets sync.WaitGroup
		for range 8 {
			sets.Go(func() {
				if err := b.set(t, issued); err != nil {
					t.Error(err)
				}
			})
		}
		sets.Wait()
		if b.certificate(t) != kit.PEM(issued) {
			t.Fatal("another certificate is installed")
		}
	}
}

// Of two that prepare one store, the first makes the certificate.
func TestPrepareIsOvertaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.keys.Delete(t.Context(), keystore.Target{Slot: csr.InstalledSlot()}, nil); err != nil {
		t.Fatal(err)
	}
	var first string
	b.afterLook(csr.InstalledSlot(), func() error {
		err := b.Prepare(t.Context())
		first = b.certificate(t)
		return err
	})
	if err := b.Prepare(t.Context()); err != nil {
		t.Error(err)
	}
	if first == "" || b.certificate(t) != first {
		t.Error("the second replaced the certificate of the first")
	}
}

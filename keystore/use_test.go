package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

// notes returns what waits in the store's outbox.
func (f *fixture) notes(t *testing.T) (texts []string) {
	t.Helper()
	outbox, ok := f.store.Store.(*bolt.Store)
	if !ok {
		t.Fatal("the store has no outbox")
	}
	err := outbox.Outbox(t.Context(), 0, 100, func(_ uint64, _, _, note []byte) error {
		texts = append(texts, string(note))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// sign signs a digest with the key of a slot and leaves a note.
func (f *fixture) sign(ctx context.Context, slot keystore.Slot, digest []byte, note string) (signature []byte, record keystore.Record, err error) {
	err = f.Use(ctx, slot, func(key crypto.Signer, r keystore.Record) (_ []byte, err error) {
		record = r
		signature, err = key.Sign(rand.Reader, digest, crypto.SHA256)
		return []byte(note), err
	})
	return signature, record, err
}

// A use commits its evidence before it counts, and changes no slot.
func TestUse(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	made := f.mustReplace(t, a)
	digest := sha256.Sum256([]byte("data"))
	signature, r, err := f.sign(t.Context(), a, digest[:], "signed")
	if err != nil || r.Revision != made.Revision || len(r.Ref) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	public, err := x509.ParsePKIXPublicKey(r.Payload)
	if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("the signature is not of the key in the record: %v", err)
	}
	if got := f.notes(t); len(got) != 1 || got[0] != "signed" {
		t.Errorf("notes %q", got)
	}
	if now := f.wantPair(t, a); now.Revision != made.Revision {
		t.Errorf("the use changed the record: revision %d, then %d", made.Revision, now.Revision)
	}
}

func TestUseFails(t *testing.T) {
	t.Parallel()
	f := openFixture(t, func(o *keystore.Options) { o.Processors = 1 })
	f.mustReplace(t, a)
	use := func(slot keystore.Slot, fn func(crypto.Signer, keystore.Record) ([]byte, error)) error {
		return f.Use(t.Context(), slot, fn)
	}
	evidence := func(crypto.Signer, keystore.Record) ([]byte, error) { return []byte("evidence"), nil }
	refusal := errors.New("refused")
	wantError(t, "an error of fn", use(a, func(crypto.Signer, keystore.Record) ([]byte, error) { return []byte("x"), refusal }), refusal)
	wantError(t, "an empty slot", use(b, evidence), keystore.ErrNotFound)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = use(a, func(crypto.Signer, keystore.Record) ([]byte, error) { panic("in fn") })
	}()
	f.store.FailNext(keystoretest.FailBefore)
	wantError(t, "a commit that fails", use(a, evidence), keystore.ErrNotCommitted)
	if got := f.notes(t); len(got) != 0 {
		t.Errorf("notes %q of uses that failed", got)
	}
	if err := use(a, func(crypto.Signer, keystore.Record) ([]byte, error) { return nil, nil }); err != nil || len(f.notes(t)) != 0 {
		t.Errorf("a use without a note: %v", err)
	}
	// Nobody holds the only place for uses any more.
	if err := use(a, evidence); err != nil {
		t.Error(err)
	}
	keyless := keystore.Change{Payload: []byte("x"), Companions: []keystore.Companion{{Target: keystore.Target{Slot: b}, Payload: []byte("retired")}}}
	if _, err := f.Update(t.Context(), keystore.Target{Slot: a}, keyless); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a record without a key", use(b, evidence), keystore.ErrNoKey)
}

// The record and the key of a use are those of its beginning, and belong together.
func TestUseWhileReplaced(t *testing.T) {
	t.Parallel()
	f := openFixture(t, func(o *keystore.Options) { o.Processors = 2 })
	before := f.mustReplace(t, a)
	err := f.Use(t.Context(), a, func(key crypto.Signer, r keystore.Record) ([]byte, error) {
		f.mustReplace(t, a)
		if change, err := publicKey(key); err != nil || !bytes.Equal(change.Payload, r.Payload) || r.Revision != before.Revision {
			t.Errorf("another key: %v", err)
		}
		return []byte("evidence"), nil
	})
	if got := f.notes(t); err != nil || len(got) != 1 {
		t.Errorf("%v, notes %q", err, got)
	}
}

// Companions are changed with the slot, or neither is.
func TestCompanions(t *testing.T) {
	t.Parallel()
	retired := keystore.Slot{Collection: "retired", ID: "1"}
	with := func(c keystore.Companion) keystore.Change {
		return keystore.Change{Payload: []byte("x"), Companions: []keystore.Companion{c}}
	}
	write := keystore.Companion{
		Target: keystore.Target{Slot: retired, Expect: keystore.Absent}, Payload: []byte("public half"),
		Index: []keystore.IndexEntry{{Name: "at", Value: []byte("1")}},
	}
	for name, change := range map[string]func(*fixture, keystore.Change) error{
		"Replace": func(f *fixture, c keystore.Change) error {
			_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) { return c, nil })
			return err
		},
		"Move": func(f *fixture, c keystore.Change) error {
			_, err := f.Move(t.Context(), keystore.Target{Slot: b}, keystore.Target{Slot: a},
				func(crypto.Signer, keystore.Record) (keystore.Change, error) { return c, nil })
			return err
		},
		"Update": func(f *fixture, c keystore.Change) error {
			_, err := f.Update(t.Context(), keystore.Target{Slot: a}, c)
			return err
		},
	} {
		f := openFixture(t, nil)
		f.mustReplace(t, a)
		f.mustReplace(t, b)
		if err := change(f, with(write)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		main, err := f.Get(t.Context(), a)
		got, companionErr := f.Get(t.Context(), retired)
		if err != nil || companionErr != nil || string(got.Payload) != "public half" || len(got.Index) != 1 || got.Revision != main.Revision {
			t.Fatalf("%s: %+v beside %+v: %v, %v", name, got, main, err, companionErr)
		}
		f.mustReplace(t, b)
		wantError(t, name+" where the companion is not what was expected", change(f, with(write)), keystore.ErrConflict)
		if now, err := f.Get(t.Context(), a); err != nil || now.Revision != main.Revision {
			t.Errorf("%s: the slot changed without its companion: %v", name, err)
		}
		f.mustReplace(t, b)
		if err := change(f, with(keystore.Companion{Target: keystore.Target{Slot: retired}, Delete: true})); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, err = f.Get(t.Context(), retired)
		wantError(t, name+": the companion", err, keystore.ErrNotFound)
	}
}

// A companion that held a key takes its place: nobody could use it any more.
func TestCompanionOverKey(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	f.mustReplace(t, a)
	f.mustReplace(t, b)
	_, err := f.Update(t.Context(), keystore.Target{Slot: a}, keystore.Change{
		Payload: f.wantPair(t, a).Payload, Companions: []keystore.Companion{{Target: keystore.Target{Slot: b}, Payload: []byte("x")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantKeys(t, 0, a)
}

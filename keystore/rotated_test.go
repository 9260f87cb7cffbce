package keystore_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

// rotations is a store within whose next commits the sealing key is rotated, and the MAC
// of the keys that there have been. Their ids count from 0.
type rotations struct {
	keystore.Store
	primary int
	due     int
	early   bool   // they come before the commit, after a key was bound
	then    func() // follows each rotation
	commits int
}

func (r *rotations) Commit(ctx context.Context, note []byte, ops ...keystore.Op) (keystore.Commit, error) {
	r.commits++
	if !r.early {
		r.rotate()
	}
	return r.Store.Commit(ctx, note, ops...)
}

func (r *rotations) rotate() {
	if r.due > 0 {
		r.due--
		r.primary++
		r.then()
	}
}

func (r *rotations) Primary() string { return fmt.Sprintf("%08d", r.primary) }

func (r *rotations) Sum(id string, message []byte) ([sha256.Size]byte, bool) {
	code, _ := keystoretest.MAC(id).Sum("", message)
	return code, id <= r.Primary()
}

// rotated is a vault whose references say which sealing key they are under, and are
// different each time.
type rotated struct {
	*keystoretest.Vault
	keys *rotations
	made int
	live []string
	deaf bool // references are under no sealing key
}

func (c *rotated) refer(name keystore.Ref) keystore.Ref {
	c.made++
	ref := fmt.Sprintf("%s/%d/%s", c.keys.Primary(), c.made, name)
	c.live = append(c.live, ref)
	if c.keys.early {
		c.keys.rotate()
	}
	return keystore.Ref(ref)
}

func named(ref keystore.Ref) keystore.Ref {
	return ref[strings.LastIndexByte(string(ref), '/')+1:]
}

func (c *rotated) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	key, err := c.Vault.Generate(ctx, spec)
	return rotatedKey{key, c}, err
}

type rotatedKey struct {
	keystore.Key
	custodian *rotated
}

func (k rotatedKey) Bind(ctx context.Context, to keystore.Binding) (keystore.Ref, error) {
	name, err := k.Key.Bind(ctx, to)
	return k.custodian.refer(name), err
}

func (c *rotated) Open(ctx context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	return c.Vault.Open(ctx, at, named(ref))
}

func (c *rotated) Rebind(ctx context.Context, from, to keystore.Binding, ref keystore.Ref) (keystore.Ref, error) {
	name, err := c.Vault.Rebind(ctx, from, to, named(ref))
	if err != nil {
		return nil, err
	}
	return c.refer(name), nil
}

func (c *rotated) Stale(ref keystore.Ref) bool {
	return !c.deaf && !strings.HasPrefix(string(ref), c.keys.Primary())
}

func (c *rotated) Destroy(_ context.Context, ref keystore.Ref) error {
	c.live = slices.DeleteFunc(c.live, func(other string) bool { return other == string(ref) })
	return nil
}

func (c *rotated) Sweep(context.Context, func(keystore.Ref) bool) error { return nil }

// openRotated opens a Keystore with keys in slots a and b.
func openRotated(t *testing.T) (*keystore.Keystore, *rotations, *rotated) {
	t.Helper()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	keys := &rotations{Store: store, then: func() {}}
	custodian := &rotated{Vault: keystoretest.NewVault(), keys: keys}
	k, err := keystore.Open(t.Context(), keystore.Options{Store: keys, Custodian: custodian, MAC: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, slot := range []keystore.Slot{a, b} {
		if _, err := k.Replace(t.Context(), keystore.Target{Slot: slot}, spec, publicKey); err != nil {
			t.Fatal(err)
		}
	}
	return k, keys, custodian
}

// meanwhile are the verbs, within which the sealing key is rotated.
var meanwhile = map[string]struct {
	call func(context.Context, *keystore.Keystore) error
	ops  bool // leave a record
}{
	"Replace": {func(ctx context.Context, k *keystore.Keystore) error {
		_, err := k.Replace(ctx, keystore.Target{Slot: a}, spec, publicKey)
		return err
	}, true},
	"Move": {func(ctx context.Context, k *keystore.Keystore) error {
		_, err := k.Move(ctx, keystore.Target{Slot: b}, keystore.Target{Slot: a}, keep)
		return err
	}, true},
	"Update": {func(ctx context.Context, k *keystore.Keystore) error {
		old, err := k.Get(ctx, a)
		if err == nil {
			_, err = k.Update(ctx, keystore.Target{Slot: a}, keystore.Change{Payload: old.Payload})
		}
		return err
	}, true},
	"Delete": {func(ctx context.Context, k *keystore.Keystore) error {
		return k.Delete(ctx, keystore.Target{Slot: a}, []byte("x"))
	}, false},
	"Note": {func(ctx context.Context, k *keystore.Keystore) error { return k.Note(ctx, []byte("x")) }, false},
}

// TestRotatedMeanwhile: a commit that was made up under a key that has been rotated since
// is made up again. Nothing is stored under the older key, and no reference is left over.
func TestRotatedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, verb := range meanwhile {
		for times := range 3 {
			for how, set := range map[string]func(*rotations, *rotated){
				"within the commit":             func(*rotations, *rotated) {},
				"before the commit":             func(keys *rotations, _ *rotated) { keys.early = true },
				"keys are under no sealing key": func(_ *rotations, custodian *rotated) { custodian.deaf = true },
			} {
				t.Run(fmt.Sprint(name, " ", times, " ", how), func(t *testing.T) {
					t.Parallel()
					k, keys, custodian := openRotated(t)
					set(keys, custodian)
					keys.due, keys.commits = times, 0
					if err := verb.call(t.Context(), k); err != nil {
						t.Fatal(err)
					}
					if n := keys.commits; n != 1 && !verb.ops || n != 1+times && verb.ops {
						t.Errorf("%d commits for %d rotations", n, times)
					}
					r := wantReferences(t, keys, custodian)
					if verb.ops && (custodian.Stale(r.Ref) || r.Code[3] != byte(times)) {
						t.Errorf("the record is under an older key: %s, code %x", r.Ref, r.Code)
					}
					if err := k.Ready(t.Context(), a, b); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// wantReferences wants the custodian to have those of the records, and returns the record
// in slot a.
func wantReferences(t *testing.T, store keystore.Store, custodian *rotated) (inA keystore.Record) {
	t.Helper()
	var refs []string
	_, err := store.Inspect(t.Context(), func(r keystore.Record, err error) error {
		if r.Slot == a {
			inA = r
		}
		refs = append(refs, string(r.Ref))
		return err
	})
	slices.Sort(refs)
	slices.Sort(custodian.live)
	if err != nil || !slices.Equal(refs, custodian.live) {
		t.Errorf("references of records: %q, at the custodian: %q, %v", refs, custodian.live, err)
	}
	return inA
}

// TestRotatedAndRefused: where the key cannot be bound again, nothing is changed.
func TestRotatedAndRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Replace", "Move", "Update"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, keys, custodian := openRotated(t)
			broken := errors.New("broken")
			before, err := k.Get(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			keys.due = 1
			keys.then = func() { custodian.Refuse("Rebind", broken) }
			err = meanwhile[name].call(t.Context(), k)
			wantError(t, name, err, broken)
			wantError(t, name, err, keystore.ErrNotCommitted)
			if r := wantReferences(t, keys, custodian); r.Revision != before.Revision {
				t.Errorf("revision %d, was %d", r.Revision, before.Revision)
			}
		})
	}
}

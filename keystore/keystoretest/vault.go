package keystoretest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"attestcsr/keystore"
)

// Vault is a custodian whose keys live outside the record, as in an HSM: a
// reference is a name, and does not depend on the binding. It keeps books, so
// that a test can say where every key that was ever made has gone. All keys are
// on P-256, whatever was asked for.
//
// Closing a Vault leaves its keys: Reopen gives a custodian with the same.
type Vault struct {
	books  *books
	closed bool
}

// books is what outlives a Vault.
type books struct {
	lock      sync.Mutex
	made      int
	fresh     map[string]crypto.Signer // neither bound nor discarded
	bound     map[string]crypto.Signer
	discarded []string
	destroyed []string
	refuse    map[string]error // by method
}

var _ keystore.Custodian = (*Vault)(nil)

// NewVault returns an empty vault.
func NewVault() *Vault {
	return &Vault{books: &books{fresh: map[string]crypto.Signer{}, bound: map[string]crypto.Signer{}, refuse: map[string]error{}}}
}

// Reopen returns a vault with the same keys, as a process finds them that starts
// after this one ended; keys that were never bound are gone.
func (v *Vault) Reopen() *Vault {
	v.books.lock.Lock()
	defer v.books.lock.Unlock()
	clear(v.books.fresh)
	return &Vault{books: v.books}
}

// Refuse makes a method fail with err from now on: "Generate", "Bind",
// "Discard", "Open", "Rebind", "Destroy" or "Sweep". A nil err ends that.
func (v *Vault) Refuse(method string, err error) {
	v.books.lock.Lock()
	defer v.books.lock.Unlock()
	v.books.refuse[method] = err
}

// Account is where the keys of a Vault are, by name and in order of names.
type Account struct {
	Made                 int
	Fresh                []string // handed out, neither bound nor discarded
	Bound                []string
	Discarded, Destroyed []string // in order of time
}

// Account returns where the keys are.
func (v *Vault) Account() Account {
	v.books.lock.Lock()
	defer v.books.lock.Unlock()
	return Account{
		Made:      v.books.made,
		Fresh:     slices.Sorted(maps.Keys(v.books.fresh)),
		Bound:     slices.Sorted(maps.Keys(v.books.bound)),
		Discarded: slices.Clone(v.books.discarded),
		Destroyed: slices.Clone(v.books.destroyed),
	}
}

// enter locks the books for a method, unless it is to fail; unlock them after.
func (v *Vault) enter(method string) error {
	v.books.lock.Lock()
	err := v.books.refuse[method]
	if v.closed {
		err = fmt.Errorf("%w: the vault is closed", keystore.ErrUnavailable)
	}
	if err != nil {
		v.books.lock.Unlock()
	}
	return err
}

// Generate implements keystore.Custodian.
func (v *Vault) Generate(_ context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if spec.Algorithm != keystore.ECDSA && spec.Algorithm != keystore.RSA {
		return nil, fmt.Errorf("no keys of algorithm %q", string(spec.Algorithm))
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := v.enter("Generate"); err != nil {
		return nil, err
	}
	defer v.books.lock.Unlock()
	v.books.made++
	key := &vaultKey{Signer: private, vault: v, name: fmt.Sprintf("key-%04d", v.books.made)}
	v.books.fresh[key.name] = private
	return key, nil
}

// Open implements keystore.Custodian.
func (v *Vault) Open(_ context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	if err := v.enter("Open"); err != nil {
		return nil, err
	}
	defer v.books.lock.Unlock()
	private := v.books.bound[string(ref)]
	if private == nil {
		return nil, fmt.Errorf("%s: no key %q", at.Slot, ref)
	}
	return private, nil
}

// Rebind implements keystore.Custodian.
func (v *Vault) Rebind(_ context.Context, _, to keystore.Binding, ref keystore.Ref) (keystore.Ref, error) {
	if err := v.enter("Rebind"); err != nil {
		return nil, err
	}
	defer v.books.lock.Unlock()
	if v.books.bound[string(ref)] == nil {
		return nil, fmt.Errorf("%s: no key %q", to.Slot, ref)
	}
	return ref, nil
}

// Stale implements keystore.Custodian.
func (v *Vault) Stale(keystore.Ref) bool { return false }

// MAC is a keystore.MAC under one key, for tests.
type MAC string

// Primary implements keystore.MAC.
func (MAC) Primary() string { return "00000000" }

// Sum implements keystore.MAC.
func (m MAC) Sum(id string, message []byte) (code [sha256.Size]byte, known bool) {
	h := hmac.New(sha256.New, []byte(m))
	h.Write(message)
	h.Sum(code[:0])
	return code, id == m.Primary()
}

// Destroy implements keystore.Custodian.
func (v *Vault) Destroy(ctx context.Context, ref keystore.Ref) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := v.enter("Destroy"); err != nil {
		return err
	}
	defer v.books.lock.Unlock()
	if v.books.bound[string(ref)] != nil {
		delete(v.books.bound, string(ref))
		v.books.destroyed = append(v.books.destroyed, string(ref))
	}
	return nil
}

// Sweep implements keystore.Custodian.
func (v *Vault) Sweep(ctx context.Context, live func(keystore.Ref) bool) error {
	if err := v.enter("Sweep"); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(v.books.bound))
	v.books.lock.Unlock()
	for _, name := range names {
		if live(keystore.Ref(name)) {
			continue
		}
		if err := v.Destroy(ctx, keystore.Ref(name)); err != nil {
			return err
		}
	}
	return nil
}

// Close implements keystore.Custodian.
func (v *Vault) Close() error {
	v.books.lock.Lock()
	defer v.books.lock.Unlock()
	v.closed = true
	return nil
}

type vaultKey struct {
	crypto.Signer
	vault *Vault
	name  string
}

func (k *vaultKey) Bind(context.Context, keystore.Binding) (keystore.Ref, error) {
	if err := k.vault.enter("Bind"); err != nil {
		return nil, err
	}
	defer k.vault.books.lock.Unlock()
	if err := k.end(); err != nil {
		return nil, err
	}
	k.vault.books.bound[k.name] = k.Signer
	return keystore.Ref(k.name), nil
}

func (k *vaultKey) Discard() error {
	k.vault.books.lock.Lock()
	defer k.vault.books.lock.Unlock()
	if err := k.vault.books.refuse["Discard"]; err != nil {
		return err
	}
	if err := k.end(); err != nil {
		return err
	}
	k.vault.books.discarded = append(k.vault.books.discarded, k.name)
	return nil
}

func (k *vaultKey) end() error {
	if k.vault.books.fresh[k.name] == nil {
		return errors.New("the key was bound or discarded before")
	}
	delete(k.vault.books.fresh, k.name)
	return nil
}

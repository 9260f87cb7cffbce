package keystoretest

import (
	"context"
	"crypto"
	"sync"

	"attestcsr/keystore"
)

// HandedIn is a custodian whose RSA keys are always ready: one and the same key
// per size, so that it is good for nothing but measuring what a change costs
// beside the making of its key. Binding one seals it anew, after opening it,
// which costs a little more than binding a fresh key.
type HandedIn struct {
	keystore.Custodian
	mu   sync.Mutex
	keys map[keystore.KeySpec]*handedInKey
}

// NewHandedIn wraps a custodian, which keeps the keys.
func NewHandedIn(custodian keystore.Custodian) *HandedIn {
	return &HandedIn{Custodian: custodian, keys: map[keystore.KeySpec]*handedInKey{}}
}

// Generate returns the key of that size; it makes the first one.
func (h *HandedIn) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if spec.Algorithm != keystore.RSA {
		return h.Custodian.Generate(ctx, spec)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if key := h.keys[spec]; key != nil {
		return key, nil
	}
	fresh, err := h.Custodian.Generate(ctx, spec)
	if err != nil {
		return nil, err
	}
	key := &handedInKey{Signer: fresh, custodian: h.Custodian, at: keystore.Bind(keystore.Slot{Collection: "handed-in", ID: spec.String()}, nil)}
	if key.ref, err = fresh.Bind(ctx, key.at); err != nil {
		return nil, err
	}
	h.keys[spec] = key
	return key, nil
}

type handedInKey struct {
	crypto.Signer
	custodian keystore.Custodian
	at        keystore.Binding
	ref       keystore.Ref
}

func (k *handedInKey) Bind(ctx context.Context, to keystore.Binding) (keystore.Ref, error) {
	return k.custodian.Rebind(ctx, k.at, to, k.ref)
}

func (k *handedInKey) Discard() error { return nil }

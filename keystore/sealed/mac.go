package sealed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// derivation is the salt of HKDF-Extract (RFC 5869): the keys that are derived here
// have nothing in common with what else may ever be derived from the keyset.
const derivation = "attestcsr key derivation 1"

// RetainedPurpose is what codes are checked for after their key was retired. Of every
// other purpose the key goes with the key that it was derived from.
const RetainedPurpose = "audit trail 1"

// derive takes what HKDF-Extract left of a key; the key itself is not kept.
func derive(prk []byte, purpose string) ([]byte, error) {
	return hkdf.Expand(sha256.New, prk, "attestcsr "+purpose, sha256.Size)
}

// MAC computes message authentication codes, HMAC with SHA-256, under keys that
// are derived from the keyset for one purpose: one key for each of the keyset's, those
// that are disabled too. It follows the custodian's Reload. It is safe for concurrent
// use.
type MAC struct {
	custodian *Custodian
	purpose   string
	derived   atomic.Pointer[derived]
}

// derived are the keys of a purpose, with the part of HMAC that depends on them alone
// done.
type derived struct {
	from *keys
	hmac map[string]*sync.Pool // by id; of hash.Hash, each after the key
}

// MAC derives the keys of a purpose. Purposes name their version, and no two uses
// share one.
func (c *Custodian) MAC(purpose string) (*MAC, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	m := &MAC{custodian: c, purpose: purpose}
	_, err := m.present()
	return m, err
}

// present derives the keys anew after a Reload.
func (m *MAC) present() (*derived, error) {
	from := m.custodian.keys.Load()
	if d := m.derived.Load(); d != nil && d.from == from {
		return d, nil
	}
	d := &derived{from: from, hmac: map[string]*sync.Pool{}}
	for _, k := range from.all {
		secret, err := k.retained, error(nil)
		if m.purpose != RetainedPurpose {
			if k.prk == nil {
				continue
			}
			secret, err = derive(k.prk, m.purpose)
		}
		if err != nil {
			return nil, fmt.Errorf("deriving the keys for %q failed", m.purpose)
		}
		d.hmac[k.id] = &sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}
	}
	m.derived.Store(d)
	return d, nil
}

// Primary is the id of the key for what is new: that of the keyset's primary key,
// as 8 hexadecimal digits.
func (m *MAC) Primary() string { return m.custodian.keys.Load().primary }

// Sum returns the code of a message under the key of that id, and false where the
// keyset has none.
func (m *MAC) Sum(id string, message []byte) ([sha256.Size]byte, bool) {
	var sum [sha256.Size]byte
	d, err := m.present()
	if err != nil {
		return sum, false
	}
	prepared := d.hmac[id]
	if prepared == nil {
		return sum, false
	}
	h := prepared.Get().(hash.Hash) //nolint:forcetypeassert // it has nothing else
	defer prepared.Put(h)
	h.Reset()               // to the state after the key, which the first call keeps
	_, _ = h.Write(message) // never fails
	h.Sum(sum[:0])
	return sum, true
}

// Format prints the same for every verb: fmt would otherwise walk into the keys.
func (*MAC) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[authentication keys]") }

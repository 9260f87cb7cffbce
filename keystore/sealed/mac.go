package sealed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcmsiv"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// derivation is the salt of HKDF-Extract (RFC 5869): the keys that are derived here
// have nothing in common with what else may ever be derived from the keyset.
const derivation = "attestcsr key derivation 1"

// root is what other keys are derived from: one of the keyset's keys after
// HKDF-Extract with SHA-256. The key itself is not kept.
type root struct {
	id      string
	primary bool
	prk     []byte
}

// roots makes the root of every key of the keyset, those that are disabled too:
// what was authenticated under a key has to stay verifiable after its rotation.
func roots(handle *keyset.Handle) ([]root, error) {
	var all []root
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, err
		}
		key, ok := entry.Key().(*aesgcmsiv.Key)
		if !ok {
			return nil, errors.New("not an AES-GCM-SIV key")
		}
		raw := key.KeyBytes().Data(insecuresecretdataaccess.Token{})
		prk, err := hkdf.Extract(sha256.New, raw, []byte(derivation))
		clear(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, root{id: fmt.Sprintf("%08x", entry.KeyID()), primary: entry.IsPrimary(), prk: prk})
	}
	return all, nil
}

// MAC computes message authentication codes, HMAC with SHA-256, under keys that
// are derived from the keyset for one purpose: one key for each of the keyset's.
// It is safe for concurrent use.
type MAC struct {
	primary string
	keys    map[string][]byte // by id
}

// MAC derives the keys of a purpose. Purposes name their version, and no two uses
// share one.
func (c *Custodian) MAC(purpose string) (*MAC, error) {
	if err := c.usable(); err != nil {
		return nil, err
	}
	m := &MAC{keys: map[string][]byte{}}
	for _, r := range c.roots {
		key, err := hkdf.Expand(sha256.New, r.prk, "attestcsr "+purpose, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("deriving the keys for %q failed", purpose)
		}
		m.keys[r.id] = key
		if r.primary {
			m.primary = r.id
		}
	}
	return m, nil
}

// Primary is the id of the key for what is new: that of the keyset's primary key,
// as 8 hexadecimal digits.
func (m *MAC) Primary() string { return m.primary }

// Sum returns the code of a message under the key of that id, and false where the
// keyset has none.
func (m *MAC) Sum(id string, message []byte) ([sha256.Size]byte, bool) {
	key, ok := m.keys[id]
	if !ok {
		return [sha256.Size]byte{}, false
	}
	h := hmac.New(sha256.New, key)
	h.Write(message)
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum, true
}

// Format prints the same for every verb: fmt would otherwise walk into the keys.
func (*MAC) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[authentication keys]") }

package csr

import (
	"bytes"
	"crypto"
	"crypto/x509/pkix"
	"slices"
	"sync"

	"attestcsr/keystore"
)

// habit is what the attestation CSR says time after time: it is of one host, whose
// subject stays, so that only the key of the next one is new. Whoever keeps keys ready
// is told what the next CSR will probably say, and can have its signature ready, too.
//
// What was asked for twice in a row is expected a third time. Callers who ask for
// something else each time change nothing: whatever was signed for them ahead would
// be of no use.
type habit struct {
	anticipate func(keystore.KeySpec, func(crypto.Signer) error) // nil: nobody wants to know

	mu             sync.Mutex
	last, expected content
}

// content is what a CSR is made from beside its key.
type content struct {
	key keystore.KeySpec
	template
}

func (c content) equal(o content) bool {
	return c.key == o.key && c.ca == o.ca && bytes.Equal(c.subject, o.subject) &&
		slices.EqualFunc(c.names, o.names, func(a, b pkix.Extension) bool {
			return a.Id.Equal(b.Id) && a.Critical == b.Critical && bytes.Equal(a.Value, b.Value)
		})
}

// begin expects a CSR before the first was made.
func (h *habit) begin(spec Spec, t template) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expect(content{spec.keySpec(), t})
}

// made notes a CSR.
func (h *habit) made(spec Spec, t template) {
	now := content{spec.keySpec(), t}
	h.mu.Lock()
	defer h.mu.Unlock()
	again := now.equal(h.last)
	h.last = now
	if again && !now.equal(h.expected) {
		h.expect(now)
	}
}

// expect tells of the next CSR. The caller has the lock.
func (h *habit) expect(next content) {
	h.expected = next
	if h.anticipate == nil {
		return
	}
	h.anticipate(next.key, func(key crypto.Signer) error {
		_, err := next.sign(key)
		return err
	})
}

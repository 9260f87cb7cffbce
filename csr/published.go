package csr

import (
	"context"
	"crypto"
	"errors"
	"slices"
	"sync"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// Publish says which public keys are published.
type Publish struct {
	Enabled bool
	Retain  time.Duration // of a key that was replaced
	NSX     []string      // ids of named certificates
}

// KeyState says where a published key is.
type KeyState string

// The states.
const (
	StatePending   KeyState = "pending"
	StateStaged    KeyState = "staged"
	StateInstalled KeyState = "installed"
	StateRetired   KeyState = "retired"
	StateNamed     KeyState = "named" // of a named certificate
)

// PublishedKey is a public key that verifiers are to know.
type PublishedKey struct {
	State       KeyState
	KeyID       string
	Public      crypto.PublicKey
	Certificate string    // the chain in PEM; empty where there is none yet
	Since       time.Time // that it has been in this state
}

// Published is a set of public keys at one moment. It is not changed: a later set is
// another one.
type Published struct{ Keys []PublishedKey }

// collectionRetired has a record without a private key for each key that was replaced and
// is still published, under the key's id.
const collectionRetired = "esx/retired"

// indexRetired sorts them by the time at which they were replaced.
const indexRetired = "retired"

func retiredSlot(keyID string) keystore.Slot {
	return keystore.Slot{Collection: collectionRetired, ID: keyID}
}

const (
	// maxRetired is how many of them are published, the newest first.
	maxRetired = 1000
	// maxExpired is how many of them one replacement removes.
	maxExpired = 8
)

// publishedSet keeps the set until this process changes what it is made of, or the first
// of the retired keys expires.
type publishedSet struct {
	mu      sync.Mutex
	set     *Published
	until   time.Time // zero: no retired key is in it
	changes uint64    // counts the calls of forget
}

// forget is called after the commit of a change, before its answer.
func (p *publishedSet) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set, p.changes = nil, p.changes+1
}

// Published returns the keys that are published. Where publishing is off it is NotFound.
//
// Errors: NotFound, Unavailable, Internal.
func (s *Service) Published(ctx context.Context) (*Published, error) {
	if !s.publish.Enabled {
		return nil, &Error{Kind: NotFound}
	}
	p := &s.published
	p.mu.Lock()
	set, changes := p.set, p.changes
	fresh := set != nil && (p.until.IsZero() || s.now().Before(p.until))
	p.mu.Unlock()
	if fresh {
		return set, nil
	}
	set, until, err := s.readPublished(ctx)
	if err != nil {
		return nil, classify(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changes == changes {
		p.set, p.until = set, until
	}
	return set, nil
}

// readPublished reads the slots in the order in which a key goes through them, and the
// keys that are retired last: so a key that moves meanwhile is found.
func (s *Service) readPublished(ctx context.Context) (*Published, time.Time, error) {
	set := &Published{}
	type place struct {
		keystore.Slot
		KeyState
	}
	places := []place{{pendingSlot(), StatePending}, {stagedSlot(), StateStaged}, {installedSlot(), StateInstalled}}
	for _, id := range s.publish.NSX {
		places = append(places, place{certificateSlot(id), StateNamed})
	}
	for _, at := range places {
		record, err := s.keys.Get(ctx, at.Slot)
		if errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrUnauthentic) {
			continue // the second is an alarm elsewhere
		}
		if err != nil {
			return nil, time.Time{}, err
		}
		if key, ok := publishedKey(record, at.KeyState); ok {
			set.add(key)
		}
	}
	retired, err := s.retired(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	var until time.Time
	for _, p := range retired {
		if v, err := p.keyVersion(); err == nil {
			set.add(PublishedKey{StateRetired, v.KeyID, v.Public, v.Certificate, p.Retired})
			if expires := p.Retired.Add(s.publish.Retain); until.IsZero() || expires.Before(until) {
				until = expires
			}
		}
	}
	return set, until, nil
}

// add leaves out a key that is there: it moved while it was read.
func (p *Published) add(key PublishedKey) {
	for _, k := range p.Keys {
		if k.KeyID == key.KeyID {
			return
		}
	}
	p.Keys = append(p.Keys, key)
}

// publishedKey is the key of a CSR or of a certificate. One that may not sign, or cannot
// be read, is not published.
func publishedKey(r keystore.Record, state KeyState) (PublishedKey, bool) {
	p, err := decodePayload(r)
	if err != nil {
		return PublishedKey{}, false
	}
	if state != StatePending {
		v, err := p.keyVersion()
		return PublishedKey{state, v.KeyID, v.Public, v.Certificate, p.Created}, err == nil && maySign(p) == nil
	}
	public, err := pkcs10.PublicKey(p.PEM)
	if err != nil {
		return PublishedKey{}, false
	}
	id, err := pkcs10.Thumbprint(public)
	return PublishedKey{state, id, public, "", p.Created}, err == nil
}

// retired returns what is remembered of replaced keys and still published, the newest
// last.
func (s *Service) retired(ctx context.Context) ([]payload, error) {
	all, err := s.listRetired(ctx, keystore.Query{Collection: collectionRetired, Index: indexRetired, Limit: maxRetired, Descending: true})
	var kept []payload
	for _, p := range slices.Backward(all) {
		if s.now().Before(p.Retired.Add(s.publish.Retain)) {
			kept = append(kept, p)
		}
	}
	return kept, err
}

// expired returns what removes the oldest of the replaced keys, those that are published
// no longer.
func (s *Service) expired(ctx context.Context) ([]keystore.Companion, error) {
	all, err := s.listRetired(ctx, keystore.Query{Collection: collectionRetired, Index: indexRetired, Limit: maxExpired})
	var gone []keystore.Companion
	for _, p := range all {
		if !s.now().Before(p.Retired.Add(s.publish.Retain)) {
			gone = append(gone, keystore.Companion{Target: keystore.Target{Slot: retiredSlot(p.ID)}, Delete: true})
		}
	}
	return gone, err
}

func (s *Service) listRetired(ctx context.Context, q keystore.Query) (all []payload, err error) {
	items, err := s.keys.List(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		if p, err := decodePayload(item.Record); item.Err == nil && err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

package csr

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// KeyInfo is the public side of a key that signs.
type KeyInfo struct {
	Name      KeyName
	Latest    int    // the version that signs
	Algorithm string // RSA or ECDSA
	Bits      int
	Versions  []KeyVersion // in ascending order, the latest last
}

// KeyVersion is a key that had the name at a time. The first has version 1, and the one
// that replaces it the next; a certificate that is renewed keeps its version.
type KeyVersion struct {
	Version     int
	KeyID       string
	Public      crypto.PublicKey
	Created     time.Time
	Certificate string // the chain in PEM
}

// Key returns the public side of the key that the grant is for.
//
// Errors: NotFound; Invalid for a key that may not sign; Unavailable, Internal.
func (g *Grant) Key(ctx context.Context) (KeyInfo, error) {
	if err := g.permits(ReadKey); err != nil {
		return KeyInfo{}, err
	}
	info, err := g.keyInfo(ctx)
	return info, classify(err)
}

// KeyAlgorithm returns the kind of the key that the grant is for, RSA or ECDSA, and how
// many bits it has. It does not read the keys that were replaced, of which there may be
// hundreds. The grant may be for any operation on a key.
//
// Errors: NotFound; Invalid for a key that may not sign; Unavailable, Internal.
func (g *Grant) KeyAlgorithm(ctx context.Context) (algorithm string, bits int, err error) {
	if !g.operation.onKey() {
		return "", 0, g.permits(ReadKey)
	}
	p, err := g.signing(ctx)
	if err != nil {
		return "", 0, classify(err)
	}
	facts := p.facts()[0]
	return facts.KeyAlgorithm, facts.KeyBits, nil
}

// signing returns what is stored with the version of the key that signs.
func (g *Grant) signing(ctx context.Context) (payload, error) {
	record, err := g.service.keys.Get(ctx, g.key.slot())
	if err != nil {
		return payload{}, err
	}
	p, err := decodePayload(record)
	if err != nil {
		return payload{}, err
	}
	return p, maySign(p)
}

func (g *Grant) keyInfo(ctx context.Context) (KeyInfo, error) {
	p, err := g.signing(ctx)
	if err != nil {
		return KeyInfo{}, err
	}
	facts := p.facts()[0]
	info := KeyInfo{Name: g.key, Latest: p.version(), Algorithm: facts.KeyAlgorithm, Bits: facts.KeyBits}
	if g.key.NSX == "" {
		retired, err := g.service.retired(ctx)
		if err != nil {
			return KeyInfo{}, err
		}
		for _, old := range retired {
			if v, err := old.keyVersion(); err == nil && v.Version < info.Latest {
				info.Versions = append(info.Versions, v)
			}
		}
		slices.SortFunc(info.Versions, func(a, b KeyVersion) int { return cmp.Compare(a.Version, b.Version) })
	}
	latest, err := p.keyVersion()
	info.Versions = append(info.Versions, latest)
	return info, err
}

// keyVersion is the public side of a stored certificate.
func (p payload) keyVersion() (KeyVersion, error) {
	facts := p.facts()
	if len(facts) == 0 {
		return KeyVersion{}, fmt.Errorf("%s: the payload holds no certificate", p.ID)
	}
	public, err := facts[0].Key()
	if err != nil {
		return KeyVersion{}, err
	}
	id, err := pkcs10.Thumbprint(public)
	return KeyVersion{p.version(), id, public, p.Created, p.PEM}, err
}

func (p payload) version() int { return max(1, p.Version) }

// KeyNames returns the names of the keys that a caller may sign with, that of the
// attestation key first: at most 1,000.
//
// Errors: Unavailable, Internal.
func (s *Service) KeyNames(ctx context.Context, caller Caller) ([]KeyName, error) {
	var names []KeyName
	if caller.mayUse(ReadKey, KeyName{}) {
		names = append(names, KeyName{})
	}
	if caller.Keys == nil && !caller.mayUse(ReadKey, KeyName{NSX: "any"}) {
		return names, nil
	}
	items, err := s.keys.List(ctx, keystore.Query{Collection: collectionCertificates, Limit: maxPage})
	if err != nil {
		return nil, classify(err)
	}
	for _, item := range items {
		key := KeyName{NSX: item.Slot.ID}
		p, err := decodePayload(item.Record)
		if item.Err == nil && err == nil && maySign(p) == nil && caller.mayUse(ReadKey, key) {
			names = append(names, key)
		}
	}
	return names, nil
}

// maxRates is how many callers' rates are remembered. Users are few; the bound is for
// those of many systems.
const maxRates = 10_000

// rates bounds how many signatures each caller gets: per second as many as limit. Who has
// one left gets a whole batch, and waits the longer after that.
type rates struct {
	limit float64 // 0: no bound

	mu      sync.Mutex
	callers map[string]*rate.Limiter
}

// take takes n signatures of a caller, or returns after how long there will be as many.
func (r *rates) take(caller string, n int, now time.Time) (wait time.Duration) {
	if r.limit <= 0 {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	limiter := r.callers[caller]
	if limiter == nil {
		if len(r.callers) >= maxRates {
			r.forget(now)
		}
		limiter = rate.NewLimiter(rate.Limit(r.limit), max(1, int(r.limit)))
		r.callers[caller] = limiter
	}
	first := limiter.ReserveN(now, 1)
	if wait = first.DelayFrom(now); wait > 0 {
		first.CancelAt(now)
		return wait
	}
	for n--; n > 0; n -= limiter.Burst() {
		limiter.ReserveN(now, min(n, limiter.Burst()))
	}
	return 0
}

// forget drops the callers that have their whole burst, or else all: who has waited gets
// no more from that than one burst.
func (r *rates) forget(now time.Time) {
	for caller, limiter := range r.callers {
		if limiter.TokensAt(now) >= float64(limiter.Burst()) {
			delete(r.callers, caller)
		}
	}
	if len(r.callers) >= maxRates {
		clear(r.callers)
	}
}

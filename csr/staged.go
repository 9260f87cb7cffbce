package csr

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// A certificate that was set is staged where Config.ActivateAfter says so: its key is
// published and does not sign yet, so that verifiers know it before they meet it. The
// time counts from the commit that made the CSR, which is when the key was published.

func stagedSlot() keystore.Slot {
	return keystore.Slot{Collection: "esx/attestation", ID: "staged"}
}

// The operations of the service itself on a staged certificate.
const (
	opActivate = "certificate.activate"
	opUnstage  = "certificate.unstage"
)

const (
	// publishing is how long an answer with the keys of before may be under way.
	publishing = time.Second
	// slowestCommit is how long the commit of a CSR takes at most, beside one that was
	// seen to take longer.
	slowestCommit = time.Minute
)

// visibleSince remembers when this process committed the pending CSR. Its record has the
// time before the commit.
type visibleSince struct {
	start time.Time // of the process: a CSR that was there is older

	mu       sync.Mutex
	revision uint64
	at       time.Time
}

func (p *visibleSince) committed(revision uint64, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision, p.at = revision, at
}

// of returns when the CSR with a revision was visible to everybody at the latest.
func (p *visibleSince) of(revision uint64, created time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if revision == p.revision {
		return p.at
	}
	if late := created.Add(slowestCommit); late.Before(p.start) {
		return late
	}
	return p.start
}

// activation is when a certificate for the pending CSR becomes active.
func (s *Service) activation(v verdict) time.Time {
	if s.activateAfter == 0 {
		return time.Time{}
	}
	return s.visible.of(v.revision, v.held.Created).Add(s.activateAfter + publishing)
}

// retire adds to the change of the installed slot what is remembered of the pair that it
// replaces, and removes what is remembered too long already. A pair that cannot be read
// leaves nothing.
func (s *Service) retire(ctx context.Context, old keystore.Record, event *audit.Event) (companions []keystore.Companion, version int, err error) {
	p, err := decodePayload(old)
	if err != nil {
		return nil, 1, nil //nolint:nilerr // the event says that it cannot be read
	}
	version = p.version() + 1
	known, err := p.keyVersion()
	if err == nil && s.publish.Enabled && s.publish.Retain > 0 {
		p.Facts, p.Version, p.Retired = p.facts(), p.version(), s.now().UTC()
		c, err := companionOf(retiredSlot(known.KeyID), p)
		if err != nil {
			return nil, 0, err
		}
		companions = append(companions, c)
	}
	gone, err := s.expired(ctx)
	if err != nil {
		return nil, 0, err
	}
	companions = append(companions, gone...)
	for _, c := range companions {
		beside := audit.Beside{Slot: c.Slot.String()}
		if !c.Delete {
			sum := sha256.Sum256(c.Payload)
			beside.Payload = hex.EncodeToString(sum[:])
		}
		event.Beside = append(event.Beside, beside)
	}
	return companions, version, nil
}

// companionOf is the record of a payload that has no key any more.
func companionOf(slot keystore.Slot, p payload) (keystore.Companion, error) {
	encoded, err := p.encode()
	return keystore.Companion{
		Target: keystore.Target{Slot: slot}, Payload: encoded,
		Index: []keystore.IndexEntry{{Name: indexRetired, Value: sortable(p.Retired)}},
	}, err
}

// removeStaged adds the removal of the staged pair, where there is one.
func (s *Service) removeStaged(ctx context.Context, companions []keystore.Companion, event *audit.Event) ([]keystore.Companion, error) {
	record, err := s.keys.Get(ctx, stagedSlot())
	switch {
	case errors.Is(err, keystore.ErrNotFound):
		return companions, nil
	case err != nil && !errors.Is(err, keystore.ErrUnauthentic):
		return nil, err
	}
	event.Beside = append(event.Beside, audit.Beside{Slot: stagedSlot().String()})
	return append(companions, keystore.Companion{Target: keystore.Target{Slot: stagedSlot(), Expect: keystore.At(record.Revision)}, Delete: true}), nil
}

// Staged says what is staged.
type Staged struct {
	Since, Due  time.Time // when it was set, and when it becomes active
	Certificate pkcs10.Facts
}

// Staged returns what is staged, or nil.
//
// Errors: Unavailable, Internal.
func (s *Service) Staged(ctx context.Context) (*Staged, error) {
	p, _, err := s.stagedPair(ctx)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, classify(err)
	}
	return &Staged{p.Created, p.Due, p.facts()[0]}, nil
}

func (s *Service) stagedPair(ctx context.Context) (payload, uint64, error) {
	record, err := s.keys.Get(ctx, stagedSlot())
	if err != nil {
		return payload{}, 0, err
	}
	p, err := decodePayload(record)
	if err == nil && len(p.facts()) == 0 {
		err = fmt.Errorf("%s: the payload holds no certificate", record.Slot)
	}
	return p, record.Revision, err
}

// Activate installs the staged pair when it is due, and returns when there is one that is
// due later; zero: there is none. The pair that was installed is retired in the same
// commit. A crash leaves the old state or the new one, and the next call does the rest.
//
// Errors: Unavailable, Internal.
func (s *Service) Activate(ctx context.Context) (time.Time, error) {
	var err error
	for range maxAttempts {
		var p payload
		var revision uint64
		p, revision, err = s.stagedPair(ctx)
		if errors.Is(err, keystore.ErrNotFound) {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, classify(err)
		}
		if s.now().Before(p.Due) {
			return p.Due, nil
		}
		if err = s.activate(ctx, p, revision); err == nil {
			s.log.InfoContext(ctx, "the staged certificate is active", "sha256", p.facts()[0].SHA256, "subject", p.facts()[0].Subject)
		}
		if !errors.Is(err, keystore.ErrConflict) && !errors.Is(err, keystore.ErrNotFound) {
			break
		}
	}
	return time.Time{}, classify(err)
}

func (s *Service) activate(ctx context.Context, p payload, revision uint64) error {
	g := &Grant{service: s, operation: opActivate, caller: Caller{Request: audit.ByService()}}
	to, old, event := g.over(ctx, installedSlot())
	to.Expect = keystore.At(old.Revision)
	companions, version, err := s.retire(ctx, old, &event)
	if err != nil {
		return err
	}
	p.Version, p.Due = version, time.Time{}
	event.From = stagedSlot().String()
	_, err = s.keys.Move(ctx, keystore.Target{Slot: stagedSlot(), Expect: keystore.At(revision)}, to,
		func(crypto.Signer, keystore.Record) (keystore.Change, error) {
			change, err := s.change(p, event)
			change.Companions = companions
			return change, err
		})
	s.published.forget()
	return err
}

// Unstage withdraws the staged pair: its key is destroyed. Who asks for it is in the
// trail.
//
// Errors: NotFound; Conflict when it kept changing; Unavailable, Internal.
func (s *Service) Unstage(ctx context.Context, who audit.Request) error {
	g := &Grant{service: s, operation: opUnstage, caller: Caller{Request: who}}
	err := cmp.Or(s.audit.Admit(ctx), g.remove(ctx, stagedSlot()))
	s.published.forget()
	return classify(err)
}

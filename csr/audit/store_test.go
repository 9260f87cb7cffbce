package audit_test

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

// store is a real store of keys, and its outbox.
type store struct {
	*bolt.Store
	keys *keystore.Keystore
	t    testing.TB
}

// openStore opens the store at a path, in which vault has the keys, as a start does.
func openStore(t testing.TB, path string, vault *keystoretest.Vault, mac keystore.MAC) (*store, error) {
	t.Helper()
	b, err := bolt.Open(path, bolt.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	keys, err := keystore.Open(t.Context(), keystore.Options{Store: b, Custodian: vault.Reopen(), MAC: mac, Logger: slog.New(slog.DiscardHandler), Processors: 1})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &store{b, keys, t}, nil
}

func (s *store) Close() error { return s.keys.Close() }

func slotOf(id string) keystore.Slot { return keystore.Slot{Collection: "c", ID: id} }

// put gives a slot a new key and a payload.
func (s *store) put(note []byte, id string, payload []byte) {
	s.t.Helper()
	_, err := s.keys.Replace(s.t.Context(), keystore.Target{Slot: slotOf(id)}, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256},
		func(crypto.Signer) (keystore.Change, error) {
			return keystore.Change{Payload: payload, Note: note}, nil
		})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) remove(note []byte, id string) {
	s.t.Helper()
	if err := s.keys.Delete(s.t.Context(), keystore.Target{Slot: slotOf(id)}, note); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) checkNote(revision uint64, previous, code, note []byte) error {
	return s.keys.CheckNote(keystore.Note{Revision: revision, Previous: previous, Code: code, Text: note})
}

func (s *store) state(ctx context.Context, fn func(slot string, revision uint64, digest [32]byte, err error) error) (audit.Snapshot, error) {
	var each func(keystore.Slot, uint64, [32]byte, error) error
	if fn != nil {
		each = func(slot keystore.Slot, revision uint64, digest [32]byte, err error) error {
			return fn(slot.String(), revision, digest, err)
		}
	}
	found, err := s.keys.Inspect(ctx, each)
	if err != nil {
		return audit.Snapshot{}, err
	}
	state := audit.Snapshot{Revision: found.Revision, Head: found.Head, Anchors: found.Anchors}
	for _, n := range found.Notes {
		one := audit.Note{Revision: n.Revision, Previous: n.Previous, Code: n.Code, Text: n.Text}
		if err := s.keys.CheckNote(n); err != nil {
			one.Problem = err.Error()
		}
		state.Notes = append(state.Notes, one)
	}
	return state, nil
}

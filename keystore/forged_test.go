package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
	"attestcsr/test/forge"
)

// attacked is a Keystore whose file is edited while it is closed.
type attacked struct {
	*keystore.Keystore
	dir, purpose string
	vault        *keystoretest.Vault // nil: keys are sealed into the records
	calls        *calls
	named        string // the key that the record in slot a names after the attack
	log          *bytes.Buffer
}

// calls is a custodian that remembers which references it was given.
type calls struct {
	keystore.Custodian
	opened, rebound, destroyed []string
}

func (c *calls) Open(ctx context.Context, at keystore.Binding, ref keystore.Ref) (crypto.Signer, error) {
	c.opened = append(c.opened, string(ref))
	return c.Custodian.Open(ctx, at, ref)
}

func (c *calls) Rebind(ctx context.Context, from, to keystore.Binding, ref keystore.Ref) (keystore.Ref, error) {
	c.rebound = append(c.rebound, string(ref))
	return c.Custodian.Rebind(ctx, from, to, ref)
}

func (c *calls) Destroy(ctx context.Context, ref keystore.Ref) error {
	c.destroyed = append(c.destroyed, string(ref))
	return c.Custodian.Destroy(ctx, ref)
}

// custodies are the two kinds of custodians: one keeps keys, one seals them into records.
var custodies = map[string]func() *keystoretest.Vault{
	"keys at the custodian": keystoretest.NewVault,
	"keys in the records":   func() *keystoretest.Vault { return nil },
}

// filled opens a new Keystore with four records, which the index "order" has in reverse.
func filled(t *testing.T, vault *keystoretest.Vault) *attacked {
	t.Helper()
	k := &attacked{dir: t.TempDir(), purpose: "stored records 1", vault: vault, log: &bytes.Buffer{}}
	if err := k.open(t); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, slot := range []keystore.Slot{a, b, c, elsewhere} {
		_, err := k.Replace(t.Context(), keystore.Target{Slot: slot}, spec, func(signer crypto.Signer) (keystore.Change, error) {
			change, err := publicKey(signer)
			change.Index = []keystore.IndexEntry{{Name: "order", Value: []byte{byte('z' - i)}}, {Name: "kind", Value: []byte("same")}}
			change.Note = []byte("note of " + slot.ID)
			return change, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return k
}

var (
	c         = keystore.Slot{Collection: "c", ID: "c"}
	elsewhere = keystore.Slot{Collection: "d", ID: "a"}
)

func (k *attacked) open(t *testing.T) error {
	t.Helper()
	store, err := bolt.Open(k.file(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := keystore.Options{Store: store, MAC: testMAC, Logger: slog.New(slog.NewTextHandler(k.log, nil))}
	if k.vault == nil {
		custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(k.dir, "keyset.json"), Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if o.MAC, err = custodian.MAC(k.purpose); err != nil {
			t.Fatal(err)
		}
		k.calls = &calls{Custodian: custodian}
	} else {
		k.calls = &calls{Custodian: k.vault.Reopen()}
	}
	o.Custodian = k.calls
	opened, err := keystore.Open(t.Context(), o)
	if err == nil {
		k.Keystore = opened
	}
	return err
}

func (k *attacked) file() string { return filepath.Join(k.dir, "store.db") }

// attack edits the file of a closed Keystore and opens it again.
func (k *attacked) attack(t *testing.T, edit func(*forge.Store)) {
	t.Helper()
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	forge.Edit(t, k.file(), func(s *forge.Store) {
		edit(s)
		k.named = string(s.Get(a).Ref)
	})
	if err := k.open(t); err != nil {
		t.Fatal(err)
	}
	k.calls.opened = nil // of the canary
}

// change is an edit of one record, without its code.
func change(slot keystore.Slot, fn func(*keystore.Record)) func(*forge.Store) {
	return func(s *forge.Store) {
		r := s.Get(slot)
		s.Delete(slot) // with the index entries that it had
		fn(&r)
		r.Slot = slot
		s.Put(r)
	}
}

// from gives the record of slot a parts of another one.
func from(other keystore.Slot, fn func(r *keystore.Record, other keystore.Record)) func(*forge.Store) {
	return func(s *forge.Store) {
		o := s.Get(other)
		change(a, func(r *keystore.Record) { fn(r, o) })(s)
	}
}

// forgeries leave in slot a what no holder of the keyset wrote there. Other records stay.
var forgeries = map[string]func(*forge.Store){
	"payload":            change(a, func(r *keystore.Record) { r.Payload[0] ^= 1 }),
	"longer payload":     change(a, func(r *keystore.Record) { r.Payload = append(r.Payload, 0) }),
	"payload of another": from(b, func(r *keystore.Record, o keystore.Record) { r.Payload = o.Payload }),
	"payload and code":   from(b, func(r *keystore.Record, o keystore.Record) { r.Payload, r.Code = o.Payload, o.Code }),
	"key of another":     from(b, func(r *keystore.Record, o keystore.Record) { r.Ref = o.Ref }),
	"no key":             change(a, func(r *keystore.Record) { r.Ref = nil }),
	"pair of another":    from(b, func(r *keystore.Record, o keystore.Record) { r.Ref, r.Payload = o.Ref, o.Payload }),
	"another":            from(b, func(r *keystore.Record, o keystore.Record) { *r = o }),
	"same id elsewhere":  from(elsewhere, func(r *keystore.Record, o keystore.Record) { *r = o }),
	"index value":        change(a, func(r *keystore.Record) { r.Index[1].Value = []byte{'a'} }),
	"index name":         change(a, func(r *keystore.Record) { r.Index[0].Name = "kind2" }),
	"index entry more":   change(a, func(r *keystore.Record) { r.Index = append(r.Index, keystore.IndexEntry{Name: "z"}) }),
	"index entry less":   change(a, func(r *keystore.Record) { r.Index = r.Index[:1] }),
	"no code":            change(a, func(r *keystore.Record) { r.Code = nil }),
	"short code":         change(a, func(r *keystore.Record) { r.Code = r.Code[:35] }),
	"long code":          change(a, func(r *keystore.Record) { r.Code = append(r.Code, 0) }),
	"code of zeros":      change(a, func(r *keystore.Record) { clear(r.Code) }),
	"unknown key":        change(a, func(r *keystore.Record) { r.Code[0] ^= 1 }),
	"code of a note":     func(s *forge.Store) { change(a, func(r *keystore.Record) { r.Code = s.Notes()[0].Code })(s) },
}

// eachForgery runs a test with every forgery and both kinds of custodians.
func eachForgery(t *testing.T, test func(*testing.T, *attacked)) {
	t.Helper()
	for kind, vault := range custodies {
		for name, edit := range forgeries {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				k := filled(t, vault())
				k.attack(t, edit)
				test(t, k)
			})
		}
	}
}

// A forged record is never read, and no key is opened for it.
func TestForgedRecords(t *testing.T) {
	t.Parallel()
	eachForgery(t, func(t *testing.T, k *attacked) {
		ctx := t.Context()
		got, err := k.Get(ctx, a)
		wantUnauthentic(t, "Get", err)
		if got.Slot != a || got.Revision == 0 || len(got.Payload)+len(got.Ref)+len(got.Index)+len(got.Code) > 0 {
			t.Errorf("Get: %+v", got)
		}
		wantUnauthentic(t, "Use", k.Use(ctx, a, func(crypto.Signer, keystore.Record) ([]byte, error) {
			t.Error("its key is used")
			return nil, nil
		}))
		_, err = k.Move(ctx, keystore.Target{Slot: a}, keystore.Target{Slot: b}, func(crypto.Signer, keystore.Record) (keystore.Change, error) {
			t.Error("its key is moved")
			return keystore.Change{}, nil
		})
		wantUnauthentic(t, "Move", err)
		_, err = k.Update(ctx, keystore.Target{Slot: a}, keystore.Change{Payload: []byte("x")})
		wantUnauthentic(t, "Update", err)
		wantUnauthentic(t, "Ready", k.Ready(ctx, b, a))
		if len(k.calls.opened) != 2 || len(k.calls.rebound)+len(k.calls.destroyed) != 0 { // the canary and b
			t.Errorf("keys were opened: %q, bound again: %q, destroyed: %q", k.calls.opened, k.calls.rebound, k.calls.destroyed)
		}
		if err := k.Ready(ctx, b, c, elsewhere); err != nil {
			t.Errorf("Ready without it: %v", err)
		}
		k.wantLists(t)
		k.wantInspected(t)
		if !strings.Contains(k.log.String(), "slot=c/a") {
			t.Errorf("log: %s", k.log)
		}
		before := k.unauthentic(t)
		_, err = k.Get(ctx, a)
		wantUnauthentic(t, "Get", err)
		if n := k.unauthentic(t) - before; n != 1 {
			t.Errorf("one was read, %v are counted", n)
		}
	})
}

// unauthentic is the metric.
func (k *attacked) unauthentic(t *testing.T) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(k.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "attestcsr_store_unauthentic_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("no such metric")
	return 0
}

// wantUnauthentic wants the error that names slot a.
func wantUnauthentic(t *testing.T, what string, err error) {
	t.Helper()
	wantError(t, what, err, keystore.ErrUnauthentic)
	if err != nil && !strings.HasPrefix(err.Error(), "c/a: ") {
		t.Errorf("%s: the error does not name the slot: %v", what, err)
	}
}

// wantLists goes through the pages of a collection in every order: each record is there
// once, the forged one without its content.
func (k *attacked) wantLists(t *testing.T) {
	t.Helper()
	for _, index := range []string{"", "order"} {
		for _, limit := range []int{1, 2, 9} {
			for _, descending := range []bool{false, true} {
				q := keystore.Query{Collection: "c", Index: index, Limit: limit, Descending: descending}
				var ids, failed []string
				for range 5 {
					items, err := k.List(t.Context(), q)
					if err != nil {
						t.Fatal(err)
					}
					for _, item := range items {
						ids, q.After = append(ids, item.Slot.ID), item.Position
						if item.Err != nil {
							wantUnauthentic(t, "List", item.Err)
							failed = append(failed, item.Slot.ID)
						}
						if (item.Err == nil) != (len(item.Payload) > 0) || item.Revision == 0 || len(item.Ref) > 0 {
							t.Errorf("listed: %+v", item)
						}
					}
				}
				slices.Sort(ids)
				if got := fmt.Sprint(ids, failed); got != "[a b c] [a]" && (index == "" || got != "[b c] []") {
					t.Errorf("%+v: listed and unreadable: %s", q, got)
				}
			}
		}
	}
}

// wantInspected wants every record but the canary, and a reason for the forged one alone.
func (k *attacked) wantInspected(t *testing.T) {
	t.Helper()
	seen := map[keystore.Slot]bool{}
	_, err := k.Inspect(t.Context(), func(slot keystore.Slot, revision uint64, _ [32]byte, err error) error {
		seen[slot] = err == nil
		if slot == a {
			wantUnauthentic(t, "Inspect", err)
		}
		if revision == 0 {
			t.Errorf("%s has no revision", slot)
		}
		return nil
	})
	if err != nil || len(seen) != 4 || seen[a] || !seen[b] || !seen[c] || !seen[elsewhere] {
		t.Errorf("inspected: %v, %v", seen, err)
	}
}

// What replaces or removes a forged record works, and never destroys the key that the
// record names: it may be another one's.
func TestForgedRecordsAreReplaced(t *testing.T) {
	t.Parallel()
	verbs := []func(context.Context, *attacked, keystore.Target) error{
		func(ctx context.Context, k *attacked, at keystore.Target) error { return k.Delete(ctx, at, nil) },
		func(ctx context.Context, k *attacked, at keystore.Target) error {
			_, err := k.Replace(ctx, at, spec, publicKey)
			return err
		},
		func(ctx context.Context, k *attacked, at keystore.Target) error {
			_, err := k.Move(ctx, keystore.Target{Slot: elsewhere}, at, keep)
			return err
		},
	}
	eachForgery(t, func(t *testing.T, k *attacked) {
		for i, verb := range verbs {
			if i > 0 {
				k.attack(t, func(s *forge.Store) { from(b, func(r *keystore.Record, o keystore.Record) { r.Ref = o.Ref })(s) })
			}
			r, _ := k.Get(t.Context(), a)
			wantError(t, "other revision", verb(t.Context(), k, keystore.Target{Slot: a, Expect: keystore.At(r.Revision + 1)}), keystore.ErrConflict)
			k.calls.destroyed = nil
			if err := verb(t.Context(), k, keystore.Target{Slot: a, Expect: keystore.At(r.Revision)}); err != nil {
				t.Fatalf("verb %d: %v", i, err)
			}
			if slices.Contains(k.calls.destroyed, k.named) {
				t.Errorf("verb %d: the key that the record names was destroyed", i)
			}
			k.wantKeyOf(t, b)
			if i == 0 {
				if _, err := k.Replace(t.Context(), keystore.Target{Slot: a, Expect: keystore.Absent}, spec, publicKey); err != nil {
					t.Fatal(err)
				}
			}
			k.wantKeyOf(t, a)
		}
		if k.vault == nil {
			return
		}
		k.attack(t, func(*forge.Store) {}) // the next start destroys the keys that nobody has
		if n := len(k.vault.Account().Bound); n != 4 {
			t.Errorf("%d keys are kept for 4 records", n)
		}
	})
}

// wantKeyOf wants a slot to hold its own key.
func (k *attacked) wantKeyOf(t *testing.T, slot keystore.Slot) {
	t.Helper()
	err := k.Use(t.Context(), slot, func(signer crypto.Signer, r keystore.Record) ([]byte, error) {
		if change, err := publicKey(signer); err != nil || !bytes.Equal(change.Payload, r.Payload) {
			t.Errorf("%s holds another key, %v", slot, err)
		}
		return nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}

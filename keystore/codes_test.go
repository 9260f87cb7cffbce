package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"reflect"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/test/forge"
)

// giving is a store that gives out another record than it holds.
type giving struct {
	keystore.Store
	record *keystore.Record // nil: its own
}

func (g *giving) Get(ctx context.Context, slot keystore.Slot) (keystore.Record, error) {
	if g.record != nil && slot == g.record.Slot {
		return *g.record, nil
	}
	return g.Store.Get(ctx, slot)
}

// openGiving opens a Keystore with a record in slot a, which it returns as stored.
func openGiving(t testing.TB) (*fixture, *giving, keystore.Record) {
	t.Helper()
	g := &giving{}
	f := openFixture(t, func(o *keystore.Options) { g.Store, o.Store = o.Store, g })
	_, err := f.Replace(t.Context(), keystore.Target{Slot: a}, spec, func(crypto.Signer) (keystore.Change, error) {
		index := []keystore.IndexEntry{{Name: "name", Value: []byte("value\x00other\x00x")}, {Name: "more", Value: []byte("x")}}
		return keystore.Change{Payload: []byte("the same in every process"), Index: index}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := g.Store.Get(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return f, g, r
}

// clone shares no memory with r.
func clone(r keystore.Record) keystore.Record {
	r.Ref, r.Payload, r.Code = bytes.Clone(r.Ref), bytes.Clone(r.Payload), bytes.Clone(r.Code)
	index := r.Index
	r.Index = nil
	for _, e := range index {
		r.Index = append(r.Index, keystore.IndexEntry{Name: e.Name, Value: bytes.Clone(e.Value)})
	}
	return r
}

// TestEveryByteIsAuthenticated: no bit of a record can be changed, and nothing can be
// moved from one part of it to the next.
func TestEveryByteIsAuthenticated(t *testing.T) {
	t.Parallel()
	f, g, stored := openGiving(t)
	tried := 0
	try := func(what string, edit func(*keystore.Record)) {
		tried++
		r := clone(stored)
		edit(&r)
		g.record = &r
		if _, err := f.Get(t.Context(), r.Slot); !errors.Is(err, keystore.ErrUnauthentic) {
			t.Errorf("%s: %v", what, err)
		}
		if err := f.Use(t.Context(), r.Slot, func(crypto.Signer, keystore.Record) ([]byte, error) { return nil, nil }); !errors.Is(err, keystore.ErrUnauthentic) {
			t.Errorf("%s: Use: %v", what, err)
		}
	}
	for what, part := range map[string]func(*keystore.Record) []byte{
		"reference": func(r *keystore.Record) []byte { return r.Ref },
		"payload":   func(r *keystore.Record) []byte { return r.Payload },
		"value":     func(r *keystore.Record) []byte { return r.Index[1].Value },
		"code":      func(r *keystore.Record) []byte { return r.Code },
	} {
		for i := range part(&stored) {
			for bit := range 8 {
				try(what, func(r *keystore.Record) { part(r)[i] ^= 1 << bit })
			}
		}
	}
	try("name", func(r *keystore.Record) { r.Index[0].Name = "morf" })
	try("collection", func(r *keystore.Record) { r.Slot.Collection = "C" })
	try("id", func(r *keystore.Record) { r.Slot.ID = "b" })
	try("from the reference to the payload", func(r *keystore.Record) {
		at := len(r.Ref) - 1
		r.Payload, r.Ref = append(bytes.Clone(r.Ref[at:]), r.Payload...), r.Ref[:at]
	})
	try("from the payload to the reference", func(r *keystore.Record) {
		r.Ref, r.Payload = append(r.Ref, r.Payload[0]), r.Payload[1:]
	})
	try("from the name to the value", func(r *keystore.Record) { r.Index[0] = keystore.IndexEntry{Name: "mor", Value: []byte("ex")} })
	try("from the value to the name", func(r *keystore.Record) { r.Index[0] = keystore.IndexEntry{Name: "morex"} })
	try("from the id to the collection", func(r *keystore.Record) { r.Slot = keystore.Slot{Collection: "ca", ID: "b"} })
	try("one entry in two", func(r *keystore.Record) {
		r.Index[1].Value = []byte("value")
		r.Index = append(r.Index, keystore.IndexEntry{Name: "other", Value: []byte("x")})
	})
	try("order of the entries", func(r *keystore.Record) { r.Index[0], r.Index[1] = r.Index[1], r.Index[0] })
	if want := 8 * (len(stored.Ref) + len(stored.Payload) + len(stored.Code)); tried < want {
		t.Errorf("%d were tried, want %d", tried, want)
	}
	g.record = &stored
	if _, err := f.Get(t.Context(), a); err != nil {
		t.Errorf("the record as it was: %v", err)
	}
}

// FuzzForgedRecord: only what was stored is authentic, whatever an attacker writes.
func FuzzForgedRecord(f *testing.F) {
	k, g, stored := openGiving(f)
	seed := func(edit func(*keystore.Record)) {
		r := clone(stored)
		edit(&r)
		f.Add(r.Slot.Collection, r.Slot.ID, r.Revision, []byte(r.Ref), r.Payload, r.Index[0].Name, r.Index[0].Value, r.Index[1].Name, r.Index[1].Value, r.Code)
	}
	seed(func(*keystore.Record) {})
	seed(func(r *keystore.Record) { r.Revision++ })
	seed(func(r *keystore.Record) { r.Code = nil })
	seed(func(r *keystore.Record) { r.Code = r.Code[:5] })
	seed(func(r *keystore.Record) { r.Payload = nil })
	f.Fuzz(func(t *testing.T, collection, id string, revision uint64, ref, payload []byte, name string, value []byte, name2 string, value2, code []byte) {
		r := keystore.Record{
			Slot: keystore.Slot{Collection: collection, ID: id}, Revision: revision, Ref: ref, Payload: payload, Code: code,
			Index: []keystore.IndexEntry{{Name: name, Value: value}, {Name: name2, Value: value2}},
		}
		g.record = &r
		got, err := k.Get(t.Context(), r.Slot)
		same := r
		same.Revision = stored.Revision
		switch equal := reflect.DeepEqual(clone(same), clone(stored)); {
		case err == nil && !equal:
			t.Errorf("believed: %+v", r)
		case equal && err != nil:
			t.Errorf("what was stored: %v", err)
		case err != nil && (!errors.Is(err, keystore.ErrUnauthentic) || len(got.Payload) > 0):
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// TestOtherKeys: a record is not believed that another service wrote, or this one for
// another purpose. A wrong canary is found at the start.
func TestOtherKeys(t *testing.T) {
	t.Parallel()
	other := filled(t, nil)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	var theirs keystore.Record
	forge.Edit(t, other.file(), func(s *forge.Store) { theirs = s.Get(a) })
	k := filled(t, nil)
	k.attack(t, change(a, func(r *keystore.Record) { *r = theirs }))
	_, err := k.Get(t.Context(), a)
	wantUnauthentic(t, "Get", err)
	k.wantKeyOf(t, b)

	k.purpose = "audit trail 1"
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	err = k.open(t)
	wantError(t, "Open", err, keystore.ErrUnauthentic)
	if err == nil || !strings.Contains(err.Error(), "keystore/canary: ") {
		t.Errorf("Open: %v", err)
	}
}

// TestForgedNotes: what each edit of the outbox leaves, as a reader of the chain sees it:
// notes by their texts, "!" after one whose code does not fit, "…" where notes are missing.
func TestForgedNotes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		edit func([]keystore.Note) []keystore.Note
		want string
	}{
		"none":           {func(n []keystore.Note) []keystore.Note { return n }, "a b c a"},
		"first dropped":  {func(n []keystore.Note) []keystore.Note { return n[1:] }, "… b c a"},
		"one dropped":    {func(n []keystore.Note) []keystore.Note { return append(n[:1], n[2:]...) }, "a … c a"},
		"newest dropped": {func(n []keystore.Note) []keystore.Note { return n[:3] }, "a b c …"},
		"all dropped":    {func([]keystore.Note) []keystore.Note { return nil }, "…"},
		"changed":        {func(n []keystore.Note) []keystore.Note { n[1].Text = []byte("note of x"); return n }, "a x! c a"},
		"other revision": {func(n []keystore.Note) []keystore.Note { n[3].Revision++; return n }, "a b c a!"},
		"swapped": {func(n []keystore.Note) []keystore.Note {
			n[1].Revision, n[2].Revision = n[2].Revision, n[1].Revision
			return n
		}, "a … c! … b! … a"},
		"added at the end": {func(n []keystore.Note) []keystore.Note {
			return append(n, keystore.Note{Revision: 99, Previous: n[3].Code, Code: n[3].Code, Text: []byte("note of x")})
		}, "a b c a x!"},
		"repeated": {func(n []keystore.Note) []keystore.Note {
			n[0].Revision, n[0].Previous = 99, n[3].Code
			return append(n[1:], n[0])
		}, "… b c a a! …"},
		"chained anew": {func(n []keystore.Note) []keystore.Note {
			n[2].Previous = n[0].Code
			return append(n[:1], n[2:]...)
		}, "a c! a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := filled(t, keystoretest.NewVault())
			k.attack(t, func(s *forge.Store) {
				s.SetNotes(test.edit(s.Notes())...)
				s.SetRevision(99)
			})
			if got := k.chain(t); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			// The next note goes on from the head that the store has on record.
			if err := k.Note(t.Context(), []byte("note of new")); err != nil {
				t.Fatal(err)
			}
			if got, want := k.chain(t), test.want+" new"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// chain is what TestForgedNotes compares.
func (k *attacked) chain(t *testing.T) string {
	t.Helper()
	found, err := k.Inspect(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	var head []byte
	for _, n := range found.Notes {
		if !bytes.Equal(n.Previous, head) {
			text = append(text, "…")
		}
		one := strings.TrimPrefix(string(n.Text), "note of ")
		if err := k.CheckNote(n); errors.Is(err, keystore.ErrUnauthentic) {
			one += "!"
		} else if err != nil {
			t.Fatal(err)
		}
		text, head = append(text, one), n.Code
	}
	if !bytes.Equal(found.Head, head) {
		text = append(text, "…")
	}
	return strings.Join(text, " ")
}
